from collections.abc import Sequence
from dataclasses import replace

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search import joint as joint_search
from autotune.search.archive import ParetoArchive
from autotune.search.ecad import EcadSearcher
from autotune.search.fewer_steps import FewerStepsSearcher
from autotune.search.joint import PRIOR_GAIN, START_TURNS, JointSearcher
from autotune.search.refits import Refits
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.search.table_evolution import TableEvolution
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def rival_results(context: SearchContext, evaluator: TabulatedEvaluator, n: int) -> list[Result]:
    """The default run and what the rival tries first, as a study does."""
    default = Proposal(schedule=Schedule(n_steps=evaluator.condition.n_steps), family="baseline", label="default")
    results = [Result(proposal=default, outcome=evaluator.score(default.schedule, FIDELITY))]
    rival = FewerStepsSearcher(context)
    while len(results) < n:
        rival.tell(results[-1:])
        (proposal,) = rival.ask(1)
        results.append(Result(proposal=proposal, outcome=evaluator.score(proposal.schedule, FIDELITY)))
    return results


def hypervolume(results: Sequence[Result]) -> float:
    archive = ParetoArchive(("latency", "deviation"))
    for result in results:
        archive.add(result)
    return archive.hypervolume


def run(searcher: Searcher, evaluator: TabulatedEvaluator, known: Sequence[Result], n: int) -> list[Result]:
    results = list(known)
    searcher.tell(results)
    while len(results) < n and (asked := searcher.ask(1)):
        results.append(Result(proposal=asked[0], outcome=evaluator.score(asked[0].schedule, FIDELITY)))
        searcher.tell(results[-1:])
    return results


@pytest.mark.parametrize("seed", [0, 1])
def test_tables_go_beyond_the_rival_where_a_single_column_does_not(
    context: SearchContext, evaluator: TabulatedEvaluator, seed: int
) -> None:
    known = rival_results(context, evaluator, 30)
    tables = run(TableEvolution(context, seed), evaluator, known, 120)
    assert hypervolume(tables) > hypervolume(known) + 0.02
    assert hypervolume(tables) > hypervolume(run(EcadSearcher(context, seed), evaluator, known, 120)) + 0.02
    both = [r.proposal.schedule for r in tables if r.proposal.schedule.cache and r.proposal.schedule.time]
    assert len(both) > 10


def test_plans_start_on_the_best_known_solver(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    known = rival_results(context, evaluator, 30)
    best = min(known, key=lambda r: r.measurement.error if r.measurement else 1.0).proposal.schedule
    assert best.time is not None
    tables = TableEvolution(context, 0)
    tables.tell(known)
    starts = [proposal.schedule for proposal in tables.ask(4)]
    assert [(s.time, s.solver, s.cache is None) for s in starts] == [(best.time, best.solver, False)] * 4
    alone = TableEvolution(context, 0)
    alone.tell(known[:1])
    assert [proposal.schedule.time for proposal in alone.ask(4)] == [None] * 4


class Fixed:
    """Proposes cache plans that reuse one site in one call: good ones, or such as cost more than they bring."""

    def __init__(self, context: SearchContext, calls: Sequence[int]) -> None:
        self._context, self._calls, self.told = context, list(calls), 0

    def ask(self, n: int) -> list[Proposal]:
        if not self._calls:
            return []
        n_calls, n_sites = self._context.n_calls, len(self._context.inventory)
        plan = CachePlan(n_calls, n_sites, bytes(int(i // n_sites == self._calls[0]) for i in range(n_calls * n_sites)))
        schedule = Schedule(n_steps=n_calls, cache=plan)
        return [Proposal(schedule=schedule, family="fixed", label=f"call {self._calls.pop(0)}")]

    def tell(self, results: Sequence[Result]) -> None:
        self.told += len(results)


def test_all_arms_learn_of_all_results_and_a_dry_one_ends_nothing(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    first, second = Fixed(context, range(1, 4)), Fixed(context, range(4, 10))
    joint = JointSearcher(context, 0, {"first": lambda *_: first, "second": lambda *_: second})
    results = run(joint, evaluator, rival_results(context, evaluator, 3), 100)
    assert len(results) == 3 + 9
    assert first.told == second.told == 12
    assert {r.proposal.family for r in results[3:]} == {"joint"}
    assert {r.proposal.label.split(":")[0] for r in results[3:]} == {"first", "second"}


class Unaffordable(Fixed):
    """Needs a recording that the budget has no room for."""

    def ask(self, n: int) -> list[Proposal]:
        raise BudgetSpentError("a recording takes 30 s")


def test_an_arm_that_the_budget_has_no_room_for_ends_alone(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    dear, cheap = Unaffordable(context, [1]), Fixed(context, range(1, 4))
    joint = JointSearcher(context, 0, {"dear": lambda *_: dear, "cheap": lambda *_: cheap})
    assert len(run(joint, evaluator, rival_results(context, evaluator, 3), 100)) == 3 + 3


def test_the_arm_that_gains_gets_most_of_the_budget_and_the_other_still_some(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    known = rival_results(context, evaluator, 30)
    joint = JointSearcher(context, 0, {"tables": TableEvolution, "worst": lambda *_: Fixed(context, range(1, 20))})
    labels = [r.proposal.label.split(":")[0] for r in run(joint, evaluator, known, 110)[30:]]
    assert labels.count("tables") > 2 * labels.count("worst")
    assert "worst" in labels[40:]


@pytest.mark.parametrize(("share", "arm"), [(1.2, "fits"), (0.8, "first")])
def test_fits_come_once_they_expect_more_than_the_mean_of_any_other_arm(
    share: float,
    arm: str,
    context: SearchContext,
    evaluator: TabulatedEvaluator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upper bounds of the others, tried little, lie at twice their means."""
    monkeypatch.setattr(joint_search, "START_TURNS", 0)

    class Promising(Refits):
        expected_gain = share * PRIOR_GAIN

        def ask(self, n: int) -> list[Proposal]:
            return Fixed(context, range(9, 10)).ask(n)

    others = {name: lambda *_: Fixed(context, range(1, 4)) for name in ("first", "second")}
    joint = JointSearcher(context, 0, {**others, "fits": Promising})
    joint.tell(rival_results(context, evaluator, 3))
    assert [p.label.split(":")[0] for p in joint.ask(1)] == [arm]


def test_every_arm_has_some_turns_before_gains_are_weighed(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    """Fits that always promise more than any other arm has brought come after them."""

    class Promising(Refits):
        expected_gain = 1.0

        def ask(self, n: int) -> list[Proposal]:
            return Fixed(context, range(9, 10)).ask(n)

    joint = JointSearcher(context, 0, {**joint_search.ARMS, "fits": Promising})
    results = run(joint, evaluator, rival_results(context, evaluator, 10), 10 + 4 * START_TURNS + 1)
    arms = [r.proposal.label.split(":")[0] for r in results[10:]]
    assert arms == [name for name in ("tables", "ecad", "s3", "policies") for _ in range(START_TURNS)] + ["fits"]
    kinds = {r.proposal.schedule.policy.kind for r in results if r.proposal.schedule.policy is not None}
    assert len(kinds) >= 3


def test_fits_leave_turns_to_the_other_arms_and_edges_are_measured_once(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    asked: list[str] = []

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        asked.append("fit")
        return evaluator.fit(schedule, column, FIDELITY)

    def edge_costs() -> EdgeCosts:
        asked.append("edges")
        return evaluator.edge_costs(FIDELITY, 1)

    watched = replace(context, quick_fit=fit, edge_costs=edge_costs)
    results = run(JointSearcher(watched, 0), evaluator, rival_results(context, evaluator, 10), 120)
    arms = [r.proposal.label.split(":")[0] for r in results[10:]]
    assert asked.count("edges") == 1
    # Here, a fit that was carried to other step counts leaves nothing to fit there, which takes a few tries to learn.
    assert 1 <= asked.count("fit") <= 20
    assert "fits" in arms
    assert min(arms.count(name) for name in ("tables", "ecad", "s3")) >= 5
