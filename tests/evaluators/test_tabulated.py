import numpy as np
import pytest

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.small_flux import small_flux_inventory
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.cache_masks import even_mask, fora_mask
from autotune.search.clock import SimulatedClock
from autotune.spaces.cache_plan import CachePlan, plan_macs
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog", "a ship"), seeds=(0, 1, 2))


def measured(schedule: Schedule, evaluator: TabulatedEvaluator | None = None) -> Measurement:
    outcome = (evaluator or TabulatedEvaluator()).score(schedule, FIDELITY)
    assert isinstance(outcome, Measurement)
    return outcome


def test_it_is_an_evaluator() -> None:
    evaluator: Evaluator = TabulatedEvaluator()
    assert len(evaluator.own_timesteps(7)) == 7
    assert len(evaluator.inventory) == 36


def test_macs_are_those_of_the_plan() -> None:
    inventory = small_flux_inventory()
    plan = fora_mask(inventory, 20, 3).schedule(20).cache
    result = measured(Schedule(n_steps=20, cache=plan))
    assert result.macs == plan_macs(plan, inventory, 20)
    assert result.baseline_macs == 20 * inventory.total_macs


def test_more_reuse_is_cheaper_and_worse() -> None:
    inventory = small_flux_inventory()
    results = [measured(fora_mask(inventory, 20, n).schedule(20)) for n in (2, 3, 5)]
    assert np.all(np.diff([r.relative_latency for r in results]) < 0)
    assert np.all(np.diff([r.mean("deviation") for r in results]) > 0)


def test_more_steps_are_dearer_and_better() -> None:
    results = [measured(Schedule(n_steps=n)) for n in (5, 10, 20)]
    assert np.all(np.diff([r.relative_latency for r in results]) > 0)
    assert np.all(np.diff([r.mean("deviation") for r in results]) < 0)


def test_where_a_site_is_reused_matters() -> None:
    def one_cell(t: int, site: int) -> float:
        reuse = np.zeros((20, 36), bool)
        reuse[t, site] = True
        return measured(Schedule(n_steps=20, cache=CachePlan.from_array(reuse))).mean("deviation")

    assert len({one_cell(10, site) for site in (0, 1, 2)}) == 3
    assert one_cell(1, 0) > one_cell(10, 0)


def test_schedules_that_compute_the_same_measure_the_same() -> None:
    reuse = even_mask(small_flux_inventory(), 20, 10).reuse
    other = reuse.copy()
    other[0] = True
    assert measured(Schedule(n_steps=20, cache=CachePlan.from_array(reuse))) == measured(
        Schedule(n_steps=20, cache=CachePlan.from_array(other))
    )


def test_a_score_takes_simulated_time() -> None:
    clock = SimulatedClock()
    result = measured(Schedule(n_steps=10), TabulatedEvaluator(clock=clock))
    assert clock.now() == result.wall_s > 0


def test_latency_noise_is_seeded() -> None:
    noisy = TabulatedEvaluator(latency_noise=0.1)
    assert measured(Schedule(n_steps=10), noisy) == measured(Schedule(n_steps=10), noisy)
    assert measured(Schedule(n_steps=10), noisy).latency_ms != measured(Schedule(n_steps=10)).latency_ms


def test_failures_can_be_injected() -> None:
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, reason="too large")
    evaluator = TabulatedEvaluator(fails=lambda schedule: failure if schedule.n_steps > 10 else None)
    assert evaluator.score(Schedule(n_steps=11), FIDELITY) == failure
    assert isinstance(evaluator.score(Schedule(n_steps=10), FIDELITY), Measurement)


@pytest.mark.parametrize("n_prompts", [1, 3])
def test_quality_has_one_value_per_prompt(n_prompts: int) -> None:
    fidelity = Fidelity(name="f", prompts=FIDELITY.prompts[:n_prompts], seeds=FIDELITY.seeds[:n_prompts])
    outcome = TabulatedEvaluator().score(Schedule(n_steps=8), fidelity)
    assert isinstance(outcome, Measurement)
    assert all(len(values) == n_prompts for values in outcome.quality.values())
