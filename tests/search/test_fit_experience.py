"""What fits have brought decides what the next ones promise."""

from collections.abc import Callable
from dataclasses import replace

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.cache_plans import even_actions, on_sites
from autotune.search.refits import Refits
from autotune.search.searcher import Result, SearchContext
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Failure, FailureKind
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_step import SolverStep

from .refit_cases import FIDELITY, Fits, result, solver, with_error


def test_corrections_that_win_nothing_make_the_next_one_promise_less(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    promised: list[float] = []

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        promised.append(refits.expected_gain)
        raise ScheduleError("no correction brings held-out prompts closer")

    refits = Refits(replace(context, quick_fit=fit))
    n_calls, sites = context.n_calls, context.inventory.outermost
    for n_refreshed in (4, 6, 9):
        cache = on_sites(even_actions(n_calls, n_refreshed), context.inventory, sites)
        refits.tell([result(context, evaluator, Schedule(n_steps=context.condition.n_steps, cache=cache))])
    before = [chance.gain for chance in refits._chances()]
    assert refits.ask(1) == []
    assert len(promised) == len(before) == 3
    assert sum(promised) < 0.97 * sum(before)


def test_expectations_follow_what_fits_have_brought(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    """A fit that made things worse makes the next one promise less."""
    before = []
    for worse in (False, True):
        refits = Refits(replace(context, quick_fit=Fits(evaluator)))
        refits.tell([result(context, evaluator, solver(context, n)) for n in (5, 10)])
        (proposal,) = refits.ask(1)
        told = result(context, evaluator, proposal.schedule)
        if worse:
            bad = evaluator.score(Schedule(n_steps=2), FIDELITY)
            told = replace(told, outcome=bad)
        refits.tell([told])
        refits.ask(2)  # it is carried first: as it was cheap, it stands on the front in both cases
        before.append(refits.expected_gain)
    assert before[1] < before[0]


def test_fits_at_fewer_and_at_more_steps_let_expect_more_between_them(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    """7 steps would come to .08 at best, as 4 do, if fits left .4 there, too; .03 lies on the line from 4 to 12.

    With a cache that line is out of reach.
    """
    starts: list[int] = []

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        if schedule.cache is not None:
            assert 7 in starts
            raise ScheduleError("not under a cache")
        starts.append(schedule.n_steps)
        if column is not FitColumn.SOLVER or starts.count(schedule.n_steps) > 1:
            raise ScheduleError("once, times and factors")
        rows = tuple(replace(row, output_gain=1.01) for row in schedule.solver or () if isinstance(row, SolverStep))
        return ColumnFit(schedule=replace(schedule, solver=rows), before=0.1, after=0.04, image_runs=260)

    refits = Refits(replace(context, quick_fit=fit))
    errors = {4: 0.2, 7: 0.2, 12: 0.02}
    refits.tell([with_error(result(context, evaluator, solver(context, n)), error) for n, error in errors.items()])
    n_sites = len(context.inventory)
    reused = CachePlan(7, n_sites, bytes(n_sites) + bytes([1]) * 6 * n_sites)
    refits.tell([with_error(result(context, evaluator, replace(solver(context, 7), cache=reused)), 0.9)])
    while proposals := refits.ask(1):
        (proposal,) = proposals
        told = Result(proposal=proposal, outcome=Failure(kind=FailureKind.NAN, reason="not finite"))
        if "carried" not in proposal.label:
            fitted = result(context, evaluator, proposal.schedule)
            told = with_error(replace(fitted, proposal=proposal), 0.4 * errors[proposal.schedule.n_steps])
        refits.tell([told])
    assert set(starts) == {4, 7, 12}
    assert starts.index(7) > max(starts.index(4), starts.index(12))


def test_a_fit_that_changes_nothing_makes_the_next_one_promise_less(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    def known(n: int) -> Schedule:
        return canonical_schedule(solver(context, n), context.inventory)

    def promises(first: Callable[[Schedule], ColumnFit]) -> float:
        promised: list[float] = []

        def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
            promised.append(refits.expected_gain)  # by what was not fitted yet
            return first(schedule)

        refits = Refits(replace(context, quick_fit=fit))
        refits.tell([result(context, evaluator, known(n)) for n in (5, 8, 12)])
        assert refits.ask(1) == []
        assert len(promised) == 9  # times and factors with and without an analytic start, and coefficients
        return sum(promised)

    def refuse(schedule: Schedule) -> ColumnFit:  # which says nothing of fits
        raise ScheduleError("no memory")

    def change_nothing(schedule: Schedule) -> ColumnFit:
        return ColumnFit(schedule=known(schedule.n_steps), before=0.1, after=0.1, image_runs=260)

    assert promises(change_nothing) < 0.97 * promises(refuse)
