"""Studies that are given schedules to start from."""

import dataclasses

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.cache_masks import even_mask, fora_mask
from autotune.search.clock import SimulatedClock
from autotune.search.ecad import EcadSearcher
from autotune.search.given import GivenSearcher
from autotune.search.searcher import Result, SearchContext
from autotune.search.settings import settings_from_json
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.front import RIVAL, relative_cost
from autotune.spaces.given_schedule import GivenSchedule, compare_given, given_from_json, given_hashes
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.study_record import StudyState

from .onlooker import MakePlan, OpenStudy, make_loop
from .test_resume import Stopped, StoppingEvaluator, front_values, hashes

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


@pytest.fixture
def given(context: SearchContext) -> tuple[tuple[str, Schedule], ...]:
    """A good schedule, and one that others dominate."""
    masks = even_mask(context.inventory, context.n_calls, 11), fora_mask(context.inventory, context.n_calls, 7)
    n_steps = context.condition.n_steps
    return tuple((f"re-timed: {m.label}", canonical_schedule(m.schedule(n_steps), context.inventory)) for m in masks)


@pytest.mark.parametrize("family", ["ecad", "s3", "given"])
def test_they_come_first_and_are_measured_on_held_out_prompts(
    family: str, given: tuple[tuple[str, Schedule], ...], open_study: OpenStudy, plan: MakePlan
) -> None:
    study = plan(family=family, given=given)
    database = open_study("given", study, TabulatedEvaluator())
    assert make_loop(study, TabulatedEvaluator(), database, SimulatedClock()).run() is StudyState.DONE
    record = database.load_study("s")
    assert [(c.family, c.label, c.schedule) for c in record.candidates[1:3]] == [("given", *g) for g in given]
    assert all(c.held_out is not None for c in record.candidates[1:3])
    compared = compare_given(record, given_hashes(given))
    assert [one.given.number for one in compared] == [1, 2]
    for one in compared:
        limit = relative_cost(one.given, record)
        assert relative_cost(one.refined, record) <= limit
        assert one.refined.held_out is not None
        assert one.rival is None or (one.rival.family == RIVAL and one.rival.held_out is not None)
        assert one.rival is None or relative_cost(one.rival, record) <= limit
    if family == "ecad":
        assert compared[1].refined.number != 2, "the search finds better than FORA at a seventh"


@pytest.mark.parametrize("n_scores", [1, 2, 3, 9, 30])
def test_a_study_that_broke_down_goes_on_as_an_undisturbed_one(
    n_scores: int, given: tuple[tuple[str, Schedule], ...], open_study: OpenStudy, plan: MakePlan
) -> None:
    study = plan(given=given)
    whole = open_study("whole", study, TabulatedEvaluator())
    make_loop(study, TabulatedEvaluator(), whole, SimulatedClock()).run()
    broken = open_study("broken", study, TabulatedEvaluator())
    with pytest.raises(Stopped):
        make_loop(study, StoppingEvaluator(n_scores), broken, SimulatedClock()).run()
    assert make_loop(study, TabulatedEvaluator(), broken, SimulatedClock()).run() is StudyState.DONE
    assert hashes(broken.load_study("s")) == hashes(whole.load_study("s"))
    assert front_values(broken.load_study("s")) == front_values(whole.load_study("s"))


def test_one_that_is_the_default_run_is_not_measured_twice(open_study: OpenStudy, plan: MakePlan) -> None:
    evaluator = TabulatedEvaluator()
    study = plan(given=(("given: default", Schedule(n_steps=evaluator.condition.n_steps)),))
    database = open_study("same", study, evaluator)
    make_loop(study, evaluator, database, SimulatedClock()).run()
    record = database.load_study("s")
    assert "given" not in {c.family for c in record.candidates}
    (compared,) = compare_given(record, given_hashes(study.given))
    assert compared.given.number == 0


def test_evolution_goes_on_from_them(given: tuple[tuple[str, Schedule], ...], context: SearchContext) -> None:
    """What ecad was told of a given schedule is a parent of its offspring."""
    evaluator = TabulatedEvaluator()
    context = dataclasses.replace(context, given=given)
    results = [Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in GivenSearcher(context).ask(2)]
    assert len(results) == 2
    with_given, without = EcadSearcher(context, 0), EcadSearcher(context, 0)
    with_given.tell(results)
    for searcher in (with_given, without):
        for _ in range(30):
            searcher.tell([Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in searcher.ask(1)])
    assert not set(given_hashes(given)) & {p.schedule_hash for p in with_given.ask(20)}
    assert [p.schedule_hash for p in with_given.ask(5)] != [p.schedule_hash for p in without.ask(5)]


def test_they_are_kept_as_json(given: tuple[tuple[str, Schedule], ...]) -> None:
    one = GivenSchedule(label="l", schedule=given[0][1], source={"model": "m", "deviation": 0.1}, remarks=("a", "b"))
    assert given_from_json(one.to_json()) == one


def test_studies_of_before_have_none() -> None:
    settings = settings_from_json(
        {
            "model": "mini-flux", "family": "ecad", "objectives": ["macs"], "constraints": [], "seed": 0,
            "budget": {"evaluations": 3}, "device": "cpu", "dtype": None, "resolution": None, "steps": None,
            "guidance": None, "calibration": ["a"], "held_out": ["b"],
        }
    )  # fmt: skip
    assert settings.given == ()
    assert settings.plan("s").given == ()
