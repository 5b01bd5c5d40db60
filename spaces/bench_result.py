"""A schedule file measured again: beside the default run, and the strongest of the cheap rivals that are no slower."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.statistics import bootstrap_interval, percentile_interval, ratio_draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A schedule of the pipeline with fewer steps, or its default run, and what was measured of it."""

    label: str
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What came of `autotune.search.bench.bench_file`.

    `source` is the file's name. `condition` is that of this run, `file.condition` that of the file. `prompts_from` says
    where the prompts are from. `kernels` is the schedule with real low-precision kernels, if they were asked for, whose
    speed and quality are both their own. `rivals` are all that were measured, `failures` says why others have no
    figures.
    """

    source: str
    file: ScheduleFile
    condition: Condition
    fidelity: Fidelity
    prompts_from: str
    repeats: int
    default: Contestant
    schedule: Contestant
    kernels: Contestant | None = None
    rivals: tuple[Contestant, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def rival(self) -> Contestant | None:
        """The least error among the rivals and the default run, of those that are no slower than the schedule."""
        no_slower = [one for one in (self.default, *self.rivals) if is_no_slower(one.measurement, self.limit)]
        return min(no_slower, key=lambda one: one.measurement.error, default=None)

    @property
    def limit(self) -> Measurement:
        """What rivals may take; see `rivals_limit`."""
        return rivals_limit(self.file, self.schedule, self.kernels)

    @property
    def differences(self) -> Mapping[str, tuple[object, object]]:
        """Fields of the condition that differ: the file's value, and the value here."""
        then, now = self.file.condition.to_json(), self.condition.to_json()
        return {name: (then[name], value) for name, value in now.items() if name in then and then[name] != value}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean difference over prompts, with its 95 % bootstrap interval; one prompt has none."""

    mean: float
    interval: tuple[float, float] | None


def paired_difference(own: Measurement, other: Measurement) -> PairedDifference:
    """How much larger the errors of one measurement are than those of another of the same prompts and seeds."""
    values = [a - b for a, b in zip(own.errors, other.errors, strict=True)]
    interval = bootstrap_interval(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
    return PairedDifference(mean=math.fsum(values) / len(values), interval=interval)


def rivals_limit(file: ScheduleFile, schedule: Contestant, kernels: Contestant | None) -> Measurement:
    """What a schedule takes, which rivals may take: with real kernels if it was measured with them.

    A quantization that is computed in floating point is slower for that. So without kernels its share of
    multiply-accumulates stands for its share of latency.
    """
    if kernels is not None:
        return kernels.measurement
    own = schedule.measurement
    if file.schedule.quantization is None:
        return own
    return replace(own, latency_ms=tuple(own.relative_macs * ms for ms in own.baseline_latency_ms))


def is_no_slower(measurement: Measurement, limit: Measurement) -> bool:
    """Whether latency relative to the default run is at most that of `limit`, or not measurably above it (95 %).

    Of two runs of equal work one is always slower by a hair, and on a busy machine by more; a rival is not ruled out by
    that, nor is one that calls the network no more often, for no more multiply-accumulates.
    """
    if measurement.relative_latency <= limit.relative_latency:
        return True
    if measurement.macs <= limit.macs and measurement.network_calls <= limit.network_calls:
        return True
    own = ratio_draws(measurement.latency_ms, measurement.baseline_latency_ms, seed=0)
    other = ratio_draws(limit.latency_ms, limit.baseline_latency_ms, seed=2)
    return percentile_interval(own / other)[0] <= 1.0


def probe_calls(schedule: Measurement, n_default: int) -> int:
    """Network calls, 1 .. n_default, of a run about as fast as a schedule if the network took all the time.

    As many as its share of latency says, rounded up, since timings err; or as its multiply-accumulates say.
    """
    share = max(schedule.relative_latency, schedule.relative_macs)
    return max(1, min(n_default, math.ceil(share * n_default - 1e-9)))


def affordable_calls(relative_latency: float, n_default: int, n_probe: int, probe_latency: float) -> int:
    """The network calls, 1 .. n_probe, that a run of so much of the default run's latency can be expected to afford.

    Latency is taken as a line through the default run, 1 at `n_default` calls, and a probe of fewer calls: what is not
    the network's, decoding above all, stays as it is. Where the probe is no faster than the default run, as many.
    """
    if probe_latency >= 1.0 or n_probe >= n_default:
        return n_probe
    per_call = (1.0 - probe_latency) / (n_default - n_probe)
    return min(n_probe, max(1, math.floor(n_default - (1.0 - relative_latency) / per_call)))
