"""What schedulers say about noise, read from real configs and checked against the pipelines themselves."""

import copy
import functools
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of, start_timestep_of
from autotune.spaces.errors import UnsupportedModelError, UsageError
from autotune.spaces.noise_schedule import Flow, VariancePreserving

D: Any = diffusers  # its constructors are untyped

SCALED: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW_SIGMAS: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def network_timesteps(pipe: Any, module: Any, n: int, **kwargs: Any) -> list[float]:
    """The timesteps that a pipeline calls its network with."""
    seen: list[float] = []

    def record(module: Any, args: Any, kwargs: Any) -> None:
        t = kwargs["timestep"] if "timestep" in kwargs else args[1]
        seen.append(float(torch.as_tensor(t).flatten()[0]))

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        pipe("a dog", height=32, width=32, num_inference_steps=n, output_type="latent", **kwargs)
    finally:
        handle.remove()
    return seen


def test_reference_models(flux_pipe: Any, pixart_pipe: Any, sd_pipe: Any) -> None:
    mu = flow_mu(flux_pipe, 32, 32)
    assert noise_schedule_of(flux_pipe.scheduler, mu) == Flow(mu=mu or 0.0, dynamic=True)
    assert prediction_of(flux_pipe.scheduler) == "velocity"
    linear = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    assert noise_schedule_of(pixart_pipe.scheduler) == linear
    assert noise_schedule_of(sd_pipe.scheduler) == VariancePreserving(**SCALED)
    assert prediction_of(pixart_pipe.scheduler) == prediction_of(sd_pipe.scheduler) == "noise"
    assert flow_mu(pixart_pipe, 32, 32) is None


def test_own_timesteps_are_what_the_network_is_called_with(flux_pipe: Any, pixart_pipe: Any, sd_pipe: Any) -> None:
    mu = flow_mu(flux_pipe, 32, 32)
    seen = network_timesteps(flux_pipe, flux_pipe.transformer, 3, max_sequence_length=16)
    assert own_timesteps(flux_pipe.scheduler, 3, mu) == pytest.approx([1000 * t for t in seen], rel=1e-6)
    args: dict[str, Any] = {"max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False}
    assert list(own_timesteps(pixart_pipe.scheduler, 3)) == network_timesteps(
        pixart_pipe, pixart_pipe.transformer, 3, **args
    )
    seen = network_timesteps(sd_pipe, sd_pipe.unet, 3)
    own = own_timesteps(sd_pipe.scheduler, 3)
    assert list(own) == seen
    assert len(own) == 4  # PNDM calls the network once more than asked for
    assert own[1] == own[2]
    assert start_timestep_of(sd_pipe.scheduler, 3) == own[0]


def test_the_scheduler_is_left_alone() -> None:
    scheduler = D.DPMSolverMultistepScheduler(**FLOW_SIGMAS, use_dynamic_shifting=True)
    scheduler.set_timesteps(7, mu=0.2)
    before = copy.deepcopy((dict(scheduler.config), scheduler.timesteps.tolist()))
    own_timesteps(scheduler, 5, mu=1.1)
    assert (dict(scheduler.config), scheduler.timesteps.tolist()) == before


def test_flow_mu_is_that_of_flux(flux_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value that FluxPipeline hands to its scheduler, at two resolutions."""
    for height, width in ((32, 32), (32, 64)):
        passed: list[float] = []
        original = flux_pipe.scheduler.set_timesteps

        @functools.wraps(original)  # retrieve_timesteps reads the signature
        def spy(*args: Any, original: Any = original, passed: list[float] = passed, **kwargs: Any) -> None:
            passed.append(kwargs["mu"])
            original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(flux_pipe.scheduler, "set_timesteps", spy)
            flux_pipe("a dog", height=height, width=width, num_inference_steps=1, output_type="latent",
                      max_sequence_length=16)  # fmt: skip
        assert passed == [flow_mu(flux_pipe, height, width)]


@pytest.mark.parametrize(("side", "mu"), [(512, 0.63), (768, 0.847), (1024, 1.15)])
def test_flow_mu_of_published_resolutions(flux_pipe: Any, side: int, mu: float) -> None:
    class AtFluxScale:
        scheduler = flux_pipe.scheduler
        vae_scale_factor = 8

    assert flow_mu(AtFluxScale, side, side) == pytest.approx(mu, abs=0.005)


def test_static_shift_is_a_logarithm() -> None:
    scheduler = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert noise_schedule_of(scheduler) == Flow(mu=math.log(3.0))
    scheduler.set_shift(5.0)
    assert noise_schedule_of(scheduler) == Flow(mu=math.log(5.0))
    assert noise_schedule_of(D.UniPCMultistepScheduler(**FLOW_SIGMAS, flow_shift=2.0)) == Flow(mu=math.log(2.0))
    np.testing.assert_allclose(own_timesteps(D.FlowMatchEulerDiscreteScheduler(shift=3.0), 2), [1000.0, 750.0])


def test_solvers_with_flow_sigmas_give_unrounded_levels() -> None:
    scheduler = D.UniPCMultistepScheduler(**FLOW_SIGMAS, flow_shift=2.0)
    own = own_timesteps(scheduler, 4)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [math.floor(t) for t in own]
    assert any(t != round(t) for t in own)


@pytest.mark.parametrize(
    ("kind", "config", "field"),
    [
        ("DDIMScheduler", {"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True, "time_shift_type": "linear"},
            "time_shift_type",
        ),
        ("EDMEulerScheduler", {}, "beta_schedule"),
    ],
)
def test_other_processes_are_refused_by_the_field_that_says_so(kind: str, config: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedModelError, match=field):
        noise_schedule_of(getattr(D, kind)(**config), mu=0.5)


def test_predictions() -> None:
    for name, ours in (("epsilon", "noise"), ("v_prediction", "velocity"), ("sample", "data")):
        assert prediction_of(D.DDIMScheduler(prediction_type=name)) == ours
    assert prediction_of(D.UniPCMultistepScheduler(**FLOW_SIGMAS)) == "velocity"


def test_dynamic_shift_needs_mu() -> None:
    scheduler = D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(UsageError, match="flow_mu"):
        noise_schedule_of(scheduler)
    with pytest.raises(UsageError, match="flow_mu"):
        own_timesteps(scheduler, 4)
