"""Families that fit a column: what they propose, what it costs, and how a study with fits resumes."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.evaluators.tabulated import FITTED_RATIO, TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.families import make_searcher
from autotune.search.fewer_steps import FewerStepsSearcher
from autotune.search.fitted import N_FITTED, CompensationSearcher, DistillSearcher
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.compensation_regression import CompensationRegression, RatioSample, leave_one_out_error
from autotune.spaces.errors import ScheduleError, StorageError, UsageError
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord, StudyState

from .onlooker import MakePlan, OpenStudy, make_loop

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def results(proposals: list[Proposal], evaluator: TabulatedEvaluator) -> list[Result]:
    return [Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in proposals]


def test_ratios_are_fitted_at_a_few_counts_and_predicted_at_the_others(context: SearchContext) -> None:
    proposals = CompensationSearcher(context).ask(10)
    counts = [4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    fitted = [p for p in proposals if p.label.endswith("compensation fitted")]
    predicted = [p for p in proposals if "compensation predicted" in p.label]
    assert proposals == [*fitted, *predicted]
    assert len(fitted) == N_FITTED
    assert sorted(p.schedule.n_steps for p in proposals) == counts
    assert {p.schedule.n_steps for p in fitted} >= {4, 20}
    for p in predicted:
        assert f"{p.schedule.n_steps} steps" in p.label
        assert p.schedule.compensation is not None
        assert p.schedule.compensation[2:] == pytest.approx([FITTED_RATIO] * (p.schedule.n_steps - 2), abs=2e-3)
    assert {p.family for p in proposals} == {"dc"}


def test_a_predicted_candidate_says_how_well_ratios_are_predicted(context: SearchContext) -> None:
    """Where a fit is left out, as `leave_one_out_error` has it; here the ratios of one count differ."""

    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        ratios = (1.0, 1.0, *(1.2 if schedule.n_steps == 7 else 1.0 for _ in range(schedule.n_steps - 2)))
        return ColumnFit(schedule=replace(schedule, compensation=ratios), before=0.2, after=0.1, image_runs=10)

    proposals = CompensationSearcher(replace(context, fit=fit)).ask(20)
    first = [RatioSample.of(p.schedule, context.condition.guidance_scale) for p in proposals[:N_FITTED]]
    error = leave_one_out_error(first)
    assert error is not None
    assert error > 0.1
    labels = {p.label.partition("predicted")[2] for p in proposals if "predicted" in p.label}
    assert labels == {f" to {error:.2g}"}


def test_where_no_fit_lies_between_others_a_label_says_how_well_they_are_met(context: SearchContext) -> None:
    def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
        if schedule.n_steps not in (4, 20):
            raise ScheduleError("no runs are left")
        ratios = (1.0, 1.0, *(0.9 + 0.1 * (i % 3) for i in range(schedule.n_steps - 2)))
        return ColumnFit(schedule=replace(schedule, compensation=ratios), before=0.2, after=0.1, image_runs=10)

    proposals = CompensationSearcher(replace(context, fit=fit)).ask(10)
    samples = [RatioSample.of(p.schedule, context.condition.guidance_scale) for p in proposals[:2]]
    assert leave_one_out_error(samples) is None
    error = CompensationRegression.fit(samples).rms_error
    assert error > 0.01
    assert {p.label.partition("predicted")[2] for p in proposals if "predicted" in p.label} == {f" to {error:.2g}"}


def test_after_the_predictions_the_other_counts_are_fitted_too(context: SearchContext) -> None:
    proposals = CompensationSearcher(context).ask(16)
    late = proposals[10:16]
    assert all(p.label.endswith("compensation fitted") for p in late)
    assert {p.schedule.n_steps for p in proposals if p.label.endswith("fitted")} == {4, 5, 6, 7, 8, 10, 12, 14, 16, 20}


def test_the_best_known_solver_comes_first(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    """Without results the first recipe; with them the one that ranks best."""
    assert DistillSearcher(context).ask(1)[0].label.startswith("unipc-2, uniform lambda")
    rivals = FewerStepsSearcher(context)
    searcher = DistillSearcher(context)
    for _ in range(40):
        told = results(rivals.ask(1), evaluator)
        rivals.tell(told)
        searcher.tell(told)
    assert searcher.ask(1)[0].label.startswith("unipc-3")  # the tabulated formula rewards order


def test_corrections_are_proposed_with_the_grid_and_solver_of_their_recipe(context: SearchContext) -> None:
    for proposal in DistillSearcher(context).ask(5):
        assert proposal.family == "solver-distill"
        assert proposal.label.endswith("correction fitted")
        assert proposal.schedule.correction is not None
        assert proposal.schedule.time is not None
        assert proposal.schedule.compensation is None


@pytest.mark.parametrize("family", ["dc", "solver-distill"])
def test_without_an_evaluator_that_fits_it_is_a_usage_error(family: str, evaluator: TabulatedEvaluator) -> None:
    bare = SearchContext(
        condition=evaluator.condition, inventory=evaluator.inventory, own_timesteps=evaluator.own_timesteps
    )
    with pytest.raises(UsageError, match="can't be fitted here"):
        make_searcher(family, bare).ask(1)


@pytest.mark.parametrize("family", ["dc", "solver-distill"])
def test_a_damaged_stored_fit_is_not_taken_for_too_few_steps(family: str, evaluator: TabulatedEvaluator) -> None:
    def damaged(schedule: Schedule, column: FitTarget) -> ColumnFit:
        raise StorageError("a stored fit can't be read")

    context = SearchContext(
        condition=evaluator.condition,
        inventory=evaluator.inventory,
        own_timesteps=evaluator.own_timesteps,
        fit=damaged,
    )
    with pytest.raises(StorageError):
        make_searcher(family, context).ask(1)


class FittingEvaluator(TabulatedEvaluator):
    """Keeps fits as the worker does, counts those that it makes, and breaks down at its n-th score."""

    def __init__(self, kept: dict[tuple[Schedule, FitTarget], ColumnFit], n_scores: int | None = None) -> None:
        super().__init__()
        self.kept, self.n_left = kept, n_scores
        self.n_made = 0
        self.asked: list[ColumnFit] = []

    def fit(
        self,
        schedule: Schedule,
        column: FitTarget,
        fidelity: Fidelity,
        *,
        timeout_s: float | None = None,
        max_image_runs: int | None = None,
        quick: bool = False,
    ) -> ColumnFit:
        assert not quick
        if (schedule, column) not in self.kept:
            made = super().fit(schedule, column, fidelity, timeout_s=timeout_s, max_image_runs=max_image_runs)
            self.n_made += 1
            self.kept[schedule, column] = made
        if max_image_runs is not None and self.kept[schedule, column].image_runs > max_image_runs:
            raise ScheduleError("there are too few runs")
        self.asked.append(self.kept[schedule, column])
        return self.asked[-1]

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        if self.n_left == 0:
            raise KeyboardInterrupt
        self.n_left = None if self.n_left is None else self.n_left - 1
        return super().score(schedule, fidelity, repeats=repeats)


Run = Callable[..., StudyRecord]


@pytest.fixture
def run(open_study: OpenStudy, plan: MakePlan) -> Run:
    """A function that runs a study with an evaluator and gives its record."""

    def run_study(evaluator: TabulatedEvaluator, name: str, **changes: object) -> StudyRecord:
        study = plan(**changes)
        database = open_study(name, study, evaluator)
        make_loop(study, evaluator, database, SimulatedClock()).run()
        return database.load_study(study.name)

    return run_study


@pytest.mark.parametrize("family", ["dc", "solver-distill"])
def test_network_calls_of_fits_count_against_the_budget(family: str, run: Run) -> None:
    limit = 100_000
    evaluator = FittingEvaluator({})
    budget = Budget(network_calls=limit)
    record = run(evaluator, "a", budget=budget, family=family, rival_share=0.005)
    of_fits = sum(fit.network_calls for fit in evaluator.asked)
    steps = [c.schedule.n_steps for c in record.candidates]
    of_scores = 2 * sum(steps)
    assert of_fits > 0.5 * limit  # fits are what is dear
    dearest = max(fit.network_calls for fit in evaluator.asked) + 2 * max(steps)
    assert limit - dearest < of_fits + of_scores <= limit
    assert 3 <= sum(c.family == family for c in record.candidates) <= 20


@pytest.mark.parametrize("family", ["dc", "solver-distill"])
@pytest.mark.parametrize("n_scores", [1, 8, 15])
def test_a_study_that_broke_down_goes_on_with_the_fits_that_it_has(
    family: str, n_scores: int, run: Run, open_study: OpenStudy, plan: MakePlan
) -> None:
    budget = Budget(evaluations=20)
    whole = FittingEvaluator({})
    expected = run(whole, "undisturbed", budget=budget, family=family)
    kept: dict[tuple[Schedule, FitTarget], ColumnFit] = {}
    broken = FittingEvaluator(kept, n_scores)
    study = plan(budget=budget, family=family)
    database = open_study("broken", study, broken)
    with pytest.raises(KeyboardInterrupt):
        make_loop(study, broken, database, SimulatedClock()).run()
    assert database.load_study("s").state is StudyState.INTERRUPTED
    resumed = FittingEvaluator(kept)
    record = run(resumed, "broken", budget=budget, family=family)
    assert [(c.number, c.schedule_hash) for c in record.candidates] == [
        (c.number, c.schedule_hash) for c in expected.candidates
    ]
    assert broken.n_made + resumed.n_made == whole.n_made
