"""What a pipeline's scheduler says about noise: levels, the kind of prediction, its own time grid."""

import copy
import inspect
import json
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from autotune.spaces.errors import UnsupportedModelError, UsageError
from autotune.spaces.noise_schedule import BetaSchedule, Flow, VariancePreserving
from autotune.spaces.solver_formula import Prediction

_PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "noise",
    "v_prediction": "velocity",
    "flow_prediction": "velocity",
    "sample": "data",
}


def noise_schedule_of(scheduler: Any, mu: float | None = None) -> VariancePreserving | Flow:
    """The noise schedule that a model was trained with, from the config of its scheduler.

    Args:
        scheduler: a diffusers scheduler.
        mu: time shift of the resolution (`flow_mu`); needed where the config says `use_dynamic_shifting`.

    Raises:
        UnsupportedModelError: a field of the config describes a process that has no `NoiseSchedule`.
        UsageError: `mu` is needed and missing.
    """
    config = scheduler.config
    n_train = int(config["num_train_timesteps"])
    if _is_flow(config):
        _refuse(config, "invert_sigmas", False)
        if not config.get("use_dynamic_shifting"):
            return Flow(mu=math.log(_static_shift(scheduler)), n_train=n_train)
        _refuse(config, "time_shift_type", "exponential")
        if mu is None:
            raise UsageError("a scheduler with use_dynamic_shifting needs mu; pass flow_mu(pipe, height, width)")
        return Flow(mu=mu, dynamic=True, n_train=n_train)
    _refuse(config, "trained_betas", None)
    _refuse(config, "rescale_betas_zero_snr", False)
    _refuse(config, "timestep_type", "discrete")
    kind = config.get("beta_schedule")
    if kind not in get_args(BetaSchedule):
        raise UnsupportedModelError(f"beta_schedule must be one of {', '.join(get_args(BetaSchedule))}; got {kind!r}")
    return VariancePreserving(
        beta_schedule=kind,
        beta_start=float(config["beta_start"]),
        beta_end=float(config["beta_end"]),
        n_train=n_train,
    )


def prediction_of(scheduler: Any) -> Prediction:
    """What the network puts out, from the config of its scheduler; a flow-matching one has no field and is velocity.

    Raises:
        UnsupportedModelError: `prediction_type` is unknown.
    """
    name = scheduler.config.get("prediction_type", "flow_prediction" if _is_flow(scheduler.config) else "epsilon")
    if name not in _PREDICTIONS:
        raise UnsupportedModelError(f"prediction_type must be one of {', '.join(_PREDICTIONS)}; got {name!r}")
    return _PREDICTIONS[name]


def changed_settings(scheduler: Any) -> tuple[tuple[str, str], ...]:
    """What a scheduler's config sets to another value than its class does by default: (setting, JSON), sorted."""
    parameters = inspect.signature(type(scheduler).__init__).parameters
    found = {name: _json(value) for name, value in scheduler.config.items() if name in parameters}
    is_default = {
        name: json.loads(value) == json.loads(_json(parameters[name].default)) for name, value in found.items()
    }
    return tuple(sorted((name, value) for name, value in found.items() if not is_default[name]))


def _json(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=str)
    except ValueError:  # not finite
        return json.dumps(str(value))


def own_timesteps(
    scheduler: Any, n_steps: int, mu: float | None = None, *, even_sigmas: bool | None = None
) -> tuple[float, ...]:
    """The grid that a pipeline takes on its own for `n_steps`, one model timestep per network call.

    It is what the scheduler itself computes, on a copy. PNDM calls the network `n_steps` + 1 times, the second and
    third at the same timestep, so its grid is not strictly decreasing. Solvers with `use_flow_sigmas` call the network
    at timesteps rounded down to integers but integrate from the unrounded level, and that is returned.

    Args:
        scheduler: a diffusers scheduler.
        n_steps: what the pipeline is asked for.
        mu: time shift of the resolution (`flow_mu`); needed where the config says `use_dynamic_shifting`.
        even_sigmas: whether the pipeline passes the sigmas 1, (n-1)/n, .., 1/n to the scheduler, which shifts them
            only. None is what FLUX's does: if the scheduler is a flow-matching one without `use_flow_sigmas`.

    Raises:
        UsageError: `mu` is needed and missing.
    """
    config = scheduler.config
    own = copy.deepcopy(scheduler)
    shift: dict[str, float] = {}
    if config.get("use_dynamic_shifting"):
        if mu is None:
            raise UsageError("a scheduler with use_dynamic_shifting needs mu; pass flow_mu(pipe, height, width)")
        shift["mu"] = mu
    if even_sigmas is None:
        even_sigmas = _is_flow(config) and not config.get("use_flow_sigmas")
    if even_sigmas:
        own.set_timesteps(sigmas=np.linspace(1.0, 1.0 / n_steps, n_steps), **shift)
    else:
        own.set_timesteps(n_steps, **shift)
    if config.get("use_flow_sigmas"):
        return tuple((config["num_train_timesteps"] * own.sigmas[:-1].double()).tolist())
    return tuple(float(t) for t in own.timesteps)


def start_timestep_of(scheduler: Any, n_steps: int, mu: float | None = None) -> float:
    """The timestep of a pipeline's first network call, which its starting noise belongs to."""
    return own_timesteps(scheduler, n_steps, mu)[0]


def flow_mu(pipe: Any, height: int, width: int) -> float | None:
    """The time shift that a pipeline derives from the resolution in pixels; None where it derives none."""
    config = pipe.scheduler.config
    if not config.get("use_dynamic_shifting"):
        return None
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift  # seconds to import, there with the pipeline

    patch = 2 * pipe.vae_scale_factor
    return float(
        calculate_shift(
            (height // patch) * (width // patch),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
    )


def _is_flow(config: Mapping[str, Any]) -> bool:
    return bool(config.get("use_flow_sigmas")) or ("beta_schedule" not in config and "shift" in config)


def _static_shift(scheduler: Any) -> float:
    if scheduler.config.get("use_flow_sigmas"):
        return float(scheduler.config.get("flow_shift", 1.0))
    # `set_shift` changes the property and leaves the config as it was.
    return float(scheduler.shift if hasattr(type(scheduler), "shift") else scheduler.config["shift"])


def _refuse(config: Mapping[str, Any], name: str, supported: object) -> None:
    value = config.get(name, supported)
    if value != supported:
        raise UnsupportedModelError(f"{name} of the scheduler's config must be {supported!r}; got {value!r}")


def divides_by_alpha(scheduler: Any) -> bool:
    """Whether a scheduler's samples are x / alpha = x0 + (sigma / alpha) eps: Euler's and its relatives' of diffusers.

    They scale what the network reads, and the noise that a run begins with.
    """
    return float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0
