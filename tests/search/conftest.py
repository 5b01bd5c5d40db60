import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.ladder import LadderSettings
from autotune.search.searcher import SearchContext
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.study_record import StudyRecord, StudyState
from autotune.storage.database import Database

from .onlooker import Onlooker, OpenStudy, RunStudy, make_loop

CALIBRATION = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def make_plan(budget: Budget | None = None, family: str = "ecad", **changes: object) -> StudyPlan:
    whole = LadderSettings(first=len(CALIBRATION.prompts))
    values: dict[str, object] = {"objectives": ("macs", "deviation"), "ladder": whole} | changes
    return StudyPlan(
        name="s",
        family=family,
        calibration=CALIBRATION,
        held_out=Fidelity(name="held_out", prompts=("a ship", "a deer", "a frog"), seeds=(100, 101, 102)),
        budget=budget or Budget(evaluations=40),
        **values,  # type: ignore[arg-type]
    )


def open_database(path: Path, plan: StudyPlan, evaluator: Evaluator) -> Database:
    database = Database.open(str(path))
    if plan.name not in [summary.name for summary in database.list_studies()]:
        settings = {"objectives": list(plan.objectives), "constraints": [str(c) for c in plan.constraints]}
        database.create_study(
            plan.name, settings=settings, provenance={}, condition=evaluator.condition, inventory=evaluator.inventory
        )
    return database


@pytest.fixture
def evaluator() -> TabulatedEvaluator:
    return TabulatedEvaluator()


@pytest.fixture
def context(evaluator: TabulatedEvaluator) -> SearchContext:
    return SearchContext(
        condition=evaluator.condition,
        inventory=evaluator.inventory,
        own_timesteps=evaluator.own_timesteps,
        fit=lambda schedule, column: evaluator.fit(schedule, column, CALIBRATION),
        quick_fit=lambda schedule, column: evaluator.fit(schedule, column, CALIBRATION, quick=True),
        edge_costs=lambda: evaluator.edge_costs(CALIBRATION, 1),
        branch_tables=lambda: evaluator.branch_tables(CALIBRATION, 1),
        segment_costs=lambda: evaluator.segment_costs(CALIBRATION, 1),
    )


@pytest.fixture
def onlooker() -> Onlooker:
    return Onlooker()


@pytest.fixture
def plan() -> Callable[..., StudyPlan]:
    """A function that makes a plan of 40 evaluations of ecad, unless told otherwise."""
    return make_plan


@pytest.fixture
def open_study(tmp_path: Path) -> Iterator[OpenStudy]:
    """A function that opens the database file of a name, with the plan's study in it."""
    opened: list[Database] = []

    def make(name: str, plan: StudyPlan, evaluator: Evaluator) -> Database:
        opened.append(open_database(tmp_path / f"{name}.db", plan, evaluator))
        return opened[-1]

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def undisturbed(open_study: OpenStudy) -> RunStudy:
    """A function that runs a plan to its end and gives the record; the same plan name goes on in the same file."""

    def run(plan: StudyPlan, name: str = "undisturbed") -> StudyRecord:
        database = open_study(name, plan, TabulatedEvaluator())
        assert make_loop(plan, TabulatedEvaluator(), database, SimulatedClock()).run() is StudyState.DONE
        return database.load_study(plan.name)

    return run


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], StudyRecord]:
    """A function that gives the record of the undisturbed default plan of a family, made once."""

    def run(family: str) -> StudyRecord:
        plan = make_plan(family=family)
        path = tmp_path_factory.mktemp(family) / "study.db"
        with open_database(path, plan, TabulatedEvaluator()) as database:
            make_loop(plan, TabulatedEvaluator(), database, SimulatedClock()).run()
            return database.load_study("s")

    return functools.cache(run)
