"""What a bench says of measurements that are made by hand."""

import dataclasses
from collections.abc import Sequence

import pytest

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.reports.bench_table import bench_json, bench_rows, bench_tables, csv_rows, verdict
from autotune.spaces.bench_result import BenchResult, Contestant, affordable_calls, is_no_slower, probe_calls
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile

JITTER = (1.0, 1.01, 0.99)
CLAIM: dict[str, object] = {"held_out": {"quality_mean": {"deviation": 0.04}, "speedup": 2.5, "latency_ms": [40.0]}}


def measured(
    share: float, deviation: Sequence[float], jitter: Sequence[float] = JITTER, *, work: float | None = None
) -> Measurement:
    """A share of the default run's latency, and of its work, which is as much unless given."""
    work = share if work is None else work
    return Measurement(
        quality={"deviation": tuple(deviation), "psnr": tuple(30.0 - 100.0 * d for d in deviation)},
        latency_ms=tuple(100.0 * share * x for x in jitter),
        baseline_latency_ms=(100.0,) * len(jitter),
        macs=round(1000 * work),
        baseline_macs=1000,
        network_calls=round(20 * work),
        peak_memory_bytes=0,
        wall_s=0.0,
    )


def bench(
    own: Measurement,
    *rivals: Measurement,
    claim: dict[str, object] | None = None,
    kernels: Measurement | None = None,
    quantization: str | None = None,
) -> BenchResult:
    condition = small_flux_condition(small_flux_inventory())
    n = own.n_prompts
    return BenchResult(
        source="a.schedule.json",
        file=ScheduleFile(
            schedule=Schedule(n_steps=10, quantization=quantization), condition=condition, measured=claim or {}
        ),
        condition=dataclasses.replace(condition, device="another"),
        fidelity=Fidelity(name="bench", prompts=tuple("abcdef"[:n]), seeds=tuple(range(7, 7 + n))),
        prompts_from="a list",
        repeats=3,
        default=Contestant(label="default run", measurement=measured(1.0, [0.1] * n)),
        schedule=Contestant(label="own", measurement=own),
        kernels=None if kernels is None else Contestant(label="with kernels", measurement=kernels),
        rivals=tuple(Contestant(label=f"rival {i}", measurement=m) for i, m in enumerate(rivals)),
    )


def test_the_rival_deviates_least_of_those_that_are_no_slower() -> None:
    own = measured(0.5, [0.05, 0.06, 0.07, 0.04])
    slow, good, poor = measured(0.6, [0.01] * 4), measured(0.45, [0.07, 0.08, 0.08, 0.06]), measured(0.4, [0.2] * 4)
    result = bench(own, slow, poor, good)
    assert result.rival is not None
    assert result.rival.label == "rival 2"
    default, schedule, rival = bench_rows(result)
    assert (default["role"], schedule["role"], rival["role"]) == ("default", "schedule", "rival")
    assert schedule["difference"] == pytest.approx(-0.0175)
    assert default["difference"] == pytest.approx(0.1 - 0.0725)
    assert rival["difference"] is None
    low, high = schedule["intervals"]["difference"]  # type: ignore[index]
    assert -0.021 < low < -0.0175 < high < -0.009
    assert verdict(result).startswith(
        "The schedule deviates 24 % less than the rival (rival 2), which takes no more time"
    )


def test_rivals_of_a_quantized_schedule_are_not_held_to_the_time_of_fake_quantization() -> None:
    """It computes half of the work, and takes longer than the default run for rounding everything."""
    slow = measured(1.3, [0.05] * 4, work=0.5)
    rivals = measured(0.7, [0.01] * 4), measured(0.52, [0.03] * 4), measured(0.45, [0.07] * 4)
    result = bench(slow, *rivals, quantization="a" * 64)
    assert result.rival is not None
    assert result.rival.label == "rival 2"
    real = bench(slow, *rivals, quantization="a" * 64, kernels=measured(0.55, [0.06] * 4))
    assert real.rival is not None
    assert real.rival.label == "rival 1"
    roles = {row["role"]: row for row in bench_rows(real)}
    assert list(roles) == ["default", "schedule", "kernels", "rival"]
    assert roles["kernels"]["deviation"] == pytest.approx(0.06)
    assert roles["schedule"]["deviation"] == pytest.approx(0.05)
    assert "Real kernels (--kernels) have a row of their own" in " ".join(bench_tables(real)[0].notes)


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        ([0.02, 0.03, 0.03, 0.02], "deviates 120 % more than the rival"),
        ([0.06, 0.05, 0.06, 0.05], "can't be told apart by deviation on these 4 prompts"),
        ([0.05, 0.06, 0.07, 0.04], "deviates as the rival (rival 0) does on every prompt"),
    ],
)
def test_the_verdict_says_no_more_than_the_interval(rival: list[float], words: str) -> None:
    assert words in verdict(bench(measured(0.5, [0.05, 0.06, 0.07, 0.04]), measured(0.5, rival)))


def test_one_prompt_gives_no_verdict_and_slower_rivals_are_none() -> None:
    assert "one prompt says nothing" in verdict(bench(measured(0.5, [0.05]), measured(0.5, [0.01])))
    alone = bench(measured(0.5, [0.05] * 2), measured(0.7, [0.01] * 2))
    assert alone.rival is None
    assert "all 1 that were measured are slower" in verdict(alone)
    assert [row["role"] for row in bench_rows(alone)] == ["default", "schedule"]


def test_a_schedule_slower_than_the_default_run_has_it_for_a_rival() -> None:
    result = bench(measured(1.2, [0.2] * 4))
    assert "100 % more than the default run" in verdict(result)
    assert bench_rows(result)[1]["difference"] == pytest.approx(0.1)


def test_noise_and_unlucky_timings_of_no_more_work_rule_no_rival_out() -> None:
    own = measured(0.5, [0.05])
    assert not is_no_slower(measured(0.55, [0.05]), own)
    assert is_no_slower(measured(0.52, [0.05], (1.0, 1.1, 0.9, 0.8)), measured(0.5, [0.05], (1.0, 1.2, 0.8)))
    assert is_no_slower(measured(0.55, [0.05], work=0.5), own)  # the same work, on a busy moment
    cached = measured(0.5, [0.05], work=1.0)
    assert not is_no_slower(measured(0.55, [0.05], work=1.1), cached)


def test_calls_that_a_latency_affords_lie_on_a_line_through_default_run_and_probe() -> None:
    fixed, per_call = 0.2, 0.04  # of 20 calls

    def share(n: int) -> float:
        return fixed + per_call * n

    assert probe_calls(measured(share(8), [0.1]), 20) == 11
    assert probe_calls(measured(0.469, [0.1], work=0.5), 20) == 10  # timed by luck below its work
    assert probe_calls(measured(1.4, [0.1]), 20) == 20
    assert [affordable_calls(share(n) + 1e-6, 20, 11, share(11)) for n in (3, 8, 11, 15)] == [3, 8, 11, 11]
    assert affordable_calls(0.1, 20, 2, share(2)) == 1
    assert affordable_calls(0.9, 20, 18, 1.01) == 18


def test_the_file_is_held_against_what_it_claims() -> None:
    result = bench(measured(0.5, [0.05, 0.07]), claim=CLAIM)
    found = bench_json(result)
    assert found["claimed"] == {"measured_on": "held_out", "latency_ms": 40.0, "speedup": 2.5, "deviation": 0.04}
    assert found["shift"] == pytest.approx({"latency_ms": 1.25, "speedup": 0.8, "deviation": 0.02})
    assert found["differences"] == {"device": [result.file.condition.device, "another"]}
    text = bench_tables(result)[1].to_markdown()
    assert "-20.0 %" in text
    assert "+0.02" in text
    assert "device (was" in text


@pytest.mark.parametrize("claim", [{}, {"held_out": 3}, {"held_out": {"quality_mean": [1]}}, {"calibration": None}])
def test_a_file_without_figures_claims_nothing(claim: dict[str, object]) -> None:
    result = bench(measured(0.5, [0.05, 0.07]), claim=claim)
    assert bench_json(result)["claimed"] is None
    assert "was not measured" in bench_tables(result)[1].notes[0]


def test_csv_has_an_interval_in_two_columns() -> None:
    rows = csv_rows(bench(measured(0.5, [0.05, 0.07]), measured(0.4, [0.06, 0.08])))
    assert [row["role"] for row in rows] == ["default", "schedule", "rival", "tried"]
    assert rows[1]["difference_low"] == rows[1]["difference_high"] == pytest.approx(-0.01)
    assert rows[2]["difference_low"] is None
    assert "intervals" not in rows[0]
