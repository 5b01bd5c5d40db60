"""Edge costs of streamed features, against a dense computation that keeps them all."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators import edge_costs, edge_recording
from autotune.evaluators.edge_costs import EdgeCostRecorder
from autotune.evaluators.edge_recording import by_outcome
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.edge_costs import replayed_calls
from autotune.spaces.errors import EvaluatorError, ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction, fitted_guidance
from autotune.spaces.refresh_plan import plan_refreshes
from autotune.spaces.schedule import Schedule
from autotune.storage.artifacts import ArtifactStore

from .live_bytes import live_bytes

Array = NDArray[np.float64]

REUSE, TAYLOR, NEWTON = CacheAction.REUSE, CacheAction.TAYLOR_1, CacheAction.NEWTON_2
ALL_KINDS: list[CacheAction] = [kind for kind in CacheAction if kind is not CacheAction.RECOMPUTE]
N_CALLS, LONGEST = 9, 3


def features(n_calls: int = N_CALLS, n: int = 2, seed: int = 0) -> torch.Tensor:
    """A smooth random path (n_calls, n, 3, 5)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n_calls, n, 3, 5, generator=rng, dtype=torch.float64).cumsum(dim=0)


def recorded(runs: Sequence[torch.Tensor], kinds: Sequence[CacheAction], longest: int = LONGEST) -> EdgeCostRecorder:
    recorder = EdgeCostRecorder(len(runs[0]), longest, kinds)
    for run in runs:
        for feature in run:
            recorder.feed(feature)
    return recorder


def error(run: Array, kind: CacheAction, computed: Sequence[int], now: int) -> Array:
    """Relative errors of one call's forecast, by sample."""
    weights = forecast_weights(kind, computed, now)
    forecast = sum(w * run[t] for w, t in zip(weights, computed, strict=False))
    axes = tuple(range(1, run.ndim - 1))
    return np.asarray(np.abs(run[now] - forecast).sum(axis=axes) / np.abs(run[now]).sum(axis=axes))


def histories(longest: int, n_calls: int) -> Iterator[list[int]]:
    """The last three refreshes, newest first, or all of them from call 0 on."""
    for size in (1, 2, 3):
        for calls in combinations(range(n_calls), size):
            if max(np.diff(calls), default=0) <= longest and (size == 3 or calls[0] == 0):
                yield list(calls)[::-1]


def test_edges_cost_what_a_dense_computation_says() -> None:
    runs = [features(n=2), features(n=3, seed=1)]
    edges = recorded(runs, ALL_KINDS).edge_costs()
    dense = np.concatenate([run.numpy() for run in runs], axis=1)
    assert edges.kinds == tuple(ALL_KINDS)
    finite = np.zeros(edges.table.shape, bool)
    for computed in histories(LONGEST, N_CALLS):
        j = computed[0]
        d1, d2 = [*(a - b for a, b in pairwise(computed)), 0, 0][:2]
        for gap in range(1, min(LONGEST, N_CALLS - j) + 1):
            for k, kind in enumerate(ALL_KINDS):
                cost = sum(error(dense, kind, computed, now).mean() for now in range(j + 1, j + gap))
                assert edges.table[j, d1, d2, gap, k] == pytest.approx(cost, rel=1e-10, abs=1e-12)
                finite[j, d1, d2, gap, k] = True
    np.testing.assert_array_equal(np.isfinite(edges.table), finite)


@pytest.mark.parametrize(("kinds", "longest"), [([REUSE], 4), ([TAYLOR], 4), ([TAYLOR, REUSE], 9), ([NEWTON], 2)])
def test_shorter_memories_suffice_for_lower_orders(kinds: list[CacheAction], longest: int) -> None:
    table = recorded([features()], kinds, longest).edge_costs().table
    among_all = recorded([features()], ALL_KINDS, longest).edge_costs().table
    for k, kind in enumerate(kinds):
        np.testing.assert_allclose(table[..., k], among_all[..., ALL_KINDS.index(kind)], rtol=1e-12)


def test_pairwise_errors_are_those_of_smoothcache() -> None:
    run = features()
    table = recorded([run], [TAYLOR]).pairwise_errors()
    assert table.shape == (N_CALLS, LONGEST)
    for t in range(N_CALLS):
        for k in range(LONGEST):
            expected = error(run.numpy(), REUSE, [t], t + k).mean() if 0 < k < N_CALLS - t else np.inf if k else 0.0
            assert table[t, k] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "degree"), [(TAYLOR, 1), (NEWTON, 2)])
def test_polynomials_of_its_order_cost_nothing(kind: CacheAction, degree: int) -> None:
    t = torch.arange(N_CALLS, dtype=torch.float64)[:, None, None]
    run = 1.0 + torch.rand(1, 2, 7, dtype=torch.float64) * t**degree
    table = recorded([run], [kind]).edge_costs().table[..., 0]
    known = table[:, 1:, 1:] if degree == 2 else table[:, 1:]
    assert known[np.isfinite(known)].max() < 1e-12
    assert table[0, 0, 0, LONGEST] > 0.1


def test_a_plan_costs_what_the_forecasts_of_its_actions_miss() -> None:
    run = features()
    plans = plan_refreshes(recorded([run], [REUSE, TAYLOR, NEWTON]).edge_costs(), 1.0)
    for plan in plans.values():
        total = 0.0
        computed: list[int] = []
        for now, action in enumerate(plan.actions.tolist()):
            if action == CacheAction.RECOMPUTE:
                computed.insert(0, now)
            else:
                total += float(error(run.numpy(), CacheAction(action), computed, now).mean())
        assert plan.cost(1.0) == pytest.approx(total, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_small_parts_change_little(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    run = features().to(dtype)
    exact = recorded([run.double()], ALL_KINDS).edge_costs().table
    monkeypatch.setattr(edge_costs, "CPU_VALUES", 400)
    np.testing.assert_allclose(recorded([run], ALL_KINDS).edge_costs().table, exact, rtol=1e-5)


@pytest.mark.parametrize(("kinds", "n_kept"), [([REUSE], 2), ([TAYLOR, REUSE], 5), ([NEWTON], 8)])
@pytest.mark.parametrize("n_calls", [20, 60])
def test_only_the_last_values_are_kept(kinds: list[CacheAction], n_kept: int, n_calls: int) -> None:
    before = live_bytes()
    recorder = EdgeCostRecorder(n_calls, LONGEST, kinds)
    for _ in range(n_calls):
        recorder.feed(torch.ones(2, 1000))
    assert live_bytes() - before == n_kept * 2 * 1000 * 4


def test_a_feature_that_is_overwritten_later_does_not_matter() -> None:
    run = features()
    expected = recorded([run], [REUSE]).edge_costs().table
    recorder, buffer = EdgeCostRecorder(N_CALLS, LONGEST, [REUSE]), torch.empty_like(run[0])
    for feature in run:
        recorder.feed(buffer.copy_(feature))
    np.testing.assert_array_equal(recorder.edge_costs().table, expected)


def test_incomplete_runs_and_changing_features_are_refused() -> None:
    recorder = EdgeCostRecorder(N_CALLS, LONGEST, [REUSE])
    with pytest.raises(EvaluatorError, match="complete runs of 9 calls; got 0 of the last"):
        recorder.pairwise_errors()
    recorder.feed(torch.ones(2, 3))
    for other in (torch.ones(1, 3), torch.ones(2, 4), torch.ones(2, 3).half()):
        with pytest.raises(EvaluatorError, match="keep its shape"):
            recorder.feed(other)
    with pytest.raises(EvaluatorError, match="got 1 of the last; feed the rest"):
        recorder.edge_costs()
    for longest in (1, N_CALLS + 1):
        with pytest.raises(EvaluatorError, match=f"2 to n_calls = 9 calls apart at most; got {longest}"):
            EdgeCostRecorder(N_CALLS, longest, [REUSE])
    with pytest.raises(ScheduleError, match="action that reads"):
        EdgeCostRecorder(N_CALLS, LONGEST, [CacheAction.RECOMPUTE])


def test_features_that_are_not_finite_make_no_costs() -> None:
    run = features()
    run[4, 1, 2, 3] = torch.nan
    with pytest.raises(ScheduleError, match="not NaN"):
        recorded([run], [REUSE]).edge_costs()


def test_features_of_zeros_can_be_reused() -> None:
    run = torch.zeros(N_CALLS, 1, 4)
    table = recorded([run], [REUSE]).edge_costs().table
    assert table[np.isfinite(table)].max() == 0.0


def test_fifty_calls_of_a_small_feature_take_seconds() -> None:
    recorder = EdgeCostRecorder(50, 10, [REUSE, TAYLOR, CacheAction.HERMITE_2, NEWTON])
    run = torch.randn(50, 1, 4096)
    start = time.process_time()
    for feature in run:
        recorder.feed(feature)
    recorder.edge_costs()
    assert time.process_time() - start < 10.0


@pytest.mark.parametrize("model", ["mini-flux", "mini-sd"])
def test_the_cost_of_one_reused_call_is_what_it_does_to_the_latents(model: str, artifacts: ArtifactStore) -> None:
    """Also with PNDM, which makes one call more than there are steps; call 6 is one of those that are replayed."""
    loaded = load_model(model)
    worker = Worker(replace(loaded, preset=replace(loaded.preset, n_steps=12)), artifacts=artifacts)
    fidelity = Fidelity(name="calibration", prompts=("a photo of a cat",), seeds=(3,))
    costs = worker.edge_costs(fidelity, 1)
    assert "step" not in vars(worker._pipe.scheduler)
    n_calls = len(worker.own_timesteps(worker.condition.n_steps))
    assert (costs.n_calls, costs.longest) == (n_calls, 8)
    call = replayed_calls(n_calls)[5]
    table = np.zeros((n_calls, len(worker.inventory)))
    table[call, 0] = REUSE
    default = Schedule(n_steps=worker.condition.n_steps)
    full = worker._run(default, fidelity, None).latents.flatten(1)
    reused = worker._run(replace(default, cache=CachePlan.from_array(table)), fidelity, None).latents.flatten(1)
    expected = float(((reused - full).norm(dim=1) / full.norm(dim=1)).mean())
    assert costs.table[call - 1, 2, 3, 2, costs.kinds.index(REUSE)] == pytest.approx(expected, rel=1e-3)
    again = worker.edge_costs(fidelity, 1)
    assert np.array_equal(again.table, costs.table)
    assert worker.guided == (costs.guidance_gram is not None) == (model == "mini-sd")
    if costs.guidance_gram is not None and again.guidance_gram is not None:
        assert costs.guidance_gram.shape == (n_calls, n_calls)
        assert np.array_equal(again.guidance_gram, costs.guidance_gram)
        check_weights(worker, fidelity, costs.guidance_gram)


def check_weights(worker: Worker, fidelity: Fidelity, gram: Array) -> None:
    """Fitted weights leave the result closer to the full run than the parabolas in their place."""
    both, quadratic = GuidanceAction.BOTH, GuidanceAction.QUADRATIC
    column = tuple(both if call < 2 or call % 2 == 0 else quadratic for call in range(len(gram)))
    default = Schedule(n_steps=worker.condition.n_steps)
    columns = (None, column, fitted_guidance(column, gram))
    full, parabolas, fitted = (worker._run(replace(default, guidance=rows), fidelity, None).latents for rows in columns)
    assert float((fitted - full).norm()) < 0.8 * float((parabolas - full).norm())


def test_amplification_multiplies_the_errors_of_its_call() -> None:
    recorder = EdgeCostRecorder(N_CALLS, LONGEST, [REUSE])
    for feature in features():
        recorder.feed(feature)
    plain, amplified = (
        recorder.edge_costs().table,
        recorder.edge_costs(np.arange(1.0, N_CALLS + 1.0, dtype=np.float64)).table,
    )
    first, second = plain[4, 1, 1, 2, 0], plain[4, 1, 1, 3, 0] - plain[4, 1, 1, 2, 0]
    assert amplified[4, 1, 1, 3, 0] == pytest.approx(6 * first + 7 * second, rel=1e-12)


def test_an_outcome_cost_is_what_reusing_the_whole_edge_does_and_other_kinds_cost_in_proportion() -> None:
    recorder = recorded([features(), features(seed=1)], [REUSE, NEWTON])
    plain, pairwise = recorder.edge_costs(), recorder.pairwise_errors()
    asked = []

    def change(first: int, last: int) -> float:
        asked.append((first, last))
        return 0.01 * first + last

    costs = by_outcome(plain, pairwise, change)
    assert costs.table[3, 1, 2, 3, 0] == pytest.approx(0.01 * 4 + 5, rel=1e-9)
    assert costs.table[6, 2, 1, 3, 0] == pytest.approx(0.01 * 7 + 8, rel=1e-9)
    before, after = plain.table[3, 1, 2, 3], costs.table[3, 1, 2, 3]
    assert after[1] / after[0] == pytest.approx(before[1] / before[0], rel=1e-9)
    assert np.array_equal(costs.table[:, :, :, 1], plain.table[:, :, :, 1])
    assert max(last for _, last in asked) == N_CALLS - 1
    assert len(asked) == len(set(asked)) == 8 + 7


def test_outcome_replays_are_bounded_and_those_between_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_recording, "N_EDGES", 6)
    recorder = recorded([features()], [REUSE])
    asked = []

    def change(first: int, last: int) -> float:
        asked.append((first, last))
        return float(np.exp(-first)) * float(recorder.pairwise_errors()[first - 1, 1 : last - first + 2].sum())

    costs = by_outcome(recorder.edge_costs(), recorder.pairwise_errors(), change)
    assert len(asked) == 6
    expected = np.exp(-3.0) * recorder.edge_costs().table[2, 1, 1, 2, 0]
    assert costs.table[2, 1, 1, 2, 0] == pytest.approx(expected, rel=1e-9)
