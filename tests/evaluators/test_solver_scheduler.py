"""One scheduler equals diffusers' own, with an analytic network and inside the three pipelines."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, NoiseSchedule, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import shift_flow_times, uniform_lambda

D: Any = diffusers  # its constructors are untyped

LINEAR: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCALED: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# Euler and LMS start from noise times sigma, not noise, with the other spacings.
LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}
FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
MEANS, SPREADS, WEIGHTS = torch.tensor([-1.0, 0.7]), torch.tensor([0.35, 0.5]), torch.tensor([0.4, 0.6])

Loop = list[torch.Tensor]


def denoise(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """E[x_0 | x] of a two-component Gaussian mixture."""
    means, spreads, weights = (v.to(x.dtype) for v in (MEANS, SPREADS, WEIGHTS))
    variance = (alpha * spreads) ** 2 + sigma**2
    gap = x[..., None] - alpha * means
    posterior = torch.softmax(weights.log() - 0.5 * variance.log() - 0.5 * gap**2 / variance, dim=-1)
    return (posterior * (means + alpha * spreads**2 / variance * gap)).sum(dim=-1)


def network_output(x: torch.Tensor, t: float, noise: NoiseSchedule, prediction: str) -> torch.Tensor:
    alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
    data = denoise(x, alpha, sigma)
    eps = (x - alpha * data) / sigma
    if prediction == "velocity":
        return eps - data if isinstance(noise, Flow) else alpha * eps - sigma * data
    return eps if prediction == "noise" else data


def loop(scheduler: Any, times: Sequence[float], net: Callable[[torch.Tensor, float], torch.Tensor]) -> Loop:
    """What the network is called with at every step, and the sample."""
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    inputs = []
    for t, level in zip(scheduler.timesteps, times, strict=True):
        inputs.append(scale(x, t))
        # The network knows the exact level; some schedulers round the timestep that they hand out.
        x = scheduler.step(net(inputs[-1], level), t, x, return_dict=False)[0]
    return [*inputs, x]


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert torch.isfinite(ours).all()
    assert torch.isfinite(theirs).all()
    return float((ours - theirs).double().norm() / theirs.double().norm())


PAIRS: list[tuple[str, Any]] = [
    ("euler", D.DDIMScheduler(**LINEAR, clip_sample=False)),
    ("euler", D.DDIMScheduler(**SCALED, clip_sample=False, steps_offset=1)),
    (
        "euler",
        D.DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing="trailing", prediction_type="v_prediction"),
    ),
    ("euler", D.EulerDiscreteScheduler(**SCALED, **LEADING)),
    ("euler", D.FlowMatchEulerDiscreteScheduler()),
    ("euler", D.FlowMatchEulerDiscreteScheduler(shift=3.0)),
    ("euler", D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
    ("euler", D.DPMSolverMultistepScheduler(**FLOW, solver_order=1)),
    ("euler", D.DPMSolverMultistepScheduler(**LINEAR, solver_order=1)),
    *[
        (name, D.DPMSolverMultistepScheduler(**noise, solver_type=solver_type))
        for name, solver_type in (("dpmpp-2m", "midpoint"), ("dpmpp-2m-heun", "heun"))
        for noise in (LINEAR, SCALED, SCALED | {"prediction_type": "v_prediction"}, FLOW)
    ],
    *[
        (f"unipc-{p}{suffix}", D.UniPCMultistepScheduler(**noise, solver_order=p, solver_type=kind))
        for p in (1, 2, 3)
        for suffix, kind in (("", "bh2"), ("-b1", "bh1"))
        for noise in (LINEAR, SCALED, SCALED | {"prediction_type": "sample"}, FLOW)
    ],
    ("ab2", D.LMSDiscreteScheduler(**LINEAR, **LEADING)),
    ("ab3", D.LMSDiscreteScheduler(**LINEAR, **LEADING)),
    ("ab2", D.LMSDiscreteScheduler(**SCALED, **LEADING, prediction_type="v_prediction")),
    ("ab3", D.LMSDiscreteScheduler(**SCALED, **LEADING)),
]


def label(pair: tuple[str, Any]) -> str:
    config = pair[1].config
    kind = "flow" if config.get("use_flow_sigmas") or "shift" in config else config["beta_schedule"]
    return (
        f"{pair[0]}-{type(pair[1]).__name__.removesuffix('Scheduler')}-{kind}-{config.get('prediction_type', 'flow')}"
    )


def their_run(scheduler: Any, name: str, n: int) -> Any:
    """A copy of diffusers' scheduler, ready for a run of `n` steps on its own grid."""
    ready = copy.deepcopy(scheduler)
    if isinstance(ready, D.FlowMatchEulerDiscreteScheduler):
        ready.set_timesteps(sigmas=np.linspace(1, 1 / n, n), mu=0.8)
    else:
        ready.set_timesteps(n)
    if isinstance(ready, D.LMSDiscreteScheduler):
        order, step = int(name[-1]), ready.step
        ready.step = lambda out, t, x, return_dict: step(out, t, x, order=order, return_dict=return_dict)
    return ready


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_equals_diffusers_with_an_analytic_network(pair: tuple[str, Any], n: int) -> None:
    name, scheduler = pair
    noise, prediction = noise_schedule_of(scheduler, mu=0.8), prediction_of(scheduler)
    times = own_timesteps(scheduler, n, mu=0.8)
    plan = Schedule(n_steps=n, time=times, solver=make_solver(name, n, noise))
    ours = SolverProgramScheduler.from_schedule(plan, scheduler, noise, prediction)

    def net(x: torch.Tensor, t: float) -> torch.Tensor:
        return network_output(x, t, noise, prediction)

    theirs = their_run(scheduler, name, n)
    expected = loop(theirs, times, net)
    got = loop(ours, times, net)
    if theirs.config.get("solver_type") == "bh1":
        # Its last step multiplies infinity by zero; of order 1 it is the data prediction at the last input.
        alpha, sigma = float(noise.alpha(times[-1])), float(noise.sigma(times[-1]))
        expected[-1] = denoise(expected[-2], alpha, sigma)
    assert len(got) == n + 1
    assert max(gap(a, b) for a, b in zip(got, expected, strict=True)) < 1e-5


# Inside the pipelines.

CALLS: dict[str, dict[str, Any]] = {
    "flux": {"max_sequence_length": 16},
    "pixart": {
        "guidance_scale": 3.0, "max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False,
    },
    "sd": {"guidance_scale": 5.0},
}  # fmt: skip
SHIFTING: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}

END_TO_END: list[tuple[str, str, type[Any], dict[str, Any]]] = [
    ("flux", "euler", D.FlowMatchEulerDiscreteScheduler, {}),
    ("flux", "unipc-2", D.UniPCMultistepScheduler, SHIFTING),
    ("flux", "dpmpp-2m", D.DPMSolverMultistepScheduler, SHIFTING),
    ("pixart", "dpmpp-2m", D.DPMSolverMultistepScheduler, {}),
    ("pixart", "dpmpp-2m-heun", D.DPMSolverMultistepScheduler, {"solver_type": "heun"}),
    ("pixart", "unipc-3", D.UniPCMultistepScheduler, {"solver_order": 3}),
    ("sd", "euler", D.DDIMScheduler, {"set_alpha_to_one": True, "clip_sample": False}),
    ("sd", "dpmpp-2m", D.DPMSolverMultistepScheduler, {}),
    ("sd", "unipc-2", D.UniPCMultistepScheduler, {}),
    ("sd", "order-4", D.LMSDiscreteScheduler, {}),
]


def latents(pipe: Any, model: str, n: int) -> torch.Tensor:
    images = pipe(
        ["a red truck", "a small bird"],
        height=32,
        width=32,
        num_inference_steps=n,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        output_type="latent",
        **CALLS[model],
    ).images
    assert isinstance(images, torch.Tensor)
    return images


@pytest.fixture
def pipes(flux_pipe: Any, pixart_pipe: Any, sd_pipe: Any) -> Any:
    """The three pipelines; their schedulers are put back."""
    by_name = {"flux": flux_pipe, "pixart": pixart_pipe, "sd": sd_pipe}
    before = {name: pipe.scheduler for name, pipe in by_name.items()}
    yield by_name
    for name, pipe in by_name.items():
        pipe.scheduler = before[name]


def truncated(scheduler: SolverProgramScheduler) -> None:
    """Call the network at timesteps rounded down, as diffusers' flow solvers do."""
    scheduler.program = replace(scheduler.program, timesteps=np.floor(scheduler.program.timesteps))


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize(("model", "name", "kind", "changes"), END_TO_END)
def test_equals_diffusers_end_to_end(
    pipes: Any, model: str, name: str, kind: type[Any], changes: dict[str, Any], n: int
) -> None:
    pipe = pipes[model]
    pipe.scheduler = theirs = kind.from_config(pipe.scheduler.config, **changes)
    mu = flow_mu(pipe, 32, 32)
    expected = latents(pipe, model, n)

    noise, prediction = noise_schedule_of(theirs, mu), prediction_of(theirs)
    if name == "order-4":
        solver = tuple(SolverStep(view="noise", domain="sigma", order=min(4, i + 1)) for i in range(n))
    else:
        solver = make_solver(name, n, noise)
    plan = Schedule(n_steps=n, time=own_timesteps(theirs, n, mu), solver=solver)
    pipe.scheduler = ours = SolverProgramScheduler.from_schedule(plan, theirs, noise, prediction)
    if theirs.config.get("use_flow_sigmas"):
        truncated(ours)
    assert gap(latents(pipe, model, n), expected) < 1e-3
    assert ours.step_index == n


def test_float_timesteps_reach_the_network(pipes: Any) -> None:
    pipe = pipes["sd"]
    noise = noise_schedule_of(pipe.scheduler)
    times = uniform_lambda(noise, 4, t_end=20.5)
    plan = Schedule(n_steps=4, time=times, solver=make_solver("unipc-2", 4, noise))
    pipe.scheduler = SolverProgramScheduler.from_schedule(plan, pipe.scheduler, noise, "noise")
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(float(args[1])))
    try:
        result = latents(pipe, "sd", 4)
    finally:
        handle.remove()
    assert seen == pytest.approx(times, rel=1e-6)
    assert seen[1] != round(seen[1])
    assert torch.isfinite(result).all()


# Contract with pipelines.


def flow_scheduler(n: int = 4, *, mu: float = 0.5, name: str = "unipc-2") -> SolverProgramScheduler:
    original = D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    noise = Flow(mu=mu, dynamic=True)
    plan = Schedule(n_steps=n, time=own_timesteps(original, n, mu), solver=make_solver(name, n, noise))
    return SolverProgramScheduler.from_schedule(plan, original, noise, "velocity")


def sample_with(scheduler: SolverProgramScheduler) -> torch.Tensor:
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        x = scheduler.step(network_output(x, float(t), Flow(), "velocity"), t, x).prev_sample
    return x


def test_config_is_the_original_ones_without_its_class_name() -> None:
    scheduler = flow_scheduler()
    assert scheduler.config["base_image_seq_len"] == 256
    assert scheduler.config["use_dynamic_shifting"] is True
    assert not [name for name in scheduler.config if name.startswith("_")]
    restored = D.FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    assert restored.config["max_shift"] == 1.15
    assert '"_class_name": "SolverProgramScheduler"' in scheduler.to_json_string()
    assert len(scheduler) == 1000


def test_another_step_count_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = flow_scheduler(4)
    with caplog.at_level(logging.WARNING):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.05, 20), mu=0.5)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.05, 20), mu=0.5)
    assert [r.message for r in caplog.records] == [
        "the applied schedule has 4 steps; the 20 that were asked for are ignored"
    ]
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 4
    caplog.clear()
    scheduler.set_timesteps(4, mu=0.5)
    assert not caplog.records


def test_another_resolution_translates_the_grid_in_lambda(caplog: pytest.LogCaptureFixture) -> None:
    scheduler, native = flow_scheduler(5, mu=0.5), flow_scheduler(5, mu=1.15)
    scheduler.set_timesteps(5, mu=1.15)
    assert "time shift" in caplog.text
    np.testing.assert_allclose(scheduler.timesteps, native.timesteps, rtol=1e-6)
    assert float(scheduler.timesteps[0]) == 1000.0
    native.set_timesteps(5, mu=1.15)
    assert gap(sample_with(scheduler), sample_with(native)) < 1e-5
    scheduler.set_timesteps(5, mu=0.5)
    np.testing.assert_allclose(scheduler.timesteps, flow_scheduler(5).timesteps)


def test_a_static_flow_ignores_the_mu_that_flux_passes() -> None:
    original = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    noise = noise_schedule_of(original)
    plan = Schedule(n_steps=4, time=own_timesteps(original, 4), solver=make_solver("ab2", 4, noise))
    scheduler = SolverProgramScheduler.from_schedule(plan, original, noise, "velocity")
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25], mu=0.63)
    np.testing.assert_allclose(scheduler.timesteps, shift_flow_times([1000, 750, 500, 250], np.log(3)), rtol=1e-6)


def test_starting_in_the_middle_is_refused() -> None:
    scheduler = flow_scheduler()
    scheduler.set_begin_index(0)
    with pytest.raises(ScheduleError, match="image-to-image"):
        scheduler.set_begin_index(2)


def test_one_step_too_many_is_refused_and_a_new_run_starts_clean() -> None:
    scheduler = flow_scheduler(3)
    scheduler.set_timesteps(3, mu=0.5)
    first = sample_with(scheduler)
    x = torch.zeros(1, 4, 4, 4)
    with pytest.raises(ScheduleError, match="3 steps; got step 4"):
        scheduler.step(x, 1.0, x)
    scheduler.set_timesteps(3, mu=0.5)
    scheduler.step(x, 1.0, x)  # a run that is given up
    scheduler.set_timesteps(3, mu=0.5)
    assert scheduler.step_index is None
    assert torch.equal(sample_with(scheduler), first)


def test_a_changed_shape_is_refused() -> None:
    scheduler = flow_scheduler(3)
    x = torch.zeros(1, 4, 4, 4)
    scheduler.step(x, 1.0, x)
    with pytest.raises(ScheduleError, match="one shape"):
        scheduler.step(torch.zeros(2, 4, 4, 4), 1.0, torch.zeros(2, 4, 4, 4))


def test_callers_may_reuse_their_buffers() -> None:
    scheduler = flow_scheduler(4)
    expected = sample_with(scheduler)
    scheduler.set_timesteps(4, mu=0.5)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    output = torch.empty_like(x)
    for t in scheduler.timesteps:
        output.copy_(network_output(x, float(t), Flow(), "velocity"))
        x.copy_(scheduler.step(output, t, x, return_dict=False)[0])
    assert torch.equal(x, expected)


def test_only_needed_history_is_kept() -> None:
    for name, kept in (("euler", 0), ("ab2", 1), ("ab3", 2)):
        scheduler = flow_scheduler(6, name=name)
        x = torch.zeros(1, 4, 4, 4)
        for _ in range(4):
            scheduler.step(x, 1.0, x)
        assert len(scheduler._outputs) == kept
        assert not scheduler._states


def test_half_precision_is_summed_in_float32() -> None:
    scheduler = flow_scheduler(4)
    scheduler.set_timesteps(4, mu=0.5)
    exact = sample_with(scheduler)
    scheduler.set_timesteps(4, mu=0.5)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    for t in scheduler.timesteps:
        out = network_output(x.float(), float(t), Flow(), "velocity").bfloat16()
        x = scheduler.step(out, t, x, return_dict=False)[0]
        assert x.dtype == torch.bfloat16
    assert gap(x.float(), exact) < 0.02


def test_a_schedule_without_a_solver_is_refused() -> None:
    original = D.DDIMScheduler(**LINEAR)
    with pytest.raises(ScheduleError, match="time and solver"):
        SolverProgramScheduler.from_schedule(Schedule(n_steps=4), original, VariancePreserving(**LINEAR), "noise")


def test_it_can_be_copied_and_both_run() -> None:
    scheduler = flow_scheduler(4)
    other = copy.deepcopy(scheduler)
    assert torch.equal(sample_with(scheduler), sample_with(other))


def test_one_step_of_pixart_returns_the_sample(pipes: Any) -> None:
    """PixArtAlphaPipeline reads the second entry of the tuple where one step is asked for."""
    pipe = pipes["pixart"]
    noise = noise_schedule_of(pipe.scheduler)
    plan = Schedule(n_steps=1, time=(999.0,), solver=make_solver("euler", 1, noise))
    pipe.scheduler = SolverProgramScheduler.from_schedule(plan, pipe.scheduler, noise, "noise")
    assert torch.isfinite(latents(pipe, "pixart", 1)).all()
