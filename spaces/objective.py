"""What a study minimises, and the limits that it keeps to."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Measurement

MEGABYTE, GIGABYTE = 1e6, 1e9


def _quality(metric: str) -> Callable[[Measurement], float]:
    def read(measurement: Measurement) -> float:
        if metric not in measurement.quality:
            known = ", ".join(sorted(measurement.quality)) or "none"
            raise UsageError(f"the metric {metric!r} was not measured here; measured: {known}; choose one of those")
        return measurement.mean(metric)

    return read


def _modelled(field: str) -> Callable[[Measurement], float]:
    def read(measurement: Measurement) -> float:
        value: float | None = getattr(measurement, field)
        if value is None:
            raise UsageError(
                f"{field} comes from a cost model, and there is none here; name modelled-latency, cache-memory or "
                f"cache_gb when the study begins, and keep its artifacts"
            )
        return float(value)

    return read


def _latency(measurement: Measurement) -> float:
    """The measured one, where it was timed several times, each in turn with the default run, or nothing else is known.

    A single timing is off by more than a cost model is: among candidates that were timed once, the lucky ones would
    stand on the front.
    """
    modelled = measurement.modelled_latency
    return measurement.relative_latency if modelled is None or len(measurement.latency_ms) > 1 else modelled


def _energy(measurement: Measurement) -> float:
    if measurement.relative_energy is None:
        raise UsageError(
            "energy was not measured here: name energy among the objectives, limits or metrics when the study begins"
        )
    return measurement.relative_energy


def _energy_j(measurement: Measurement) -> float:
    _energy(measurement)
    return statistics.median(measurement.energy_j)


def _weights(measurement: Measurement) -> float:
    if measurement.relative_weights is None:
        raise UsageError("the bytes of weights were not told by the version that measured this; measure it again")
    return measurement.relative_weights


def _bit_operations(measurement: Measurement) -> float:
    if measurement.relative_bit_operations is None:
        raise UsageError("bit operations were not told by the version that measured this; measure it again")
    return measurement.relative_bit_operations


@dataclass(frozen=True, slots=True)
class Objective:
    """One quantity of a measurement in its natural unit; `higher_is_better` ones are negated where they are minimised.

    `is_cost` tells speed and size from quality, `is_relative` says that the unit is the default run's own value.
    """

    natural: Callable[[Measurement], float]
    description: str
    is_cost: bool
    higher_is_better: bool = False
    is_relative: bool = False


def _reward(name: str, description: str) -> Objective:
    return Objective(_quality(name), description, is_cost=False, higher_is_better=True)


OBJECTIVES: dict[str, Objective] = {
    "latency": Objective(_latency, "median latency over the default run's", is_cost=True, is_relative=True),
    "macs": Objective(
        lambda m: m.relative_macs, "multiply-accumulates over the default run's", is_cost=True, is_relative=True
    ),
    "calls": Objective(lambda m: float(m.network_calls), "network calls per image", is_cost=True),
    "memory": Objective(
        lambda m: float(m.peak_memory_bytes),
        "peak memory in bytes, the model included; of a CPU that of the whole process",
        is_cost=True,
    ),
    "weights": Objective(
        _weights, "bytes of the denoiser's weights over the default's", is_cost=True, is_relative=True
    ),
    "bit-operations": Objective(
        _bit_operations, "bit operations over the default run's", is_cost=True, is_relative=True
    ),
    "modelled-latency": Objective(
        _modelled("modelled_latency"),
        "latency over the default run's, by the cost model",
        is_cost=True,
        is_relative=True,
    ),
    "cache-memory": Objective(_modelled("cache_bytes"), "bytes that cached values take at their peak", is_cost=True),
    "energy": Objective(_energy, "median energy over the default run's", is_cost=True, is_relative=True),
    "deviation": Objective(_quality("deviation"), "relative distance of the latents to the reference", is_cost=False),
    "success": Objective(_quality("success"), "share of episodes that succeed", is_cost=False, higher_is_better=True),
    "action-error": Objective(
        _quality("action-error"), "relative distance of the actions to the default run's", is_cost=False
    ),
    "psnr": Objective(_quality("psnr"), "PSNR of the image in dB", is_cost=False, higher_is_better=True),
    "ssim": Objective(_quality("ssim"), "structural similarity of the image", is_cost=False, higher_is_better=True),
    "alignment": Objective(_quality("alignment"), "prompt alignment", is_cost=False, higher_is_better=True),
    "clip-score": _reward("clip-score", "cosine of CLIP's embeddings of image and prompt"),
    "pick-score": _reward("pick-score", "PickScore, a preference for the image given the prompt"),
    "hps": _reward("hps", "Human Preference Score v2"),
    "image-reward": _reward("image-reward", "ImageReward"),
}

_LIMITED: dict[str, Callable[[Measurement], float]] = {
    **{name: objective.natural for name, objective in OBJECTIVES.items()},
    "latency_ms": lambda m: statistics.median(m.latency_ms),
    "memory_gb": lambda m: m.peak_memory_bytes / GIGABYTE,
    "weights_gb": lambda m: _weights(m) * (m.baseline_weight_bytes or 0) / GIGABYTE,
    "cache_gb": lambda m: _modelled("cache_bytes")(m) / GIGABYTE,
    "energy_j": _energy_j,
}

REWARDS = ("clip-score", "pick-score", "hps", "image-reward")
"""Qualities that a network of their own judges, loaded where a study asks for them."""

PRECISION: Mapping[str, str] = MappingProxyType(
    {"weights": "weights", "weights_gb": "weights", "bit-operations": "bit-operations"}
)
"""Objectives and limits that a quantization lowers, and the objective that each is about."""

ENERGY = ("energy", "energy_j")
"""The objective and the limit for which a study must measure energy."""

OF_CACHE = ("cache-memory", "cache_gb")
"""The objective and the limit of what cached values take."""

MODELLED = ("modelled-latency", *OF_CACHE)
"""Objectives and limits that a cost model gives, from the schedule alone."""

_CONSTRAINT = re.compile(r"\s*([a-z_-]+)\s*(<=|>=)\s*(\S+)\s*")


def objective_value(name: str, measurement: Measurement) -> float:
    """The objective of this name, signed so that less is better.

    Raises:
        UsageError: the objective is unknown, or its metric was not measured.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"an objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
    value = OBJECTIVES[name].natural(measurement)
    return -value if OBJECTIVES[name].higher_is_better else value


def parse_objectives(text: str) -> tuple[str, ...]:
    """The objective names of a comma-separated list such as `latency,deviation`.

    Raises:
        UsageError: a name is unknown or given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in OBJECTIVES:
            raise UsageError(f"an objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
    if len(set(names)) != len(names):
        raise UsageError(f"each objective may be given once; got {text!r}")
    return names


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit on a natural value: `metric` at most (`<=`) or at least (`>=`) `limit`."""

    metric: str
    operator: str
    limit: float

    def __post_init__(self) -> None:
        if self.metric not in _LIMITED:
            raise UsageError(f"a constraint limits one of {', '.join(_LIMITED)}; got {self.metric!r}")
        if self.operator not in ("<=", ">="):
            raise UsageError(f"a constraint is written with <= or >=; got {self.operator!r}")
        if not math.isfinite(self.limit):
            raise UsageError(f"the limit of a constraint must be a finite number; got {self.limit}")

    @property
    def is_on_cost(self) -> bool:
        """Whether the limit is on a cost; otherwise it is on a quality."""
        return self.metric not in OBJECTIVES or OBJECTIVES[self.metric].is_cost

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{self.limit:g}"

    def violation(self, measurement: Measurement) -> float:
        """By how much the limit is broken, relative to its size; 0 where it is kept.

        Raises:
            UsageError: the metric was not measured.
        """
        return self.excess(limited_value(self.metric, measurement))

    def excess(self, value: float) -> float:
        """By how much a natural value breaks the limit, relative to the limit's size; 0 where it keeps it."""
        excess = value - self.limit if self.operator == "<=" else self.limit - value
        if math.isnan(excess):
            return math.inf
        return max(0.0, excess) / max(abs(self.limit), 1e-12)


def limited_value(metric: str, measurement: Measurement) -> float:
    """The natural value of what a limit can be set on.

    Raises:
        UsageError: the metric is unknown, or was not measured.
    """
    if metric not in _LIMITED:
        raise UsageError(f"a limit is set on one of {', '.join(_LIMITED)}; got {metric!r}")
    return _LIMITED[metric](measurement)


def asks_for_precision(objectives: Sequence[str], constraints: Sequence[Constraint]) -> bool:
    """Whether a study with these is about what a quantization lowers."""
    return not {*objectives, *(constraint.metric for constraint in constraints)}.isdisjoint(PRECISION)


def needs_cost_model(objectives: Sequence[str], constraints: Sequence[Constraint]) -> bool:
    """Whether a study with these needs a cost model."""
    return any(name in MODELLED for name in (*objectives, *(constraint.metric for constraint in constraints)))


def parse_constraint(text: str) -> Constraint:
    """The constraint of a text such as `deviation<=0.1`, `psnr>=30` or `memory_gb<=12`.

    Raises:
        UsageError: the text has another form, or the metric is unknown.
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise UsageError(f"a constraint is METRIC<=NUMBER or METRIC>=NUMBER, such as deviation<=0.1; got {text!r}")
    metric, operator, number = match.groups()
    try:
        limit = float(number)
    except ValueError:
        raise UsageError(f"the limit of a constraint must be a number; got {number!r} in {text!r}") from None
    return Constraint(metric, operator, limit)


def total_violation(constraints: Sequence[Constraint], measurement: Measurement) -> float:
    """Sum of the relative violations; 0 if the measurement keeps to all constraints."""
    return math.fsum(constraint.violation(measurement) for constraint in constraints)
