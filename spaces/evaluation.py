"""Evaluations: one schedule scored at one fidelity, and what came of it."""

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from autotune.spaces.errors import UsageError

DEVIATION = "deviation"
"""Relative distance of the final latents to the converged reference's, per prompt: the error of an image model."""

SUCCESS = "success"
"""Whether an episode succeeded, 1 or 0, per episode: the quality of a policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Which prompts and seeds: prompt i is drawn from the noise of seed i. `name` is `calibration` or `held_out`."""

    name: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.seeds):
            raise UsageError(
                f"a fidelity needs one seed per prompt, and at least one; got {len(self.prompts)} and {len(self.seeds)}"
            )

    def first(self, n: int) -> "Fidelity":
        """The first `n` prompts with their seeds.

        Raises:
            UsageError: `n` is not positive, or there are fewer.
        """
        if not 1 <= n <= len(self.prompts):
            raise UsageError(f"the number of prompts must be in 1 .. {len(self.prompts)} for {self.name}; got {n}")
        return replace(self, prompts=self.prompts[:n], seeds=self.seeds[:n])

    def after(self, n: int) -> "Fidelity":
        """The prompts after the first `n`, with their seeds.

        Raises:
            UsageError: `n` is negative, or there are no more.
        """
        if not 0 <= n < len(self.prompts):
            raise UsageError(f"the number of prompts must be in 0 .. {len(self.prompts) - 1} for {self.name}; got {n}")
        return replace(self, prompts=self.prompts[n:], seeds=self.seeds[n:])

    def only(self, indices: Sequence[int]) -> "Fidelity":
        """The prompts at these places, with their seeds, in this order.

        Raises:
            UsageError: there is no place, or no prompt at one of them.
        """
        if bad := [i for i in indices if not 0 <= i < len(self.prompts)]:
            raise UsageError(f"prompts of {self.name} have the numbers 0 .. {len(self.prompts) - 1}; got {bad[0]}")
        return replace(
            self, prompts=tuple(self.prompts[i] for i in indices), seeds=tuple(self.seeds[i] for i in indices)
        )

    @property
    def hash(self) -> str:
        """SHA-256 over prompts and seeds."""
        text = json.dumps([self.prompts, self.seeds], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class EvaluationState(StrEnum):
    """Life of an evaluation; it moves from RUNNING to one final state, once."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


class FailureKind(StrEnum):
    """Why a candidate could not be scored."""

    OUT_OF_MEMORY = "out_of_memory"
    NAN = "nan"
    TIMEOUT = "timeout"
    INVALID = "invalid"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A candidate that could not be scored: a result like any other."""

    kind: FailureKind
    reason: str


TOLD_COUNTS = ("weight_bytes", "baseline_weight_bytes", "bit_operations", "baseline_bit_operations")
"""Counts that a measurement may not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured of one schedule at one fidelity.

    `quality` maps a metric (`deviation`, `psnr`, `ssim`, `alignment`, a reward; of a policy `success`, `action-error`)
    to one value per prompt, in the fidelity's order; a policy's prompt and seed are a task and an episode.
    `latency_ms` and `baseline_latency_ms` hold the timed runs of the schedule and of the pipeline's default run that
    was interleaved with them, in milliseconds per image, decoding included, text encoding excluded. `macs` are
    multiply-accumulates of the denoiser for one image, all branches. `network_calls` counts a guided pair once, and
    of a policy the calls that it computed, rounded.
    `peak_memory_bytes` includes the resident model; 0 where the platform can't tell. `wall_s` is what it cost.
    `energy_j` and `baseline_energy_j` are joules per image of the same timed runs, empty where no study asked for them.
    `weight_bytes` and `baseline_weight_bytes` are those of the denoiser's weights, with and without the schedule's
    quantization; `bit_operations` and `baseline_bit_operations` are `macs` and `baseline_macs`, each times the bits of
    both factors; None where nobody told.
    `modelled_latency` (over the default run's) and `cache_bytes` are worked out from the schedule where a study asks
    for them, by `CostModel.completed`; they are not measured, and not stored with the evaluation.
    """

    quality: Mapping[str, tuple[float, ...]]
    latency_ms: tuple[float, ...]
    baseline_latency_ms: tuple[float, ...]
    macs: int
    baseline_macs: int
    network_calls: int
    peak_memory_bytes: int
    wall_s: float
    energy_j: tuple[float, ...] = ()
    baseline_energy_j: tuple[float, ...] = ()
    weight_bytes: int | None = None
    baseline_weight_bytes: int | None = None
    bit_operations: int | None = None
    baseline_bit_operations: int | None = None
    modelled_latency: float | None = None
    cache_bytes: int | None = None

    @property
    def n_prompts(self) -> int:
        """How many prompts it was measured on."""
        return len(next(iter(self.quality.values())))

    def mean(self, metric: str) -> float:
        """Mean of a quality metric over the prompts."""
        return statistics.fmean(self.quality[metric])

    @property
    def errors(self) -> tuple[float, ...]:
        """How far from perfect each result is: its deviation, or of an episode 1 where it failed; () without either."""
        if SUCCESS in self.quality:
            return tuple(1.0 - value for value in self.quality[SUCCESS])
        return self.quality.get(DEVIATION, ())

    @property
    def error(self) -> float:
        """Mean of the errors; NaN without any. Of n episodes without a failure, half a failure is assumed.

        So it is above 0 wherever episodes were run, and a logarithm can be taken.
        """
        errors = self.errors
        return max(statistics.fmean(errors), self.least_error) if errors else math.nan

    @property
    def least_error(self) -> float:
        """What the mean error counts as at least: that of half a failure where episodes were run, else 0."""
        return 0.5 / len(self.quality[SUCCESS]) if self.quality.get(SUCCESS) else 0.0

    @property
    def not_finite(self) -> tuple[str, ...]:
        """The values that are NaN or infinite, such as `deviation[3] = nan`."""
        runs = ("latency_ms", "baseline_latency_ms", "energy_j", "baseline_energy_j")
        series = {**self.quality, **{name: getattr(self, name) for name in runs}, "wall_s": (self.wall_s,)}
        return tuple(
            f"{name}[{i}] = {value}"
            for name, values in series.items()
            for i, value in enumerate(values)
            if not math.isfinite(value)
        )

    @property
    def relative_latency(self) -> float:
        """Latency over the baseline's, by `median_ratio`."""
        return median_ratio(self.latency_ms, self.baseline_latency_ms)

    @property
    def latency_ratios(self) -> tuple[float, ...]:
        """Latency over the baseline's of each pair of runs; `relative_latency` alone where they were not paired."""
        if len(self.latency_ms) != len(self.baseline_latency_ms):
            return (self.relative_latency,)
        return tuple(own / base for own, base in zip(self.latency_ms, self.baseline_latency_ms, strict=True))

    @property
    def relative_energy(self) -> float | None:
        """Energy over the baseline's, by `median_ratio`; None where it was not measured."""
        if not self.energy_j or not self.baseline_energy_j:
            return None
        return median_ratio(self.energy_j, self.baseline_energy_j)

    @property
    def relative_weights(self) -> float | None:
        """Bytes of the denoiser's weights over the baseline's; None where nobody told."""
        if self.weight_bytes is None or not self.baseline_weight_bytes:
            return None
        return self.weight_bytes / self.baseline_weight_bytes

    @property
    def relative_bit_operations(self) -> float | None:
        """Bit operations over the baseline's; None where nobody told."""
        if self.bit_operations is None or not self.baseline_bit_operations:
            return None
        return self.bit_operations / self.baseline_bit_operations

    @property
    def relative_macs(self) -> float:
        """Multiply-accumulates over the baseline's."""
        return self.macs / self.baseline_macs


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One schedule at one fidelity under one condition; `key` covers everything that decides its value."""

    key: str
    schedule_hash: str
    fidelity: str
    state: EvaluationState
    outcome: Measurement | Failure | None = None

    @property
    def measurement(self) -> Measurement | None:
        """The measurement of a complete evaluation, else None."""
        return self.outcome if isinstance(self.outcome, Measurement) else None


def median_ratio(own: Sequence[float], baseline: Sequence[float]) -> float:
    """The median of the ratios of paired runs; the ratio of the medians where there are not equally many.

    Runs that took turns are paired: a machine that is twice as slow for a while slows both of a pair down, but of each
    side another run, so that the ratio of the medians can be that of a slow run and a fast one.
    """
    if len(own) != len(baseline):
        return statistics.median(own) / statistics.median(baseline)
    return statistics.median(a / b for a, b in zip(own, baseline, strict=True))


def evaluation_key(condition_hash: str, schedule_hash: str, fidelity: Fidelity, protocol: str) -> str:
    """SHA-256 over all that decides an evaluation's value; `protocol` names the version of the measuring code."""
    text = json.dumps([condition_hash, schedule_hash, fidelity.hash, protocol])
    return hashlib.sha256(text.encode()).hexdigest()
