"""How often a tensor takes which values, in so many bins at most, however many tensors are added."""

import math
from dataclasses import dataclass

import torch

from autotune.spaces.errors import ScheduleError

MAX_BINS = 4096
"""At least half of them are in use: eight or more to a code of 8 bits."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of bins [i, i + 1) 2^exponent from i = `first` on, and the extremes.

    Widths are powers of two and edges their multiples, so that a wider histogram is made by adding bins up in pairs,
    and no count moves by more than a bin.
    """

    low: float
    high: float
    exponent: int
    first: int
    counts: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> "Histogram":
        """Of all elements of a tensor.

        Raises:
            ScheduleError: some are not finite.
        """
        low, high = (float(extreme) for extreme in values.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ScheduleError("a layer reads NaN or infinite values; a schedule that works is needed to quantize")
        exponent = _exponent(low, high)
        first, last = _span(low, high, exponent)
        width = 2.0**exponent
        counts = torch.histc(values.float(), last - first + 1, min=first * width, max=(last + 1) * width)
        return cls(low, high, exponent, first, counts)

    def __add__(self, other: "Histogram") -> "Histogram":
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = max(self.exponent, other.exponent, _exponent(low, high))
        first, last = _span(low, high, exponent)
        counts = self.counts.new_zeros(last - first + 1)
        for one in (self, other):
            start, coarse = one._coarser(exponent)
            counts[start - first : start - first + len(coarse)] += coarse
        return Histogram(low, high, exponent, first, counts)

    @property
    def centres(self) -> torch.Tensor:
        """The values that the counts are of."""
        indices = torch.arange(len(self.counts), device=self.counts.device, dtype=torch.float64)
        centres = (indices + (self.first + 0.5)) * 2.0**self.exponent
        return centres.clamp(self.low, self.high).float()

    def _coarser(self, exponent: int) -> tuple[int, torch.Tensor]:
        """The first bin and the counts, in wider bins."""
        first, counts = self.first, self.counts
        for _ in range(exponent - self.exponent):
            counts = torch.nn.functional.pad(counts, (first % 2, (first + len(counts)) % 2))
            first, counts = first // 2, counts.view(-1, 2).sum(dim=1)
        return first, counts


def _exponent(low: float, high: float) -> int:
    """Of the narrowest bins of which `MAX_BINS` reach from one extreme to the other."""
    span = max(high - low, 2.0**-20 * max(abs(low), abs(high)), 2.0**-100)  # what float32 can tell apart
    return math.ceil(math.log2(span / (MAX_BINS - 2)))


def _span(low: float, high: float, exponent: int) -> tuple[int, int]:
    return math.floor(low / 2.0**exponent), math.floor(high / 2.0**exponent)
