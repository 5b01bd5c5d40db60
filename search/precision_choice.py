"""Which schedule to quantize next, and to how many bits: groups and bits solved together, from what was measured."""

import bisect
import contextlib
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.search.archive import ParetoArchive
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.column_fit import PRECISIONS, ColumnFit, FitColumn, FitTarget, Precision
from autotune.spaces.error_scale import error_value
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import DEVIATION, Measurement
from autotune.spaces.objective import PRECISION, asks_for_precision, objective_value, total_violation
from autotune.spaces.pareto import hypervolume
from autotune.spaces.schedule import Schedule

MARGIN = 0.1
"""The hypervolume reaches beyond the worst values of front and choices by this share of their range."""

WIDTHS = tuple(Precision(4.0 + i / 16) for i in range(65))
"""What a limit may be used up with."""

APART = 0.25
"""Two widths of one schedule that are tried differ by so many bits."""

PRIOR_SHARE = 0.97
"""Of all bytes, and of all bit operations, what a quantization is taken to reach before one was tried: a first try that
goes over a limit would be lost."""

LEAST_ADDED = 1e-12
"""The squared error that numbers which are not quantized are taken to add."""

FLOAT_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}
"""Of a number that is not quantized, by the condition's dtype."""


def wants_precision(context: SearchContext) -> bool:
    """Whether a study is about something that a quantization lowers: bytes of weights, or bit operations."""
    return asks_for_precision(context.objectives, context.constraints)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A schedule without a quantization, what was measured of it, and the precision to try it in."""

    member: Proposal
    measurement: Measurement
    precision: Precision

    def schedule(self, fit: Callable[[Schedule, FitTarget], ColumnFit]) -> Schedule:
        """Quantized; corrected anew, if it was corrected and that still helps.

        Raises:
            ScheduleError: no runs are left to quantize it.
        """
        made = fit(self.member.schedule, self.precision).schedule
        if self.member.schedule.cache_correction is not None:
            with contextlib.suppress(ScheduleError):
                made = fit(made, FitColumn.CACHE_CORRECTION).schedule
        return made


@dataclass(frozen=True, slots=True)
class _Pair:
    """What quantizing a schedule did: factors of bytes and of bit operations, and what the squared error grew by.

    `corrected` says whether the schedule's cache was.
    """

    weights: float
    bit_operations: float
    added: float = 0.0
    corrected: bool = False


class PrecisionChoice:
    """Chooses a schedule and a precision by the hypervolume that they promise under all objectives and limits.

    What comes of them is predicted. Bytes and bit operations change by the median factors of the pairs that were
    measured in this precision, and the square of the deviation grows by their median, since rounding has nothing to do
    with what a cache or a solver did wrong. Schedules with a corrected cache go by such pairs alone, and so do those
    without, of which the best are tried as well: a correction hands the rounding of one call on to others, and may
    cost more than it brings. A precision without pairs is taken to quantize the same share of bytes and operations as
    the others do, and `PRIOR_SHARE` before the first pair, or all where nothing would fit. What it adds lies between
    those of the next precisions with pairs, by logarithm; below all of them it is that of the least bits, so that fewer
    are tried soon. All other figures are taken to stay.

    Precisions are `PRECISIONS`, and for each schedule the widest that the limits allow, where that is none of them.
    """

    def __init__(self, context: SearchContext) -> None:
        self._objectives, self._limits = context.objectives, context.constraints
        self._float_bits = FLOAT_BITS.get(context.condition.dtype, 32.0)
        others = [limit for limit in self._limits if limit.metric not in PRECISION]
        self._lowered = [limit for limit in self._limits if limit.metric in PRECISION]
        lowered = [PRECISION[limit.metric] for limit in self._lowered]
        figures = tuple(dict.fromkeys((*self._objectives, *lowered)))
        self._plain = {corrected: ParetoArchive(figures, others) for corrected in (False, True)}
        self._found = ParetoArchive(self._objectives, self._limits)
        self._pairs: dict[Precision, list[_Pair]] = defaultdict(list)
        """Of all schedules, in the order in which they were measured."""
        self._asked: dict[str, Chosen] = {}
        self._tried: dict[str, set[Precision]] = defaultdict(set)
        self._over: set[tuple[str, Precision]] = set()
        self._plain_within: bool | None = None
        self._prior_share = PRIOR_SHARE

    def tell(self, results: Sequence[Result]) -> None:
        """Learn from results."""
        for result in results:
            measurement = result.measurement
            if measurement is None:
                continue
            self._found.add(result)
            if result.proposal.schedule.quantization is None:
                self._plain[_is_corrected(result.proposal)].add(result)
                self._plain_within = bool(self._plain_within) or total_violation(self._lowered, measurement) == 0.0
            chosen = self._asked.pop(result.proposal.schedule_hash, None)
            if chosen is not None:
                self._pairs[chosen.precision].append(_pair(chosen, measurement))
                if total_violation(self._lowered, measurement):
                    self._over.add((chosen.member.schedule_hash, chosen.precision))

    @property
    def is_needed(self) -> bool:
        """Whether no schedule that was measured keeps to the limits of bytes and bit operations without."""
        return self._plain_within is False

    def next(self) -> Chosen | None:
        """The schedule and precision that promise most and were not chosen before; None if none promises anything."""
        choices = self._choices()
        if not choices and not self._pairs and any(map(len, self._plain.values())):
            self._prior_share = 1.0
            choices = self._choices()
        if not choices:
            return None
        front = np.array([self._point(m) for m in self._found.measurements]).reshape(-1, len(self._objectives))
        points = np.array([self._point(predicted) for _, predicted in choices])
        worst, best = (of(np.vstack([front, points]), axis=0) for of in (np.max, np.min))
        corner = worst + MARGIN * np.where(worst > best, worst - best, 1.0)
        volumes = [hypervolume(np.vstack([front, point]), corner) for point in points]
        most = int(np.argmax(volumes))
        if volumes[most] <= hypervolume(front, corner):
            return None
        chosen = choices[most][0]
        self._tried[chosen.member.schedule_hash].add(chosen.precision)
        return chosen

    def note(self, proposal: Proposal, chosen: Chosen) -> None:
        """Remember what a proposal was made of, to learn from its result, and not to choose it again."""
        self._tried[chosen.member.schedule_hash].add(chosen.precision)
        self._asked[proposal.schedule_hash] = chosen

    def _choices(self) -> list[tuple[Chosen, Measurement]]:
        return [
            (Chosen(member, measurement, precision), predicted)
            for front in self._plain.values()
            for member, measurement in zip(front.members, front.measurements, strict=True)
            for precision, predicted in self._allowed(member, measurement)
        ]

    def _allowed(self, member: Proposal, measurement: Measurement) -> Iterator[tuple[Precision, Measurement]]:
        """What is left to try of a schedule within the limits, and what is predicted of it."""
        tried, corrected = self._tried[member.schedule_hash], _is_corrected(member)
        for precision in (*PRECISIONS, *self._widest(member, measurement)):
            if precision not in tried:
                predicted = self._predicted(measurement, precision, corrected)
                if total_violation(self._limits, predicted) == 0.0:
                    yield precision, predicted

    def _widest(self, member: Proposal, measurement: Measurement) -> list[Precision]:
        """The precision that uses up a limit that the widest of all goes over; none close to another one."""

        def goes_over(precision: Precision) -> bool:
            return total_violation(self._lowered, self._predicted(measurement, precision, _is_corrected(member))) > 0.0

        n_within = bisect.bisect_left(WIDTHS, True, key=goes_over)
        if n_within in (0, len(WIDTHS)):
            return []
        widest, key = WIDTHS[n_within - 1], member.schedule_hash
        others = {*PRECISIONS, *self._tried[key]}
        within = [one for one in others if one <= widest and (key, one) not in self._over]
        return [] if any(widest.mean_bits - one.mean_bits < APART for one in within) else [widest]

    def _point(self, measurement: Measurement) -> list[float]:
        """All objectives, those that are errors by their logarithm."""
        values = []
        for name in self._objectives:
            error = error_value(name, measurement)
            values.append(objective_value(name, measurement) if error is None else math.log10(error))
        return values

    def _predicted(self, plain: Measurement, precision: Precision, corrected: bool) -> Measurement:
        pairs = self._pairs.get(precision) or [self._expected(precision.mean_bits)]
        quality = dict(plain.quality)
        if DEVIATION in quality:
            added = self._added(precision.mean_bits, corrected)
            quality[DEVIATION] = tuple(math.sqrt(value**2 + added) for value in quality[DEVIATION])
        return replace(
            plain,
            quality=quality,
            weight_bytes=_scaled(plain.weight_bytes, statistics.median(pair.weights for pair in pairs)),
            bit_operations=_scaled(plain.bit_operations, statistics.median(pair.bit_operations for pair in pairs)),
        )

    def _added(self, bits: float, corrected: bool) -> float:
        """What the squared error of a schedule, with a corrected cache or without, is taken to grow by."""
        medians = {}
        for precision in sorted(self._pairs):
            if alike := [pair.added for pair in self._pairs[precision] if pair.corrected == corrected]:
                medians[precision.mean_bits] = statistics.median(alike)
        if bits in medians:
            return medians[bits]
        logs = [math.log(max(value, LEAST_ADDED)) for value in (*medians.values(), 0.0)]
        return math.exp(np.interp(bits, (*medians, self._float_bits), logs))

    def _expected(self, bits: float) -> _Pair:
        """What a precision without pairs is taken to save."""
        known = [(precision.mean_bits, pair) for precision, pairs in self._pairs.items() for pair in pairs]
        weights = [(1.0 - pair.weights) / (1.0 - self._weights(other)) for other, pair in known]
        operations = [(1.0 - pair.bit_operations) / (1.0 - self._bit_operations(other)) for other, pair in known]
        return _Pair(
            1.0 - statistics.median(weights or [self._prior_share]) * (1.0 - self._weights(bits)),
            1.0 - statistics.median(operations or [self._prior_share]) * (1.0 - self._bit_operations(bits)),
        )

    def _weights(self, bits: float) -> float:
        """The factor of bytes where all weights are quantized."""
        return bits / self._float_bits

    def _bit_operations(self, bits: float) -> float:
        """The factor of bit operations where all products are quantized, with activations of 8 bits."""
        return 8.0 * bits / self._float_bits**2


def _is_corrected(proposal: Proposal) -> bool:
    return proposal.schedule.cache_correction is not None


def _pair(chosen: Chosen, quantized: Measurement) -> _Pair:
    added, plain = 0.0, chosen.measurement
    if DEVIATION in plain.quality and DEVIATION in quantized.quality:
        # A ladder may have stopped one of them after the first prompts.
        pairs = zip(quantized.quality[DEVIATION], plain.quality[DEVIATION], strict=False)
        added = max(0.0, statistics.fmean(after**2 - before**2 for after, before in pairs))
    return _Pair(
        _factor(plain.weight_bytes, quantized.weight_bytes),
        _factor(plain.bit_operations, quantized.bit_operations),
        added,
        _is_corrected(chosen.member),
    )


def _factor(before: int | None, after: int | None) -> float:
    return after / before if before and after else 1.0


def _scaled(count: int | None, factor: float) -> int | None:
    return None if count is None else round(count * factor)
