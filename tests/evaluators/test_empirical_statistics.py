"""Fitting: on networks whose statistics are known, and through the unmodified pipelines."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from autotune.evaluators.empirical_statistics import fit_statistics, guided_calls
from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.evaluators.statistics_artifact import (
    load_statistics,
    parse_statistics,
    save_statistics,
    statistics_name,
)
from autotune.spaces.dpm_v3 import compile_dpm_v3, make_dpm_v3
from autotune.spaces.empirical_statistics import EmpiricalStatistics
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError, UsageError
from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
MEAN = np.array([0.5, -1.0, 0.2])
MIXING = np.array([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.4, 0.9]])
COVARIANCE = MIXING @ MIXING.T


def noise_prediction(x: np.ndarray[Any, Any], alpha: float, sigma: float) -> np.ndarray[Any, Any]:
    """The exact network of Gaussian data with dependent elements."""
    inverse = np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(3))
    return np.asarray(sigma * (x - alpha * MEAN) @ inverse)


def network(noise: Any) -> Callable[[torch.Tensor, float], torch.Tensor]:
    def call(x: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
        inverse = torch.tensor(np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(3)))
        eps = sigma * (x - alpha * torch.tensor(MEAN)) @ inverse
        return eps if isinstance(noise, VariancePreserving) else eps - (x - sigma * eps) / alpha

    return call


def moved(x: np.ndarray[Any, Any], lam: float, to: float) -> np.ndarray[Any, Any]:
    """Exact trajectories of the probability flow ODE on a variance-preserving process."""
    values, vectors = np.linalg.eigh(COVARIANCE)
    a, b = (1 / np.sqrt(1 + np.exp(-2 * at)) for at in (lam, to))
    stretch = np.sqrt((b**2 * values + 1 - b**2) / (a**2 * values + 1 - a**2))
    return np.asarray(b * MEAN + ((x - a * MEAN) @ vectors * stretch) @ vectors.T)


def test_the_fit_is_the_regression_along_exact_trajectories() -> None:
    """l against the mean diagonal of sigma d eps / d x; s and b against np.polyfit of df on f with f as defined."""
    n, t_start = 2000, 950.0
    start = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = fit_statistics([(network(LINEAR), start)], LINEAR, "noise", t_start=t_start, n_levels=40)
    ratio = np.exp(-2 * got.lam)
    diagonal = [np.diag(np.linalg.inv(COVARIANCE + r * np.eye(3))) * r for r in ratio]
    assert np.abs(got.l - diagonal).max() < 0.03
    width = 1e-3
    for i in (8, 20, 32):
        lam = got.lam[i]
        slope = np.gradient(np.sqrt(1 + ratio)[:, None] * (1 - got.l), got.lam, axis=0)[i]
        k = np.sqrt(1 + ratio[i]) * (1 - got.l[i])
        f = []
        for at in (lam - width, lam, lam + width):
            alpha = 1 / np.sqrt(1 + np.exp(-2 * at))
            x = moved(start.numpy(), got.lam[0], at)
            linear = 1 - alpha * (k + slope * (at - lam))
            sigma = np.sqrt(1 - alpha**2)
            f.append((sigma * noise_prediction(x, alpha, sigma) - linear * x) / alpha)
        for element in range(3):
            s, b = np.polyfit(f[1][:, element], (f[2] - f[0])[:, element] / (2 * width), 1)
            assert got.s[i, element] == pytest.approx(s, abs=0.03)
            assert got.b[i, element] == pytest.approx(b, abs=0.03)


def test_velocity_and_noise_predictions_of_a_flow_have_the_same_statistics() -> None:
    start = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flow = Flow()

    def as_noise(x: torch.Tensor, t: float) -> torch.Tensor:
        return x + float(flow.alpha(t)) * network(flow)(x, t)

    a = fit_statistics([(network(flow), start)], flow, "velocity", t_start=990.0, n_levels=12)
    b = fit_statistics([(as_noise, start)], flow, "noise", t_start=990.0, n_levels=12)
    for name in ("l", "s", "b"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-8)


def test_one_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="at least two samples"):
        fit_statistics([(network(LINEAR), torch.ones(1, 3).double())], LINEAR, "noise", t_start=900.0, n_levels=3)


# Through pipelines.


def described(pipe: Any) -> tuple[Any, Any]:
    return noise_schedule_of(pipe.scheduler, flow_mu(pipe, 32, 32)), prediction_of(pipe.scheduler)


def test_the_guided_output_is_what_the_pipelines_scheduler_sees(
    pipe_case: tuple[Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, arguments = pipe_case
    own, seen = pipe.scheduler, []
    step = own.step

    def recording(output: torch.Tensor, t: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((output.clone(), float(t), sample.clone()))
        return step(output, t, sample, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(own, "step", recording)
        pipe(**arguments, generator=torch.Generator().manual_seed(0))
    noise, prediction = described(pipe)
    with guided_calls(pipe, arguments | {"generator": torch.Generator().manual_seed(0)}, noise, prediction) as (
        guided,
        start,
    ):
        torch.testing.assert_close(start * getattr(own, "init_noise_sigma", 1.0), seen[0][2])
        for output, t, sample in seen[:3]:
            torch.testing.assert_close(guided(sample, t).detach(), output, rtol=1e-4, atol=1e-5)
        x = seen[1][2].requires_grad_()
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        (slope,) = torch.autograd.grad((guided(x, seen[1][1]) * direction).sum(), x)
        with torch.no_grad():
            high, low = (guided(x + h * direction, seen[1][1]) for h in (0.01, -0.01))
        along = float(((high - low) * direction).sum() / 0.02)
        assert float((slope * direction).sum()) == pytest.approx(along, rel=0.02)
    assert pipe.scheduler is own


@pytest.fixture(scope="module")
def fitted(flux_pipe: Any) -> tuple[EmpiricalStatistics, Any, Any]:
    noise, prediction = described(flux_pipe)
    arguments = {"prompt": ["a truck", "a bird"], "height": 32, "width": 32, "max_sequence_length": 16}

    def batches() -> Iterator[Any]:
        with guided_calls(
            flux_pipe, arguments | {"generator": torch.Generator().manual_seed(0)}, noise, prediction
        ) as batch:
            yield batch

    statistics = fit_statistics(batches(), noise, prediction, t_start=1000.0, n_levels=4)
    return statistics, noise, prediction


def test_statistics_of_flux_have_the_packed_layout_and_run_in_its_pipeline(
    flux_pipe: Any, fitted: tuple[EmpiricalStatistics, Any, Any], small_args: Callable[..., dict[str, Any]]
) -> None:
    statistics, noise, prediction = fitted
    own = flux_pipe.scheduler
    times = own_timesteps(own, 4, noise.mu)

    def latents(program: Any, **changes: Any) -> torch.Tensor:
        flux_pipe.scheduler = SolverProgramScheduler.from_program(program, own, noise, prediction)
        try:
            images = flux_pipe(**small_args("mini-flux", **changes), generator=torch.Generator().manual_seed(3)).images
        finally:
            flux_pipe.scheduler = own
        assert isinstance(images, torch.Tensor)
        return images

    program = compile_dpm_v3(times, make_dpm_v3(times, noise), noise, prediction, statistics)
    images = latents(program)
    assert statistics.element_shape == tuple(images.shape[1:])
    assert torch.isfinite(images).all()
    with pytest.raises(ScheduleError, match="fit them for this resolution"):
        latents(program, size=64)
    # Of l = 1, s = b = 0 it is DPM-Solver++.
    zero = np.zeros_like(statistics.l)
    plain = EmpiricalStatistics(lam=statistics.lam, l=zero + 1, s=zero, b=zero)
    rows = make_dpm_v3(times, noise, order=2, corrector_below=0.0)
    expected_plan = Schedule(n_steps=4, time=times, solver=make_solver("dpmpp-2m-heun", 4, noise))
    expected_scheduler = SolverProgramScheduler.from_schedule(expected_plan, own, noise, prediction)
    expected = latents(expected_scheduler.program)
    got = latents(compile_dpm_v3(times, rows, noise, prediction, plain))
    assert float((got - expected).norm() / expected.norm()) < 1e-5


# The file.


class Folder:
    """Artifacts in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, name: str, data: bytes, kind: str) -> None:
        self.kept[name] = data

    def load(self, name: str) -> bytes | None:
        return self.kept.get(name)


def test_what_is_saved_is_what_is_loaded(fitted: tuple[EmpiricalStatistics, Any, Any]) -> None:
    artifacts, name = Folder(), statistics_name("ab12", n_samples=2, n_levels=4)
    assert load_statistics(artifacts, name, "ab12") is None
    save_statistics(artifacts, name, fitted[0], "ab12")
    read = load_statistics(artifacts, name, "ab12")
    assert read is not None
    np.testing.assert_array_equal(read.lam, fitted[0].lam)
    for key in ("l", "s", "b"):
        np.testing.assert_array_equal(getattr(read, key), getattr(fitted[0], key).astype(np.float32))
    with pytest.raises(ScheduleMismatchError, match="fitted under ab12, this is cd34"):
        load_statistics(artifacts, name, "cd34")


def test_damaged_files_are_refused(fitted: tuple[EmpiricalStatistics, Any, Any]) -> None:
    artifacts = Folder()
    save_statistics(artifacts, "x", fitted[0], "ab12")
    data = artifacts.kept["x"]
    with pytest.raises(ScheduleError, match="safetensors"):
        parse_statistics(data[:-5], "ab12")
    tensors, marks = load(data), {"format": "dpm-v3-statistics-1", "condition": "ab12"}
    with pytest.raises(ScheduleError, match="the tensors lam, l, s, b"):
        parse_statistics(save({key: tensors[key] for key in ("lam", "l", "s")}, marks), "ab12")
    with pytest.raises(ScheduleError, match="format"):
        parse_statistics(save(tensors), "ab12")
    with pytest.raises(ScheduleError, match="strictly increasing"):
        parse_statistics(save(tensors | {"lam": tensors["lam"][::-1].copy()}, marks), "ab12")
    with pytest.raises(ScheduleError, match="finite"):
        parse_statistics(save(tensors | {"s": np.full_like(tensors["s"], np.nan)}, marks), "ab12")
