"""What a schedule file says was measured of its schedule."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The figures of a file, on held-out prompts if it has such; what it does not say is None, or not in `quality`.

    `measured_on` is `held_out` or `calibration`, `quality` maps a metric to its mean, `latency_ms` is a median.
    """

    measured_on: str
    quality: Mapping[str, float] = field(default_factory=dict)
    speedup: float | None = None
    latency_ms: float | None = None
    network_calls: float | None = None


def claim_of(measured: Mapping[str, object]) -> Claim | None:
    """The claim that a schedule file's `measured` makes; None where nothing was measured."""
    for name in ("held_out", "calibration"):
        figures = measured.get(name)
        if isinstance(figures, Mapping) and isinstance(quality := figures.get("quality_mean"), Mapping):
            runs = figures.get("latency_ms")
            timed = [ms for run in runs if (ms := _number(run)) is not None] if isinstance(runs, list) else []
            return Claim(
                measured_on=name,
                quality={
                    str(metric): mean for metric, value in quality.items() if (mean := _number(value)) is not None
                },
                speedup=_number(figures.get("speedup")),
                latency_ms=statistics.median(timed) if timed else None,
                network_calls=_number(figures.get("network_calls")),
            )
    return None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return value if is_number else None  # type: ignore[return-value]
