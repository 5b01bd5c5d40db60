import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kendalltau

from autotune.evaluators.recorded import RecordedEvaluator
from autotune.evaluators.recorded_latency import RecordedLatency
from autotune.evaluators.recorded_quality import scaled_values
from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.clock import SimulatedClock
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.recorded_table import RecordedRow, RecordedTable
from autotune.spaces.refresh_plan import plan_refreshes
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solvers import make_solver

INVENTORY = small_flux_inventory(2, 2)
FIDELITY = Fidelity(name="calibration", prompts=tuple(f"prompt {i}" for i in range(12)), seeds=tuple(range(12)))
N_ROWS = 160


def random_plan(rng: np.random.Generator) -> Schedule:
    """Whole calls reused at random, with a few cells turned over."""
    reuse = (rng.random(20) < rng.uniform(0.1, 0.8))[:, None] ^ (rng.random((20, len(INVENTORY))) < 0.1)
    reuse[0] = False
    return canonical_schedule(Schedule(n_steps=20, cache=CachePlan.from_array(reuse)), INVENTORY)


@pytest.fixture(scope="session")
def truth() -> TabulatedEvaluator:
    return TabulatedEvaluator(small_flux_condition(INVENTORY), INVENTORY, latency_noise=0.03)


@pytest.fixture(scope="session")
def table(truth: TabulatedEvaluator) -> RecordedTable:
    rng = np.random.default_rng(0)
    time, noise = truth.own_timesteps(7), truth.condition.noise_schedule
    schedules = [
        Schedule(n_steps=20),
        Schedule(n_steps=7, time=time, solver=make_solver("ab2", 7, noise)),
        *(random_plan(rng) for _ in range(N_ROWS)),
    ]
    rows = [RecordedRow(family="f", label="", schedule=s, outcome=truth.score(s, FIDELITY)) for s in schedules]
    failure = Failure(kind=FailureKind.NAN, reason="NaN")
    rows.append(RecordedRow(family="f", label="", schedule=Schedule(n_steps=3), outcome=failure))
    partial = truth.score(Schedule(n_steps=9), FIDELITY.first(4))
    rows.append(RecordedRow(family="f", label="", schedule=Schedule(n_steps=9), outcome=partial))
    return RecordedTable(condition=truth.condition, inventory=INVENTORY, fidelity=FIDELITY, rows=tuple(rows))


@pytest.fixture(scope="session")
def evaluator(table: RecordedTable) -> RecordedEvaluator:
    return RecordedEvaluator(table)


def measured(outcome: Measurement | Failure) -> Measurement:
    assert isinstance(outcome, Measurement)
    return outcome


def test_what_stands_in_the_table_is_answered_exactly(evaluator: RecordedEvaluator, table: RecordedTable) -> None:
    for row in table.rows[:10]:
        assert evaluator.score(row.schedule, FIDELITY, repeats=3) == row.outcome
    assert evaluator.score(table.rows[-2].schedule, FIDELITY) == table.rows[-2].outcome
    assert evaluator.score(Schedule(n_steps=9), FIDELITY.first(4)) == table.rows[-1].outcome


def test_any_of_the_prompts_can_be_asked_for_at_their_share_of_the_cost(
    evaluator: RecordedEvaluator, table: RecordedTable
) -> None:
    whole = measured(table.rows[5].outcome)
    some = Fidelity(name="other", prompts=("prompt 9", "prompt 2", "prompt 3"), seeds=(9, 2, 3))
    part = measured(evaluator.score(table.rows[5].schedule, some))
    assert part.quality == {name: (v[9], v[2], v[3]) for name, v in whole.quality.items()}
    assert part.wall_s == pytest.approx(whole.wall_s / 4.0)
    assert dataclasses.replace(part, quality={}, wall_s=0.0) == dataclasses.replace(whole, quality={}, wall_s=0.0)


def test_other_prompts_or_seeds_are_refused(evaluator: RecordedEvaluator) -> None:
    with pytest.raises(EvaluatorError, match="got 'prompt 1' with seed 2"):
        evaluator.score(Schedule(n_steps=20), Fidelity(name="c", prompts=("prompt 1",), seeds=(2,)))


def test_new_cache_plans_are_predicted_well(evaluator: RecordedEvaluator, truth: TabulatedEvaluator) -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for schedule in (random_plan(rng) for _ in range(60)):
        real, predicted = (measured(e.score(schedule, FIDELITY)) for e in (truth, evaluator))
        assert (predicted.macs, predicted.baseline_macs) == (real.macs, real.baseline_macs)
        assert predicted.network_calls == real.network_calls
        assert set(predicted.quality) == set(real.quality)
        pairs.append([(m.mean("deviation"), m.mean("psnr"), m.relative_latency) for m in (real, predicted)])
    real_values, predicted_values = np.array(pairs).transpose(1, 2, 0)
    for real_row, predicted_row in zip(real_values[:2], predicted_values[:2], strict=True):
        assert kendalltau(real_row, predicted_row).statistic > 0.85
    assert np.log(predicted_values[0] / real_values[0]).std() < 0.15
    assert abs(np.log(predicted_values[2] / real_values[2])).max() < 0.15


def test_predictions_scatter_over_prompts_as_the_rows_do_and_are_repeatable(table: RecordedTable) -> None:
    """Rows whose prompts scatter by 30 % around the law of the others give predictions that do so too."""
    rng = np.random.default_rng(2)
    rows = list(table.rows[:1])
    for row in table.rows[2 : 2 + N_ROWS]:
        outcome = measured(row.outcome)
        deviation = np.array(outcome.quality["deviation"]) * np.exp(rng.normal(0.0, 0.3, 12))
        quality = {"deviation": tuple(deviation.tolist())}
        rows.append(dataclasses.replace(row, outcome=dataclasses.replace(outcome, quality=quality)))
    noisy = dataclasses.replace(
        table, rows=(dataclasses.replace(rows[0], outcome=_only_deviation(measured(rows[0].outcome))), *rows[1:])
    )
    first, second = RecordedEvaluator(noisy), RecordedEvaluator(noisy)
    drawn = [measured(first.score(s, FIDELITY)) for s in (random_plan(rng) for _ in range(40))]
    logs = np.log([m.quality["deviation"] for m in drawn])
    factors = np.log(np.array(measured(table.rows[0].outcome).quality["deviation"]))
    scatter = logs - logs.mean(axis=1, keepdims=True) - (factors - factors.mean())
    assert scatter.std() == pytest.approx(0.3, abs=0.06)
    schedule = random_plan(np.random.default_rng(3))
    assert first.score(schedule, FIDELITY) == second.score(schedule, FIDELITY)
    part = measured(first.score(schedule, FIDELITY.first(5)))
    assert part.quality["deviation"] == measured(first.score(schedule, FIDELITY)).quality["deviation"][:5]


def _only_deviation(measurement: Measurement) -> Measurement:
    return dataclasses.replace(measurement, quality={"deviation": measurement.quality["deviation"]})


def test_what_can_not_be_predicted_is_a_failure_with_its_reason(evaluator: RecordedEvaluator) -> None:
    noise = evaluator.condition.noise_schedule
    alone = Schedule(n_steps=6, time=evaluator.own_timesteps(6), solver=make_solver("ab2", 6, noise))
    for schedule in (Schedule(n_steps=11), alone, Schedule(n_steps=9)):
        outcome = evaluator.score(schedule, FIDELITY)
        assert isinstance(outcome, Failure)
        assert outcome.kind is FailureKind.INVALID
        assert "nor enough of its kind" in outcome.reason


def test_the_clock_moves_by_what_was_recorded_or_would_be(table: RecordedTable) -> None:
    clock = SimulatedClock()
    evaluator = RecordedEvaluator(table, clock=clock)
    recorded = measured(evaluator.score(table.rows[3].schedule, FIDELITY))
    assert clock.now() == recorded.wall_s
    predicted = measured(evaluator.score(random_plan(np.random.default_rng(5)), FIDELITY.first(6)))
    assert clock.now() == pytest.approx(recorded.wall_s + predicted.wall_s)
    assert predicted.wall_s == pytest.approx(6 * predicted.latency_ms[0] / 1000.0, rel=0.4)


def test_latency_is_affine_with_the_recorded_relative_noise(table: RecordedTable) -> None:
    rows = [row.outcome for row in table.rows if isinstance(row.outcome, Measurement)]
    model = RecordedLatency(rows, 20)
    assert model.timings_ms(0.5, 20, range(4)) == pytest.approx(
        [model.baseline_ms * n * np.mean(model.timings_ms(0.5, 20, range(len(rows)))) / np.mean(model.noise)
         / model.baseline_ms for n in model.noise[:4]]
    )  # fmt: skip
    assert 0.01 < model.noise.std() < 0.04
    assert model.noise.mean() == pytest.approx(1.0, abs=0.01)


def test_own_grids_are_recorded_ones_where_there_are_any(
    evaluator: RecordedEvaluator, truth: TabulatedEvaluator
) -> None:
    assert evaluator.own_timesteps(7) == truth.own_timesteps(7)
    assert evaluator.own_timesteps(13) == pytest.approx(truth.own_timesteps(13))
    assert len(evaluator.own_timesteps(20)) == 20


def test_accuracy_is_told_where_there_are_rows(evaluator: RecordedEvaluator) -> None:
    accuracy = evaluator.accuracy("cache")
    assert accuracy is not None
    assert accuracy.tau > 0.85
    assert evaluator.accuracy("solver") is None


def test_scales_and_their_inverses_agree() -> None:
    assert scaled_values("deviation", [[0.1, 0.0]]) == pytest.approx(np.log([[0.1, 1e-6]]))
    assert scaled_values("ssim", [[0.9]]) == pytest.approx(np.log([[0.1]]))
    assert scaled_values("psnr", [[31.0]]) == pytest.approx(np.array([[31.0]]))


def test_a_table_without_a_default_run_or_gradients_says_so(table: RecordedTable, evaluator: RecordedEvaluator) -> None:
    with pytest.raises(EvaluatorError, match="must hold the pipeline's default run"):
        RecordedEvaluator(dataclasses.replace(table, rows=table.rows[1:])).own_timesteps(20)
    with pytest.raises(EvaluatorError, match="can't fit the solver"):
        evaluator.fit(table.rows[1].schedule, FitColumn.SOLVER, FIDELITY)
    with pytest.raises(EvaluatorError, match="no trace"):
        evaluator.trace(FIDELITY, 2, 5)


def test_a_sheet_has_a_grey_tile_per_image(evaluator: RecordedEvaluator) -> None:
    image = Image.open(io.BytesIO(evaluator.contact_sheet(Schedule(n_steps=20), FIDELITY, [0, 2, 3])))
    assert image.size == (96, 32)


def test_a_replay_needs_no_torch() -> None:
    code = "import sys, autotune.evaluators.recorded; print('torch' in sys.modules or 'diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_table_of_reuses_predicts_no_forecast_and_plans_by_age_alone(evaluator: RecordedEvaluator) -> None:
    n = evaluator.condition.n_steps
    table = np.zeros((n, len(evaluator.inventory)))
    table[5] = CacheAction.TAYLOR_1
    outcome = evaluator.score(Schedule(n_steps=n, cache=CachePlan.from_array(table)), FIDELITY)
    assert isinstance(outcome, Failure)
    assert outcome.kind is FailureKind.INVALID
    plan = plan_refreshes(evaluator.edge_costs(FIDELITY, 1), 1.0)[n // 4]
    assert set(np.diff([*plan.refreshed, n])) == {4}
