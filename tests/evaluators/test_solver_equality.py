"""Programs equal diffusers' own schedulers, with an analytic network and inside the three pipelines."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.noise_schedule import Flow, NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import called_twice

D: Any = diffusers  # its constructors are untyped

LINEAR: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCALED: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# Euler and LMS start from noise times sigma, not noise, with the other spacings.
LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}
FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
# The noise form has no finite step to the clean end.
NOISE_VIEW: dict[str, Any] = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
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
    *[("unipc-4", D.UniPCMultistepScheduler(**noise, solver_order=4)) for noise in (LINEAR, SCALED, FLOW)],
    ("unipc-5", D.UniPCMultistepScheduler(**LINEAR, solver_order=5)),
    *[
        ("dpmpp-3m-upstream", D.DPMSolverMultistepScheduler(**noise, solver_order=3))
        for noise in (LINEAR, SCALED, FLOW)
    ],
    *[
        (f"dpmpp-{order}s", D.DPMSolverSinglestepScheduler(**noise, solver_order=order))
        for order in (2, 3)
        for noise in (LINEAR, SCALED, FLOW)
    ],
    *[
        (name, D.DPMSolverMultistepScheduler(**noise, **NOISE_VIEW, solver_order=order))
        for name, order in (("dpm-2", 2), ("dpm-3-upstream", 3))
        for noise in (LINEAR, SCALED)
    ],
    *[
        (f"deis-{order}", D.DEISMultistepScheduler(**noise, solver_order=order))
        for order in (2, 3)
        for noise in (LINEAR, SCALED)
    ],
    ("heun", D.HeunDiscreteScheduler(**LINEAR, **LEADING)),
    ("heun", D.HeunDiscreteScheduler(**SCALED, **LEADING, prediction_type="v_prediction")),
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
    if isinstance(ready, D.DEISMultistepScheduler):
        ready.sigmas = ready.sigmas.double()  # its integrals cancel: 1e-5 is lost in float32
    if isinstance(ready, D.LMSDiscreteScheduler):
        order, step = int(name[-1]), ready.step
        ready.step = lambda out, t, x, return_dict: step(out, t, x, order=order, return_dict=return_dict)
    return ready


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_equals_diffusers_with_an_analytic_network(pair: tuple[str, Any], n: int) -> None:
    """To 1e-5, since its schedulers keep sigmas in float32; to 1e-12 of the papers' formulas in `tests/spaces`."""
    name, scheduler = pair
    noise, prediction = noise_schedule_of(scheduler, mu=0.8), prediction_of(scheduler)
    times = own_timesteps(scheduler, n, mu=0.8)
    plan = Schedule(n_steps=len(times), time=times, solver=make_solver(name, len(times), noise))
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
    if isinstance(theirs, D.DEISMultistepScheduler) or theirs.config.get("algorithm_type") == "dpmsolver":
        expected, got = expected[:-1], got[:-1]  # their last step ends at timestep 0, ours at the clean end
    assert len(got) == len(expected) >= n
    assert max(gap(a, b) for a, b in zip(got, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("n", [5, 10, 20])
def test_heun_on_a_flow_equals_diffusers_on_its_own_timesteps(n: int) -> None:
    theirs = D.FlowMatchHeunDiscreteScheduler(shift=2.0)
    theirs.set_timesteps(n)
    noise, times = Flow(mu=math.log(2.0)), tuple(theirs.timesteps.double().tolist())
    assert times == called_twice(times[:1] + times[1::2])
    plan = Schedule(n_steps=len(times), time=times, solver=make_solver("heun", len(times), noise))
    ours = SolverProgramScheduler.from_schedule(plan, theirs, noise, "velocity")

    def net(x: torch.Tensor, t: float) -> torch.Tensor:
        return network_output(x.double(), t, noise, "velocity")

    assert max(gap(a, b) for a, b in zip(loop(ours, times, net), loop(theirs, times, net), strict=True)) < 1e-5


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("config", [LINEAR, SCALED, FLOW], ids=["linear", "scaled", "flow"])
def test_stochastic_steps_equal_the_sde_form_of_diffusers(config: dict[str, Any], order: int, n: int) -> None:
    """With the same random numbers, which both draw once per step."""
    theirs = D.DPMSolverMultistepScheduler(**config, solver_order=order, algorithm_type="sde-dpmsolver++")
    theirs.set_timesteps(n)
    noise, prediction = noise_schedule_of(theirs), prediction_of(theirs)
    times = own_timesteps(theirs, n)
    solver = tuple(
        SolverStep(view="data", domain="lambda", order=min(order, i + 1, n - i), relaxation="b2", stochastic=1.0)
        for i in range(n)
    )
    plan = Schedule(n_steps=n, time=times, solver=solver)
    ours = SolverProgramScheduler.from_schedule(plan, theirs, noise, prediction)
    assert np.count_nonzero(ours.program.noise_coefs) == n - 1

    def run(scheduler: Any) -> Loop:
        step, generator = scheduler.step, torch.Generator().manual_seed(5)
        scheduler.step = lambda *args, **options: step(*args, **options, generator=generator)
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        states = [x]
        for t, level in zip(scheduler.timesteps, times, strict=True):
            x = scheduler.step(network_output(x, level, noise, prediction), t, x, return_dict=False)[0]
            states.append(x)
        return states

    assert max(gap(a, b) for a, b in zip(run(ours), run(theirs), strict=True)) < 1e-5


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
        solver: tuple[SolverRow, ...] = tuple(
            SolverStep(view="noise", domain="sigma", order=min(4, i + 1)) for i in range(n)
        )
    else:
        solver = make_solver(name, n, noise)
    plan = Schedule(n_steps=n, time=own_timesteps(theirs, n, mu), solver=solver)
    pipe.scheduler = ours = SolverProgramScheduler.from_schedule(plan, theirs, noise, prediction)
    if theirs.config.get("use_flow_sigmas"):
        truncated(ours)
    assert gap(latents(pipe, model, n), expected) < 1e-3
    assert ours.step_index == n
