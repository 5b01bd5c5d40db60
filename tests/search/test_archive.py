import gc
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.archive import ParetoArchive
from autotune.search.searcher import Proposal, Result
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.objective import objective_value, parse_constraint
from autotune.spaces.pareto import front_hypervolume, non_dominated
from autotune.spaces.schedule import Schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat",), seeds=(0,))


def result(n_steps: int) -> Result:
    proposal = Proposal(schedule=Schedule(n_steps=n_steps), family="fewer-steps", label=f"{n_steps}")
    return Result(proposal=proposal, outcome=TabulatedEvaluator().score(proposal.schedule, FIDELITY))


def test_archive_keeps_the_front_and_its_hypervolume() -> None:
    archive = ParetoArchive(("macs", "deviation"))
    results = [result(n) for n in (20, 10, 5)]
    assert [archive.add(r) for r in results] == [True, True, True]
    measurements = [r.measurement for r in results if r.measurement is not None]
    expected = front_hypervolume([m.relative_macs for m in measurements], [m.mean("deviation") for m in measurements])
    assert archive.hypervolume == pytest.approx(expected)
    assert [p.label for p in archive.members] == ["20", "10", "5"]
    assert archive.measurements == tuple(measurements)


def test_archive_refuses_failures_copies_and_what_breaks_a_constraint() -> None:
    archive = ParetoArchive(("latency", "deviation"), [parse_constraint("deviation<=0.05")])
    assert archive.add(result(10))
    assert not archive.add(result(10))
    assert not archive.add(result(4))
    failure = Failure(kind=FailureKind.TIMEOUT, reason="slow")
    assert not archive.add(Result(proposal=result(7).proposal, outcome=failure))
    assert len(archive) == 1


def test_a_gain_is_that_of_the_quality_which_the_study_is_about() -> None:
    """By the deviation, of which a reward knows nothing, the second would lose what the first one had."""
    archive = ParetoArchive(("latency", "psnr"))
    assert archive.gain(made_up("first", macs=0.8, deviation=0.01, psnr=20.0)) > 0.0
    assert archive.gain(made_up("better", macs=0.4, deviation=0.9, psnr=30.0)) > 0.0
    assert archive.gain(made_up("beaten", macs=0.5, deviation=0.001, psnr=29.0)) == 0.0
    a_little = archive.gain(made_up("faster", macs=0.39, deviation=0.9, psnr=20.0))
    assert 0.0 < a_little < archive.gain(made_up("much faster", macs=0.1, deviation=0.9, psnr=29.0))
    assert {p.label for p in archive.members} == {"better", "much faster"}


def test_a_gain_in_deviation_is_what_the_hypervolume_grows_by() -> None:
    archive, grown = ParetoArchive(("latency", "deviation")), 0.0
    for i, (macs, deviation) in enumerate([(0.5, 0.1), (0.4, 0.05), (0.6, 0.2), (0.9, 0.002)]):
        gain = archive.gain(made_up(str(i), macs=macs, deviation=deviation))
        assert gain == pytest.approx(archive.hypervolume - grown)
        grown = archive.hypervolume
    assert grown > 0.0


def made_up(label: str, *, macs: float, deviation: float, psnr: float = 0.0, ssim: float = 0.0) -> Result:
    """A result with these values; MACs and latency relative to the baseline's are the same."""
    proposal = Proposal(schedule=Schedule(n_steps=1), family="random", label=label)
    measurement = Measurement(
        quality={"deviation": (deviation,), "psnr": (psnr,), "ssim": (ssim,)},
        latency_ms=(macs,),
        baseline_latency_ms=(1.0,),
        macs=int(macs * 1000),
        baseline_macs=1000,
        network_calls=1,
        peak_memory_bytes=0,
        wall_s=1.0,
    )
    return Result(proposal=proposal, outcome=measurement)


grid = st.integers(0, 5)
OBJECTIVES = [
    ("deviation",),
    ("macs", "deviation"),
    ("deviation", "latency"),
    ("psnr", "ssim"),
    ("latency", "deviation", "psnr"),
    ("psnr", "ssim", "macs"),
    ("macs", "deviation", "psnr", "ssim"),
]


@pytest.mark.parametrize("objectives", OBJECTIVES, ids=",".join)
@given(st.lists(st.tuples(grid, grid, grid, grid), min_size=1, max_size=25))
def test_archive_is_the_front_of_all_results_in_order_of_arrival(
    objectives: tuple[str, ...], rows: list[tuple[int, int, int, int]]
) -> None:
    results = [
        made_up(str(i), macs=a / 5, deviation=10.0 ** (b - 4), psnr=c, ssim=d) for i, (a, b, c, d) in enumerate(rows)
    ]
    measurements = [r.measurement for r in results if r.measurement is not None]
    values = [[objective_value(name, m) for name in objectives] for m in measurements]
    archive = ParetoArchive(objectives)
    for i, result in enumerate(results):
        kept = non_dominated(values[: i + 1])
        assert archive.add(result) == kept[-1]
        assert [p.label for p in archive.members] == np.flatnonzero(kept).astype(str).tolist()
        front = [m for m, keep in zip(measurements, kept, strict=False) if keep]
        expected = front_hypervolume([m.relative_macs for m in front], [m.mean("deviation") for m in front])
        assert archive.hypervolume == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objectives", [("macs", "deviation"), ("deviation", "macs", "psnr")], ids=",".join)
def test_archive_never_keeps_nan(objectives: tuple[str, ...]) -> None:
    archive = ParetoArchive(objectives)
    assert not archive.add(made_up("nan", macs=0.5, deviation=float("nan")))
    assert archive.add(made_up("inf", macs=0.5, deviation=float("inf")))
    assert archive.add(made_up("finite", macs=0.5, deviation=1.0))
    assert [p.label for p in archive.members] == ["finite"]


def test_archive_lets_go_of_what_is_dominated() -> None:
    archive = ParetoArchive(("macs", "deviation"))
    old = made_up("old", macs=0.5, deviation=0.1)
    archive.add(old)
    proposal = weakref.ref(old.proposal)
    del old
    gc.collect()
    assert proposal() is not None
    archive.add(made_up("new", macs=0.4, deviation=0.1))
    gc.collect()
    assert proposal() is None


@pytest.mark.parametrize(
    ("objectives", "n_points"), [(("macs", "deviation"), 2_000), (("macs", "deviation", "psnr"), 500)]
)
def test_time_on_a_growing_front_grows_less_than_quadratically(objectives: tuple[str, ...], n_points: int) -> None:
    def seconds(n: int) -> float:
        rng, archive = np.random.default_rng(0), ParetoArchive(objectives)
        results = [
            made_up("x", macs=i, deviation=1.0 / (1.0 + i), psnr=noise)
            for i, noise in zip(rng.permutation(n).tolist(), rng.random(n).tolist(), strict=True)
        ]
        began = time.process_time()
        for result in results:
            assert archive.add(result)
            assert archive.hypervolume >= 0.0
        return time.process_time() - began

    assert seconds(10 * n_points) < 40 * seconds(n_points)  # a hundred times as many pairs
