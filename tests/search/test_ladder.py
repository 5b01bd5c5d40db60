import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from autotune.search.ladder import Ladder, LadderSettings, merged
from autotune.search.variance_prior import MIN_VARIANCES
from autotune.spaces.errors import EvaluatorError, UsageError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import parse_constraint

N = 64
FEW = 4  # a single prompt says nothing until it is known how values scatter
HARDNESS = np.exp(np.random.default_rng(0).normal(0.0, 0.4, N))


def measurement(
    values: Iterable[float], metric: str = "deviation", *, latency: float = 1.0, **changes: object
) -> Measurement:
    base = Measurement(
        quality={metric: tuple(values)},
        latency_ms=(100.0 * latency,),
        baseline_latency_ms=(100.0,),
        macs=round(1000 * latency),
        baseline_macs=1000,
        network_calls=20,
        peak_memory_bytes=10,
        wall_s=1.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def first(full: Measurement, k: int) -> Measurement:
    return replace(full, quality={name: values[:k] for name, values in full.quality.items()})


def climb(ladder: Ladder, full: Measurement) -> int:
    """Prompts on which a candidate ends up being measured."""
    k = ladder.rungs[0]
    while (rung := ladder.judge(first(full, k))) is not None:
        assert rung == ladder.rungs[ladder.rungs.index(k) + 1]
        k = rung
    return k


@pytest.mark.parametrize(
    ("n", "rungs"),
    [(100, (1, 4, 16, 64, 100)), (48, (1, 4, 16, 48)), (16, (1, 4, 16)), (5, (1, 5)), (2, (1, 2)), (1, (1,))],
)
def test_rungs_grow_fourfold_up_to_all_prompts(n: int, rungs: tuple[int, ...]) -> None:
    assert Ladder(n, ("macs", "deviation"), ()).rungs == rungs


def test_what_is_dominated_clearly_ends_on_the_first_rung() -> None:
    ladder = Ladder(N, ("latency", "deviation"), ())
    ladder.note(measurement(0.1 * HARDNESS, latency=0.5))
    assert climb(ladder, measurement(0.3 * HARDNESS, latency=0.6)) == FEW


def test_one_prompt_is_enough_once_it_is_known_how_values_scatter() -> None:
    ladder = Ladder(N, ("macs", "deviation"), ())
    for noise in np.exp(np.random.default_rng(4).normal(0.0, 0.1, (MIN_VARIANCES + 1, N))):
        ladder.note(measurement(0.1 * HARDNESS * noise / noise.mean()))
    assert climb(ladder, measurement(0.15 * HARDNESS)) == 1
    assert climb(ladder, measurement(0.08 * HARDNESS)) == N


@pytest.mark.parametrize(
    ("objectives", "worse", "better"),
    [
        (("latency", "deviation"), 0.2, 0.1),
        (("macs", "psnr"), 20.0, 30.0),
        (("macs", "ssim"), 0.5, 0.9),
        (("calls", "alignment"), 0.2, 0.9),
        (("memory", "deviation"), 0.2, 0.1),
    ],
)
def test_every_objective_counts_in_its_own_direction(objectives: tuple[str, ...], worse: float, better: float) -> None:
    noise = 1.0 + 0.01 * np.random.default_rng(1).normal(size=(2, N))
    metric = objectives[1]
    good, bad = measurement(better * noise[0], metric), measurement(worse * noise[1], metric, latency=1.1)
    ladder = Ladder(N, objectives, ())
    ladder.note(good)
    assert climb(ladder, bad) == FEW
    ladder = Ladder(N, objectives, ())
    ladder.note(bad)
    assert climb(ladder, good) == N


def test_what_beats_everything_or_costs_less_reaches_the_top() -> None:
    ladder = Ladder(N, ("latency", "deviation"), ())
    for cost in np.linspace(0.2, 1.0, 30):
        ladder.note(measurement(0.1 / cost * HARDNESS, latency=float(cost)))
    assert climb(ladder, measurement(0.05 * HARDNESS, latency=0.15)) == N
    assert climb(ladder, measurement(9.0 * HARDNESS, latency=0.15)) == N


@pytest.mark.parametrize(
    ("metric", "member", "gain"),
    [
        ("deviation", 0.1, -0.002),
        ("psnr", 30.0, 20.0 * np.log10(1.0 / 0.98)),
        ("ssim", 0.9, 0.002),
        ("alignment", 0.6, 0.008),
    ],
)
def test_a_gain_counts_from_the_margin_on(metric: str, member: float, gain: float) -> None:
    noise = 1e-4 * np.random.default_rng(2).normal(size=N)
    ladder = Ladder(N, ("macs", metric), (), LadderSettings(quality_margin=0.02, cost_margin=0.05))
    ladder.note(measurement(np.full(N, member), metric, macs=1000))
    assert climb(ladder, measurement(member + 0.8 * gain + gain * noise, metric, macs=1000)) == FEW
    assert climb(ladder, measurement(member + 1.2 * gain + gain * noise, metric, macs=1000)) == N
    assert climb(ladder, measurement(member + gain * noise, metric, macs=953)) == FEW
    assert climb(ladder, measurement(member + gain * noise, metric, macs=952)) == N


def test_latencies_which_are_noisy_have_no_margin() -> None:
    ladder = Ladder(N, ("latency", "deviation"), (), LadderSettings(cost_margin=0.1))
    ladder.note(measurement(0.1 * HARDNESS, latency=0.5))
    assert climb(ladder, measurement(0.3 * HARDNESS, latency=0.499)) == N
    assert climb(ladder, measurement(0.3 * HARDNESS, latency=0.5)) == FEW


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_what_is_just_worth_it_is_stopped_in_alpha_of_the_cases_at_most(alpha: float, margin: float) -> None:
    """Its full mean is a member's less the margin, its values per prompt are others; the whole front may stop it."""
    rng = np.random.default_rng(3)
    settings = LadderSettings(alpha=alpha, quality_margin=margin, cost_margin=0.0)
    ladder = Ladder(N, ("macs", "deviation"), (), settings)
    members = {cost: 0.1 / cost * HARDNESS * np.exp(rng.normal(0.0, 0.1, N)) for cost in np.linspace(0.2, 1.0, 20)}
    for cost, values in members.items():
        ladder.note(measurement(values, latency=float(cost)))
    n_stopped, n_trials, (cost, member) = 0, 1000, list(members.items())[10]
    for _ in range(n_trials):
        values = HARDNESS * np.exp(rng.normal(0.0, 0.1, N))  # as those of members
        values *= (1.0 - margin) * member.mean() / values.mean()
        n_stopped += climb(ladder, measurement(values, latency=float(cost))) < N
    assert n_stopped / n_trials <= alpha + 3.0 * np.sqrt(alpha * (1.0 - alpha) / n_trials)
    assert n_stopped / n_trials >= 0.3 * alpha  # the bounds are no wider than the sharing of alpha makes them


def test_of_several_quality_objectives_all_must_be_worse() -> None:
    def both(deviation: float, psnr: float) -> Measurement:
        values = {"deviation": tuple(deviation * HARDNESS), "psnr": tuple(psnr - HARDNESS)}
        return measurement([], quality=values)

    ladder = Ladder(N, ("macs", "deviation", "psnr"), ())
    ladder.note(both(0.1, 30.0))
    ladder.note(both(0.05, 20.0))
    assert climb(ladder, both(0.2, 25.0)) < N
    assert climb(ladder, both(0.09, 25.0)) == N
    assert climb(ladder, both(0.2, 31.0)) == N


def test_a_constraint_that_is_surely_broken_stops_and_its_breakers_stop_nobody() -> None:
    limits = [parse_constraint(text) for text in ("deviation<=0.1", "macs<=0.8", "latency_ms<=90", "memory_gb>=1")]
    ladder = Ladder(N, ("macs", "deviation"), limits)
    assert climb(ladder, measurement(0.3 * HARDNESS, latency=0.5)) == FEW
    assert climb(ladder, measurement(0.01 * HARDNESS, macs=801)) == 1
    assert climb(ladder, measurement(0.01 * HARDNESS, latency=0.5, latency_ms=(95.0,))) == 1
    assert climb(ladder, measurement(0.01 * HARDNESS, latency=0.5, latency_ms=(93.0,))) == N
    centred = 0.1 + 0.05 * (HARDNESS - HARDNESS.mean())
    assert climb(ladder, measurement(centred, latency=0.5)) == N
    ladder.note(measurement(0.01 * HARDNESS, macs=900))
    assert climb(ladder, measurement(0.02 * HARDNESS, latency=0.79)) == N


def successes(chance: float, rng: np.random.Generator, **changes: object) -> Measurement:
    return measurement((rng.random(N) < chance).astype(float), "success", **changes)  # type: ignore[arg-type]


def test_a_few_episodes_do_not_stop_what_fails_as_rarely_and_do_stop_what_fails_often() -> None:
    rng, alpha, n_trials = np.random.default_rng(6), 0.5, 400
    ends, worth, bad = [], [], []
    for _ in range(n_trials):
        ladder = Ladder(N, ("macs", "success"), (), LadderSettings(alpha=alpha))
        rival, candidate = successes(0.96, rng), successes(0.95, rng)
        ladder.note(rival)
        ends.append(climb(ladder, candidate))
        if candidate.mean("success") > rival.mean("success"):
            worth.append(ends[-1] < N)
        bad.append(climb(ladder, successes(0.3, rng)))
    noise = 3.0 * np.sqrt(alpha * (1.0 - alpha) / n_trials)
    assert np.mean(np.array(ends) <= 8) <= alpha + noise
    assert len(worth) > 80
    assert np.mean(worth) <= alpha / 4  # of those whose full result is better: hardly any
    assert np.mean(np.array(bad) <= 8) > 0.95
    assert max(bad) < N


def test_where_the_rival_never_fails_nothing_is_left_to_gain() -> None:
    ladder = Ladder(N, ("macs", "success"), ())
    ladder.note(measurement(np.ones(N), "success"))
    assert climb(ladder, measurement(np.ones(N), "success")) == 1
    assert climb(ladder, measurement(np.ones(N), "success", latency=0.9)) == N


def test_a_limit_on_success_stops_what_surely_breaks_it_only() -> None:
    ladder = Ladder(N, ("macs", "success"), [parse_constraint("success>=0.3")])
    values = np.array([0.0] * 4 + [1.0] * 60)
    assert climb(ladder, measurement(values, "success")) == N  # four failures in a row are no proof of less than 0.3
    assert climb(ladder, measurement(np.zeros(N), "success")) == 16
    ladder = Ladder(N, ("macs", "success"), [parse_constraint("success<=0.3")])
    assert climb(ladder, measurement(np.ones(N), "success")) == FEW


def test_the_estimate_of_a_success_stays_in_0_to_1() -> None:
    ladder = Ladder(N, ("macs", "success"), ())
    hard_first = np.array([0.0] * 4 + [1.0] * 60)
    ladder.note(measurement(hard_first, "success"))
    estimate = ladder.estimate(first(measurement(np.ones(N), "success"), 4))
    assert estimate.quality["success"] == (1.0,) * 4
    assert estimate.error == 0.125
    ladder.note(measurement(1.0 - hard_first, "success"))
    ladder.note(measurement(1.0 - hard_first, "success"))
    estimate = ladder.estimate(first(measurement(np.zeros(N), "success"), 4))
    assert estimate.quality["success"] == (0.0,) * 4


def test_the_estimate_of_a_partial_result_is_corrected_for_its_prompts() -> None:
    ladder = Ladder(N, ("macs", "deviation"), ())
    full = measurement(0.3 * HARDNESS, wall_s=7.0)
    assert ladder.estimate(first(full, 4)) == first(full, 4)
    ladder.note(measurement(0.1 * HARDNESS))
    estimate = ladder.estimate(first(full, 4))
    assert estimate.mean("deviation") == pytest.approx(full.mean("deviation"))
    assert replace(estimate, quality={}) == replace(full, quality={})
    assert ladder.estimate(full) == full


def test_a_front_of_500_is_judged_against_in_a_few_milliseconds() -> None:
    for objectives in (("macs", "deviation"), ("macs", "deviation", "psnr")):
        ladder = Ladder(100, objectives, ())
        for i in range(500):
            quality = {name: tuple(500.0 - i + np.arange(100.0)) for name in ("deviation", "psnr")}
            ladder.note(measurement([], latency=1.0 + i / 1000.0, quality=quality, macs=1000 + i))
        candidate = measurement([], quality={"deviation": (900.0,) * 64, "psnr": (-900.0,) * 64}, macs=2000)
        times = []
        for _ in range(20):
            began = time.process_time()
            ladder.judge(candidate)
            times.append(time.process_time() - began)
        assert min(times) < 0.005  # half a millisecond on an idle core


def test_measurements_are_of_a_rung_and_full_results_of_all_prompts() -> None:
    ladder = Ladder(N, ("macs", "deviation"), ())
    with pytest.raises(ValueError, match=r"rungs \(1, 4, 16, 64\); got 5"):
        ladder.judge(measurement([0.1] * 5))
    with pytest.raises(ValueError, match="64 prompts; got 4"):
        ladder.note(measurement([0.1] * 4))
    with pytest.raises(UsageError, match="'deviation' was not measured here; measured: psnr"):
        ladder.note(measurement([30.0] * N, "psnr"))


@pytest.mark.parametrize(
    "changes",
    [{"first": 0}, {"growth": 1.2}, {"alpha": 0.0}, {"alpha": 1.0}, {"cost_margin": -0.1}, {"quality_margin": 1.0}],
)
def test_settings_are_checked(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"got (-|1\.?2?|0)"):
        LadderSettings(**changes)  # type: ignore[arg-type]


def test_parts_are_merged_in_order_with_the_timings_of_the_larger() -> None:
    four = measurement([1.0, 2.0, 3.0, 4.0], latency_ms=(4.0,), peak_memory_bytes=7)
    two = measurement([5.0, 6.0], latency_ms=(2.0,), peak_memory_bytes=3, wall_s=0.5)
    both = merged(four, two)
    assert both.quality == {"deviation": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}
    assert (both.latency_ms, both.peak_memory_bytes, both.wall_s) == ((4.0,), 7, 1.5)
    assert merged(two, four).latency_ms == (4.0,)
    other = replace(four, latency_ms=(9.0,))
    assert merged(four, other).latency_ms == (9.0,)


def test_what_an_adaptive_schedule_computes_is_averaged_over_prompts() -> None:
    four, two = (replace(measurement([0.1] * n), macs=m, network_calls=c) for n, m, c in ((4, 90, 9), (2, 60, 6)))
    both = merged(four, two, adaptive=True)
    assert (both.macs, both.network_calls) == (80, 8)
    with pytest.raises(EvaluatorError, match="agree in macs"):
        merged(four, two)


def test_metrics_that_one_part_lacks_are_left_out() -> None:
    lower = measurement([], quality={"deviation": (0.1,), "alignment": (0.9,)})
    assert merged(lower, measurement([0.2])).quality == {"deviation": (0.1, 0.2)}


def test_parts_of_different_schedules_are_not_merged() -> None:
    part = measurement([0.1])
    for other, name in (
        (measurement([0.1], macs=1), "macs"),
        (measurement([0.1], baseline_macs=1), "baseline_macs"),
        (measurement([0.1], network_calls=1), "network_calls"),
    ):
        with pytest.raises(EvaluatorError, match=f"agree in {name}"):
            merged(part, other)
