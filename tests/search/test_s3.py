"""S3 on a synthetic landscape, and what it takes from others."""

import math
from dataclasses import replace

import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.dmn_grid import dmn
from autotune.search.fewer_steps import LAMBDA_END, RECIPES
from autotune.search.s3 import LAG, S3Searcher, S3Settings
from autotune.search.s3_presets import GITS_DISCOUNT
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget
from autotune.spaces.evaluation import Failure, FailureKind
from autotune.spaces.objective import parse_constraint
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.time_grid import karras
from autotune.spaces.traced_grid import gits

from .s3_landscape import FIDELITY, GUIDED, PLAIN, N, Traced, best_schedule, context_of, drive, results_of

SMALL = S3Settings(step_counts=(N,), stage_size=16, n_generations=2, n_offspring=20, n_survivors=20, fit_every=0)


def proposal(schedule: Schedule, family: str = "other") -> Proposal:
    return Proposal(schedule=schedule, family=family, label="told")


def tell(searcher: S3Searcher, evaluator: TabulatedEvaluator, *schedules: Schedule) -> None:
    searcher.tell(results_of([proposal(s) for s in schedules], evaluator))


def target(evaluator: TabulatedEvaluator) -> Schedule:
    return best_schedule(evaluator.condition.noise_schedule, N)


@pytest.mark.slow
def test_it_beats_evolution_without_a_predictor_at_equal_evaluations() -> None:
    guided, plain = ([math.log(min(drive(seed, s, 120)[1])) for seed in range(2)] for s in (GUIDED, PLAIN))
    assert np.mean(guided) < np.mean(plain) - 0.2


def test_the_predictor_ranks_schedules_that_it_has_not_seen() -> None:
    searcher, scores, proposals = drive(1, GUIDED, 90)
    assert [stage.number for stage in searcher.stages] == list(range(3, 3 + len(searcher.stages)))
    assert all(-1.0 <= stage.tau <= 1.0 for stage in searcher.stages)
    assert searcher.stages[0].n_scored < searcher.stages[1].n_scored
    assert max(stage.tau for stage in searcher.stages) >= 0.7
    assert min(scores) < 0.5 * min(scores[:20])
    told = {f", tau {stage.tau:.2f}" for stage in searcher.stages}
    assert {p.label.removeprefix(p.label.rpartition(", tau")[0]) for p in proposals if "tau" in p.label} <= told
    assert all(("tau" in p.label) == (int(p.label.split()[1].rstrip(",")) >= 3) for p in proposals)


def test_the_predictor_reads_errors_on_a_trace_that_is_made_once() -> None:
    evaluator = Traced()
    told, _, _ = drive(0, GUIDED, 60, evaluator, evaluator.make_trace)
    blind, _, _ = drive(0, GUIDED, 60, evaluator)
    assert evaluator.n_traces == 1
    assert told.stages[-1].tau > 0.85
    assert np.mean([stage.tau for stage in told.stages]) > np.mean([stage.tau for stage in blind.stages]) + 0.1


def test_every_step_count_has_its_turn_and_gains_from_the_others() -> None:
    settings = replace(SMALL, step_counts=(5, 6), stage_size=4)
    _, _, proposals = drive(0, settings, 60)
    stages = {n: [int(p.label.split()[1].rstrip(",")) for p in proposals if p.schedule.n_steps == n] for n in (5, 6)}
    # The first count starts from presets alone and goes ahead, the second from the best of the first as well.
    assert stages[5].count(1) < stages[6].count(1)
    assert stages[5] == sorted(stages[5])
    assert stages[6] == sorted(stages[6])
    assert LAG <= max(stages[5]) - max(stages[6]) <= LAG + 1


def after_presets(searcher: S3Searcher, n: int) -> list[Proposal]:
    """The first n proposals after the presets of the first stage, all of which fail."""
    while asked := searcher.ask(1):
        if asked[0].label.startswith("stage 2"):
            return [*asked, *searcher.ask(n - 1)]
        searcher.tell([failed(asked[0])])
    return []


def failed(proposal: Proposal) -> Result:
    return Result(proposal=proposal, outcome=Failure(kind=FailureKind.NAN, reason="planned"))


def without_parents(searcher: S3Searcher) -> bool:
    """Whether all that the searcher proposes are presets, if every one fails."""
    proposals: list[Proposal] = []
    most = len(RECIPES) + 2  # DMN and Karras; without a trace there is no GITS
    while (asked := searcher.ask(1)) and len(proposals) <= most:
        proposals += asked
        searcher.tell([failed(asked[0])])
    return len(proposals) <= most


def test_it_begins_with_known_grids_too_of_which_gits_needs_the_trace() -> None:
    evaluator = Traced()
    searcher = S3Searcher(replace(context_of(evaluator), trace=evaluator.make_trace), 0, SMALL)
    begun: list[Proposal] = []
    while (asked := searcher.ask(1))[0].label.startswith("stage 1"):
        begun += asked
        searcher.tell(results_of(asked, evaluator))
    condition = evaluator.condition
    noise, start = condition.noise_schedule, condition.start_timestep
    times = [p.schedule.time for p in begun]
    assert gits(evaluator.make_trace(), noise, condition.prediction, N, discount=GITS_DISCOUNT) in times
    assert dmn(noise, N, t_start=start) in times
    assert karras(noise, N, t_start=start, t_end=LAMBDA_END * evaluator.own_timesteps(N)[-1]) in times
    assert len(begun) == 11


def test_results_of_other_families_are_parents() -> None:
    evaluator = TabulatedEvaluator()
    told = target(evaluator)
    searcher = S3Searcher(context_of(evaluator), 0, SMALL)
    tell(searcher, evaluator, told)
    children = [p.schedule for p in after_presets(searcher, 10)]
    assert len(children) == 10
    assert told not in children
    moves = [np.abs(np.subtract(child.time or (), told.time or ())).mean() for child in children]
    assert np.median(moves) < 30.0  # of 1000; presets are farther away
    presets = S3Searcher(context_of(evaluator), 0, SMALL).ask(10)
    assert min(np.abs(np.subtract(p.schedule.time or (), told.time or ())).mean() for p in presets) > 30.0


@pytest.mark.parametrize("case", ["failed", "infeasible", "cached", "compensated", "other count", "own sampler"])
def test_what_is_no_solver_schedule_or_no_success_is_no_parent(case: str) -> None:
    evaluator = TabulatedEvaluator(
        fails=lambda s: Failure(kind=FailureKind.NAN, reason="planned") if case == "failed" else None
    )
    limits = (parse_constraint("deviation<=0.00001"),) if case == "infeasible" else ()
    context = SearchContext(
        condition=evaluator.condition,
        inventory=evaluator.inventory,
        own_timesteps=evaluator.own_timesteps,
        constraints=limits,
    )
    told = target(evaluator)
    changes = {
        "cached": replace(told, cache=CachePlan.from_array(np.eye(N, len(evaluator.inventory), -1, dtype=int))),
        "compensated": replace(told, compensation=(1.0, 1.0, *(0.9,) * (N - 2))),
        "other count": best_schedule(evaluator.condition.noise_schedule, N + 1),
        "own sampler": Schedule(n_steps=N),
    }
    searcher = S3Searcher(context, 0, SMALL)
    tell(searcher, evaluator, changes.get(case, told))
    assert without_parents(searcher)


def test_a_corrected_schedule_is_no_parent() -> None:
    evaluator = TabulatedEvaluator()
    told = evaluator.fit(target(evaluator), FitColumn.CORRECTION, FIDELITY).schedule
    searcher = S3Searcher(context_of(evaluator), 0, SMALL)
    tell(searcher, evaluator, told)
    assert without_parents(searcher)


def test_quality_other_than_the_deviation_is_minimised_too() -> None:
    evaluator = TabulatedEvaluator()
    context = replace(context_of(evaluator), objectives=("latency", "psnr"))
    orders = []
    for seed in range(5):
        searcher = S3Searcher(context, seed, SMALL)
        while not searcher.stages:
            searcher.tell(results_of(searcher.ask(1), evaluator))
        orders += [step.order for p in searcher.ask(8) for step in p.schedule.solver or ()]
    # The formula of the tabulated evaluator rewards high orders: 1.8 is what the presets have.
    assert np.mean(orders) > 1.9


def test_proposals_depend_on_the_seed_alone() -> None:
    hashes = [[p.schedule_hash for p in drive(seed, SMALL, 40)[2]] for seed in (3, 3, 4)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(set(hashes[0])) == 40


def test_the_best_schedule_is_fitted_now_and_then_and_never_twice() -> None:
    evaluator = TabulatedEvaluator()
    asked: list[Schedule] = []
    given: list[Schedule] = []

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        assert column is FitColumn.SOLVER
        made = evaluator.fit(schedule, column, FIDELITY)
        asked.append(schedule)
        given.append(made.schedule)
        return made

    searcher = S3Searcher(replace(context_of(evaluator), fit=fit), 2, replace(GUIDED, fit_every=3))
    proposals: list[Proposal] = []
    scores: list[float] = []

    def stage_of(proposal: Proposal) -> int:
        return int(proposal.label.split()[1].rstrip(","))

    while not proposals or stage_of(proposals[-1]) < 9:
        (proposal,) = searcher.ask(1)
        (result,) = results_of([proposal], evaluator)
        searcher.tell([result])
        assert result.measurement is not None
        proposals.append(proposal)
        scores.append(result.measurement.mean("deviation"))
    assert len(asked) == len(set(asked)) == 3
    assert [schedule.start is None for schedule in asked[:2]] == [True, False]
    first = [next(p for p in proposals if stage_of(p) == stage) for stage in (2, 5, 8)]
    assert [p for p in proposals if "steps, fitted" in p.label] == first
    assert [p.schedule for p in first] == [canonical_schedule(s, evaluator.inventory) for s in given]
    # A fit lowers the tabulated deviation by a tenth, and offspring keep what it found.
    presets = [score for p, score in zip(proposals, scores, strict=True) if stage_of(p) == 1]
    assert min(scores) < 0.91 * min(presets)
