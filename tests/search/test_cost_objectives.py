from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.evaluators.job import COST_MODEL_RUNS
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.ecad import EcadSearcher
from autotune.search.ladder import LadderSettings
from autotune.search.searcher import Result, SearchContext
from autotune.search.searcher_jobs import MAX_COST_SHARE
from autotune.search.study_plan import StudyPlan
from autotune.spaces.cost_model import CostModel
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.front import calibration_front, study_front
from autotune.spaces.objective import objective_value, parse_constraint
from autotune.spaces.study_record import StudyState
from autotune.storage.study_costs import load_costs

from .onlooker import OpenStudy, make_loop

CALIBRATION = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def run(searcher: EcadSearcher, evaluator: TabulatedEvaluator, n: int) -> list[Result]:
    """Results of `n` evaluations, completed as a study does it."""
    model = evaluator.cost_model(CALIBRATION)
    results: list[Result] = []
    while len(results) < n and (asked := searcher.ask(1)):
        outcome = model.completed(asked[0].schedule, evaluator.score(asked[0].schedule, CALIBRATION))  # type: ignore[arg-type]
        results.append(Result(proposal=asked[0], outcome=outcome))
        searcher.tell(results[-1:])
    return results


def context_of(evaluator: TabulatedEvaluator, objectives: tuple[str, ...], *limits: str) -> SearchContext:
    return SearchContext(
        condition=evaluator.condition,
        inventory=evaluator.inventory,
        own_timesteps=evaluator.own_timesteps,
        objectives=objectives,
        constraints=tuple(parse_constraint(limit) for limit in limits),
        cost_model=lambda: evaluator.cost_model(CALIBRATION),
    )


def test_what_the_model_refuses_is_never_run_and_survivors_are_feasible() -> None:
    evaluator = TabulatedEvaluator()
    context = context_of(evaluator, ("macs", "deviation"), "cache_gb<=0.000012", "psnr>=35")
    searcher = EcadSearcher(context, 0)
    results = run(searcher, evaluator, 200)
    measured = [r.measurement for r in results if r.measurement is not None]
    assert len(measured) == 200
    assert max(m.cache_bytes or 0 for m in measured) <= 12_000
    assert min(m.mean("psnr") for m in measured) < 35.0  # that is not known before
    violations = [ranked.individual.violation for ranked in searcher._population]
    n_feasible = sum(m.mean("psnr") >= 35.0 for m in measured)
    assert 24 <= n_feasible < 200
    assert violations == [0.0] * len(violations)


def test_infeasible_survivors_are_the_least_violating() -> None:
    evaluator = TabulatedEvaluator()
    limit = parse_constraint("psnr>=90")
    searcher = EcadSearcher(context_of(evaluator, ("macs", "deviation"), "psnr>=90"), 0)
    results = run(searcher, evaluator, 60)
    searcher._select()  # the last ones that it was told of
    least = sorted(limit.violation(r.measurement) for r in results if r.measurement is not None)
    kept = sorted(ranked.individual.violation for ranked in searcher._population)
    assert kept == pytest.approx(least[: len(kept)])


def test_survivors_are_chosen_by_the_modelled_latency() -> None:
    """With noise that dwarfs the differences, measured latencies would rank at random."""
    evaluator = TabulatedEvaluator(latency_noise=0.5)
    model = evaluator.cost_model(CALIBRATION)
    searcher = EcadSearcher(context_of(evaluator, ("latency", "deviation")), 0)
    results = run(searcher, evaluator, 40)
    known = {model.relative_latency(r.proposal.schedule) for r in results}
    assert {ranked.individual.values[0] for ranked in searcher._population} <= known


@pytest.mark.parametrize("objectives", [("modelled-latency", "deviation"), ("latency", "deviation", "cache-memory")])
def test_a_study_ranks_by_the_model_and_its_front_reads_back(
    objectives: tuple[str, ...], open_study: OpenStudy, plan: Callable[..., StudyPlan]
) -> None:
    study = plan(Budget(evaluations=45), objectives=objectives)
    fronts = []
    for name in ("first", "second"):
        database = open_study(name, study, TabulatedEvaluator())
        assert make_loop(study, TabulatedEvaluator(), database, SimulatedClock()).run() is StudyState.DONE
        record = database.load_study(study.name)
        model = load_costs(database.artifacts, study.name)
        assert model is not None
        for candidate in record.candidates:
            measurement = candidate.calibration.measurement
            assert measurement is not None
            if candidate.family == "policies":  # what it does is known from its run alone
                assert measurement.modelled_latency == measurement.relative_latency
                continue
            assert measurement.modelled_latency == model.relative_latency(candidate.schedule)
            assert measurement.cache_bytes == model.cache_bytes(candidate.schedule)
        fronts.append([c.schedule_hash for c in study_front(record)])
    assert fronts[0] == fronts[1]
    assert len(fronts[0]) >= 3


def test_a_study_that_ends_before_its_cost_model_has_a_front(
    open_study: OpenStudy, plan: Callable[..., StudyPlan]
) -> None:
    class Interrupted(TabulatedEvaluator):
        def cost_model(self, fidelity: Fidelity, rounds: int = 1) -> CostModel:
            raise KeyboardInterrupt

    study = plan(Budget(evaluations=45), objectives=("latency", "deviation", "cache-memory"))
    database = open_study("ended", study, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        make_loop(study, Interrupted(), database, SimulatedClock()).run()
    (default,) = study_front(database.load_study(study.name))
    measurement = default.calibration.measurement
    assert measurement is not None
    assert (measurement.modelled_latency, measurement.cache_bytes) == (measurement.relative_latency, 0)


def test_lucky_timings_are_not_on_the_front_of_a_study(open_study: OpenStudy, plan: Callable[..., StudyPlan]) -> None:
    study = plan(Budget(evaluations=120), objectives=("latency", "deviation"))
    database = open_study("noisy", study, TabulatedEvaluator(latency_noise=0.5))
    make_loop(study, TabulatedEvaluator(latency_noise=0.5), database, SimulatedClock()).run()
    record = database.load_study(study.name)
    model = load_costs(database.artifacts, study.name)
    assert model is not None
    front = calibration_front(record)
    costs = [model.relative_latency(c.schedule) for c in front]
    errors = [m.error for c in front if (m := c.calibration.measurement)]
    assert costs == sorted(set(costs))
    assert errors == sorted(errors, reverse=True)
    verified = [c.held_out.measurement for c in front if c.held_out and c.held_out.measurement]
    assert [m.relative_latency for m in verified] == [objective_value("latency", m) for m in verified]


@pytest.mark.parametrize(
    ("share", "n_images", "rounds"), [(9.0, 8, 4), (4.0, 8, 2), (1.0, 8, 1), (0.5, 4, 1), (0.2, None, 0)]
)
def test_a_budget_of_calls_decides_how_many_images_a_cost_model_is_measured_on(
    share: float, n_images: int | None, rounds: int, open_study: OpenStudy, plan: Callable[..., StudyPlan]
) -> None:
    """`share` of the budget that one round of a whole batch asks for; its memory is that of a whole batch always."""
    measured: list[tuple[int, int]] = []

    class Watched(TabulatedEvaluator):
        def cost_model(self, fidelity: Fidelity, rounds: int = 1) -> CostModel:
            measured.append((len(fidelity.prompts), rounds))
            return super().cost_model(fidelity)

    evaluator = Watched()
    evaluator.condition = replace(evaluator.condition, batch_size=8)
    calibration = Fidelity(name="calibration", prompts=tuple(f"{i} cats" for i in range(10)), seeds=tuple(range(10)))
    calls = COST_MODEL_RUNS * 8 * evaluator.condition.n_steps
    budget = Budget(network_calls=round(share * calls / MAX_COST_SHARE))
    study = replace(plan(budget, objectives=("latency", "deviation")), calibration=calibration, ladder=LadderSettings())
    database = open_study("images", study, evaluator)
    loop = make_loop(study, evaluator, database, SimulatedClock())
    assert loop._jobs.affords_costs() == (n_images is not None)
    if n_images is not None:
        assert loop._jobs.cost_model().batch_size == 8
        assert measured == [(n_images, rounds)]
        assert loop._spending.spent.network_calls == rounds * COST_MODEL_RUNS * n_images * evaluator.condition.n_steps
