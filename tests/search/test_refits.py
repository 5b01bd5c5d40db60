from dataclasses import replace

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.cache_plans import even_actions, on_sites
from autotune.search.refits import Refits
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Failure, FailureKind, Measurement
from autotune.spaces.objective import Constraint
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep

from .refit_cases import FIDELITY, Fits, result, solver, with_error


def test_a_member_is_fitted_with_its_cache_and_what_came_of_it_once_more(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    fits = Fits(evaluator)
    refits = Refits(replace(context, quick_fit=fits))
    plan = solver(context, 6)
    cached = replace(plan, cache=on_sites(even_actions(6, 3), context.inventory, context.inventory.outermost))
    refits.tell([result(context, evaluator, cached)])
    (first,) = refits.ask(1)
    assert first.schedule.cache is not None
    assert first.schedule.start is not None
    assert first.label == "analytic start, solver of a"
    refits.tell([result(context, evaluator, first.schedule)])
    *carried, second = refits.ask(3)
    assert [p.schedule.n_steps for p in carried] == [5, 7]
    assert all(p.schedule.cache is not None for p in carried)
    assert [column for _, column in fits.made] == [FitColumn.SOLVER, FitColumn.SOLVER, FitColumn.CORRECTION]
    assert fits.made[2][0] == first.schedule
    refits.tell([result(context, evaluator, second.schedule)])
    while proposals := refits.ask(1):
        refits.tell([result(context, evaluator, proposals[0].schedule)])
    of_cache = [schedule for schedule, column in fits.made if column is FitColumn.CACHE_CORRECTION]
    assert of_cache
    for schedule in of_cache:  # after all else that can be fitted of it, since it fits one solver
        assert [column for other, column in fits.made if other == schedule][:-1]
        assert [column for other, column in fits.made if other == schedule][-1] is FitColumn.CACHE_CORRECTION
    assert refits.expected_gain == 0.0


def test_the_member_that_promises_most_comes_first_and_the_pipelines_own_sampler_never(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    fits = Fits(evaluator)
    refits = Refits(replace(context, quick_fit=fits))
    refits.tell([result(context, evaluator, Schedule(n_steps=n)) for n in (10, 20)])
    assert refits.expected_gain == 0.0
    # Of two members at nearly one cost, the one that stands alone below it gains over a longer stretch.
    refits.tell([result(context, evaluator, solver(context, n), f"{n} steps") for n in (6, 15)])
    assert refits.ask(1)[0].label == "analytic start, solver of 6 steps"


def test_a_fit_is_carried_on_as_long_as_that_stands_on_the_front_and_fitted_there(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    fits = Fits(evaluator)
    refits = Refits(replace(context, quick_fit=fits))
    refits.tell([result(context, evaluator, solver(context, 6))])
    (fitted,) = refits.ask(1)
    assert fitted.schedule.solver is not None
    refits.tell([result(context, evaluator, fitted.schedule)])
    five, seven = refits.ask(2)
    assert [p.label for p in (five, seven)] == [f"a, fit carried to {n} steps" for n in (5, 7)]
    assert len(fits.made) == 1
    assert refits.expected_gain < float("inf")  # until it is known how these do
    gains = {row.output_gain for row in fitted.schedule.solver if isinstance(row, SolverStep)}
    for proposal in (five, seven):
        assert {row.output_gain for row in proposal.schedule.solver or () if isinstance(row, SolverStep)} == gains
    failed = Result(proposal=five, outcome=Failure(kind=FailureKind.NAN, reason="not finite"))
    refits.tell([failed, result(context, evaluator, seven.schedule)])
    assert refits.expected_gain == float("inf")
    (eight,) = refits.ask(1)
    assert eight.schedule.n_steps == 8
    assert len(fits.made) == 1
    assert refits.ask(1)[0].label.startswith(("solver of a, fit carried to 7", "correction of a"))


def test_what_comes_closest_with_its_number_of_steps_is_fitted_even_if_fewer_do_as_well(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    tried: set[tuple[int, FitTarget]] = set()

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        tried.add((schedule.n_steps, column))
        raise ScheduleError("no memory")

    refits = Refits(replace(context, quick_fit=fit, constraints=(Constraint("deviation", "<=", 0.5),)))
    six = result(context, evaluator, solver(context, 6))
    assert six.measurement is not None
    refits.tell([six])
    for n, factor, n_prompts in ((10, 1.2, 2), (12, 1.3, 1), (14, 2.5, 2), (16, 1e4, 2)):
        measured = evaluator.score(solver(context, n), FIDELITY.first(n_prompts))
        assert isinstance(measured, Measurement)
        deviation = tuple(factor * value for value in six.measurement.quality["deviation"][:n_prompts])
        measured = replace(measured, quality={**measured.quality, "deviation": deviation})
        refits.tell([Result(proposal=Proposal(schedule=solver(context, n), family="a", label="a"), outcome=measured)])
    assert refits.ask(1) == []
    # The one of 12 steps saw one prompt only, a fit of 14 can't be hoped to win, and that of 16 breaks the limit.
    assert tried == {(n, column) for n in (6, 10) for column in (FitColumn.SOLVER, FitColumn.CORRECTION)}


def test_times_and_factors_are_fitted_again_as_long_as_that_pays(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    starts: list[Schedule] = []

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        if column is not FitColumn.SOLVER:
            raise ScheduleError("times and factors alone")
        starts.append(schedule)
        rows = tuple(
            replace(row, output_gain=row.output_gain + 0.01) if isinstance(row, SolverStep) else row
            for row in schedule.solver or ()
        )
        return ColumnFit(schedule=replace(schedule, solver=rows), before=0.1, after=0.1, image_runs=260)

    refits = Refits(replace(context, quick_fit=fit))
    best = result(context, evaluator, solver(context, 6))
    refits.tell([best])
    for factor in (0.5, 0.9, 1.1):
        while (proposal := refits.ask(1)[0]).label.endswith("steps"):  # carried
            refits.tell([Result(proposal=proposal, outcome=Failure(kind=FailureKind.NAN, reason="not finite"))])
        assert proposal.label == "analytic start, solver of a"
        assert best.measurement is not None
        (first, *_), before = starts[-1].solver or (), 0.01 * (len(starts) - 1)
        assert isinstance(first, SolverStep)
        assert first.output_gain == pytest.approx(1.0 + before)
        best = with_error(Result(proposal=proposal, outcome=best.outcome), factor * best.measurement.error)
        refits.tell([best])
    assert refits.ask(1) == []
    assert len(starts) == 3


def test_coefficients_are_fitted_again_as_long_as_that_pays(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    n = 6
    rows = tuple((1e-3,) * (i + 1) for i in range(n))
    nudge = ProgramCorrection(timesteps=(0.0,) * n, states=rows, outputs=rows)
    nothing = ProgramCorrection(timesteps=(0.0,) * n, states=_zeros(n), outputs=_zeros(n))

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        if column is not FitColumn.CORRECTION:
            raise ScheduleError("corrections alone")
        correction = (schedule.correction or nothing).plus(nudge)
        return ColumnFit(schedule=replace(schedule, correction=correction), before=0.1, after=0.1, image_runs=440)

    refits = Refits(replace(context, quick_fit=fit))
    best = result(context, evaluator, solver(context, n))
    refits.tell([best])
    promised = []
    for factor in (0.5, 0.95, 0.98, 1.1):
        promised.append(refits.expected_gain)
        (proposal,) = refits.ask(1)
        assert proposal.label == "correction of a"
        assert best.measurement is not None
        best = with_error(Result(proposal=proposal, outcome=best.outcome), factor * best.measurement.error)
        refits.tell([best])
    assert refits.ask(1) == []
    assert promised[1] > promised[2] > promised[3] > refits.expected_gain == 0.0


def _zeros(n: int) -> tuple[tuple[float, ...], ...]:
    return tuple((0.0,) * (i + 1) for i in range(n))


def test_the_cache_of_a_member_is_corrected_even_under_the_pipelines_own_sampler(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    fits = Fits(evaluator)
    refits = Refits(replace(context, quick_fit=fits))
    n_calls = context.n_calls
    cached = on_sites(even_actions(n_calls, n_calls // 2), context.inventory, context.inventory.outermost)
    member = Schedule(n_steps=context.condition.n_steps, cache=cached)
    refits.tell([result(context, evaluator, member)])
    (corrected,) = refits.ask(1)
    assert fits.made == [(member, FitColumn.CACHE_CORRECTION)]
    assert corrected.label == "cache-correction of a"
    assert corrected.schedule.cache_correction is not None
    refits.tell([result(context, evaluator, corrected.schedule)])
    assert refits.ask(1) == []


def test_what_can_not_be_fitted_is_passed_over(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        raise ScheduleError("no memory")

    refits = Refits(replace(context, quick_fit=fit))
    refits.tell([result(context, evaluator, solver(context, 6))])
    assert refits.ask(2) == []
    assert refits.expected_gain == 0.0
