"""The fidelity ladder: candidates are measured on few prompts first, and on all only if they may join the front.

A candidate climbs from rung to rung; each adds the prompts that are new, so that one that reaches the top costs what a
full measurement costs. It is stopped once a full result dominates it with confidence. Only full results stand on the
front.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.search.paired_bound import failure_bound, least_count, lower_bound
from autotune.search.prompt_effects import LOGARITHMIC, PromptEffects
from autotune.search.variance_prior import VariancePrior
from autotune.spaces.error_scale import ERROR_FLOOR
from autotune.spaces.errors import EvaluatorError, UsageError
from autotune.spaces.evaluation import SUCCESS, Measurement
from autotune.spaces.objective import OBJECTIVES, REWARDS, Constraint, objective_value, total_violation

Array = NDArray[np.float64]

SHORTEST_RISE = 1.5
"""The last rung has at least this many times the prompts of the one before."""

LATENCY_SLACK = 0.05
"""A latency on few runs breaks a limit if it does so by this share."""


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """The rungs, how sure a stop must be, and what is worth a full measurement.

    The first rung has `first` prompts, each next one `growth` times as many. To be worth all prompts, a candidate must
    beat every full result by the share `cost_margin` in a cost, or by `quality_margin` in a quality: of small steps
    along the front most are overtaken soon, and the searcher is told of them anyway. `alpha` limits the chance that one
    that is worth more is stopped on its whole way up.

    Raises:
        UsageError: a number is out of its range.
    """

    first: int = 1
    growth: float = 4.0
    alpha: float = 0.5
    cost_margin: float = 0.015
    quality_margin: float = 0.015

    def __post_init__(self) -> None:
        if self.first < 1:
            raise UsageError(f"the first rung of a ladder needs a prompt or more; got {self.first}")
        if not self.growth >= SHORTEST_RISE:
            raise UsageError(f"rungs must grow by a factor of {SHORTEST_RISE} or more; got {self.growth}")
        if not 0.0 < self.alpha < 1.0:
            raise UsageError(f"alpha is a probability between 0 and 1; got {self.alpha}")
        for name in ("cost_margin", "quality_margin"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} is a share from 0 to below 1; got {getattr(self, name)}")

    def rungs(self, n_prompts: int) -> tuple[int, ...]:
        """Numbers of prompts, ascending; the last is `n_prompts`."""
        rungs, size = [], float(self.first)
        while size * SHORTEST_RISE <= n_prompts:
            rungs.append(round(size))
            size *= self.growth
        return (*rungs, n_prompts)


class Ladder:
    """Decides, rung by rung, whether a candidate is worth more prompts.

    What is decided is whether the full measurement would be worth it, so the bounds are those of the mean over all
    prompts (`lower_bound`, of successes `failure_bound`), and paired: all are of the same prompts with the same seeds.
    For each quality objective the candidate's values are taken less those that a schedule as good as a full result has
    there by what all full results had (`PromptEffects.typical`). Their mean over all prompts is the difference of both
    means, and they scatter less than differences to that full result's own values, which have its noise in them, too.
    The bound must, plus the margin, lie above 0, and for all quality objectives, which needs no correction (an
    intersection-union test, Berger 1982). `alpha` is shared evenly by the rungs below the top. With one quality
    objective the candidate is compared with the best of the full results that cost no more; with several, with all of
    these, which share alpha too.

    A full result costs no more if it does so within the margin. Latency and energy on few runs are noisier than that,
    so of these the margin is left out. A peak memory, which grows with the prompts that run together, can only have
    been underrated on few prompts.

    So the front approximates that of all that was tried, within the margins (an epsilon-approximate set, Laumanns et
    al. 2002, Evolutionary Computation 10(3)). With both at 0, and an `alpha` near 0, nothing is lost.
    """

    def __init__(
        self,
        n_prompts: int,
        objectives: Sequence[str],
        constraints: Sequence[Constraint],
        settings: LadderSettings | None = None,
    ) -> None:
        self._settings = settings or LadderSettings()
        self._n_prompts = n_prompts
        self.rungs = self._settings.rungs(n_prompts)
        self._alpha = self._settings.alpha / max(1, len(self.rungs) - 1)
        self._constraints = tuple(constraints)
        self._costs = tuple(name for name in objectives if OBJECTIVES[name].is_cost)
        self._qualities = tuple(name for name in objectives if not OBJECTIVES[name].is_cost)
        self._effects = PromptEffects(n_prompts)
        self._priors = [VariancePrior(n_prompts - 1) for _ in self._qualities]
        # Of the n members of the front: costs, means and values per prompt of the quality objectives, less is better.
        self._cost_table = np.empty((0, len(self._costs)))
        self._means = np.empty((0, len(self._qualities)))
        self._values = np.empty((0, len(self._qualities), n_prompts))
        margin = self._settings.cost_margin
        self._tolerance = np.array([1.0 if name in ("latency", "energy") else 1.0 + margin for name in self._costs])

    def judge(self, measurement: Measurement) -> int | None:
        """The next rung of a candidate that was measured on the first prompts; None if it is settled.

        It is settled at the top, or where it is confidently dominated or breaks a constraint.

        Raises:
            ValueError: the number of prompts is no rung.
        """
        k = measurement.n_prompts
        if k not in self.rungs:
            raise ValueError(f"a measurement must end at one of the rungs {self.rungs}; got {k} prompts")
        if k == self._n_prompts or self._breaks_constraint(measurement) or self._is_dominated(measurement, k):
            return None
        return self.rungs[self.rungs.index(k) + 1]

    def note(self, measurement: Measurement) -> None:
        """Take in a full result: later candidates are compared with it while no other dominates it.

        Raises:
            ValueError: it is not of all prompts.
        """
        if measurement.n_prompts != self._n_prompts:
            raise ValueError(f"a full result has {self._n_prompts} prompts; got {measurement.n_prompts}")
        values = self._signed(measurement)
        for i, name in enumerate(self._qualities if self._n_prompts > 1 else ()):
            if self._effects.knows(name):
                mean = values[i].mean(keepdims=True)
                noise = (values[i] - self._typical(name, mean)) / _size(name, values[i], mean)
                self._priors[i].note(noise.var(axis=1, ddof=1))
        self._effects.note(measurement.quality)
        if total_violation(self._constraints, measurement) > 0.0:
            return
        costs = np.array([objective_value(name, measurement) for name in self._costs])
        means = values.mean(axis=1)
        point, front = np.hstack([costs, means]), np.hstack([self._cost_table, self._means])
        if np.isnan(point).any() or (front <= point).all(axis=1).any():
            return
        kept = ~(point <= front).all(axis=1)
        self._cost_table = np.vstack([self._cost_table[kept], costs])
        self._means = np.vstack([self._means[kept], means])
        self._values = np.concatenate([self._values[kept], values[None]])

    def estimate(self, measurement: Measurement) -> Measurement:
        """The measurement with quality values corrected for how hard its prompts are (`PromptEffects`).

        So a searcher may compare a partial result with a full one. A full one comes back as it is.
        """
        quality = {name: self._effects.corrected(name, values) for name, values in measurement.quality.items()}
        return replace(measurement, quality=quality)

    def _signed(self, measurement: Measurement) -> Array:
        """Values (n_qualities, k) of the quality objectives, less is better."""
        rows = [np.asarray(_values_of(measurement, name), np.float64) * _sign(name) for name in self._qualities]
        return np.array(rows).reshape(len(rows), measurement.n_prompts)

    def _is_dominated(self, measurement: Measurement, k: int) -> bool:
        """Whether some full result costs no more and is confidently better in every quality objective."""
        costs = np.array([objective_value(name, measurement) for name in self._costs])
        rivals = np.flatnonzero((self._cost_table <= costs * self._tolerance).all(axis=1))
        if len(rivals) == 0:
            return False
        if len(self._qualities) == 1:
            rivals = rivals[[int(np.argmin(self._means[rivals, 0]))]]
        bounds = self._bounds(self._signed(measurement), rivals, self._alpha / len(rivals))
        return bool((bounds + self._margins(self._means[rivals]) > 0.0).all(axis=1).any())

    def _bounds(self, own: Array, rivals: NDArray[np.int64], alpha: float) -> Array:
        """Of the mean differences of signed values (n_qualities, k) to rivals (n,), in all: (n, n_qualities)."""
        k = own.shape[1]
        bounds = np.empty((len(rivals), len(own)))
        for i, name in enumerate(self._qualities):
            if name == SUCCESS:
                bounds[:, i] = [failure_bound(1.0 + own[i], 1.0 + rival, alpha) for rival in self._values[rivals, i]]
                continue
            means = self._means[rivals, i]
            size = _size(name, own[i], means)
            differences = (own[i] - self._typical(name, means)[:, :k]) / size[:, None]
            bounds[:, i] = size * lower_bound(differences, self._n_prompts, alpha, self._priors[i].prior)
        return bounds

    def _typical(self, name: str, means: Array) -> Array:
        """Signed values (n, n_prompts) of schedules with signed means (n,), if they differ as their prompts do."""
        return _sign(name) * self._effects.typical(name, _sign(name) * means)

    def _margins(self, means: Array) -> Array:
        """What counts as no gain on signed means (n, n_qualities), in their units."""
        share = self._settings.quality_margin
        columns = [_margin(name, means[:, i], share, self._n_prompts) for i, name in enumerate(self._qualities)]
        return np.array(columns).reshape(len(columns), len(means)).T

    def _breaks_constraint(self, measurement: Measurement) -> bool:
        return any(self._breaks(constraint, measurement) for constraint in self._constraints)

    def _breaks(self, constraint: Constraint, measurement: Measurement) -> bool:
        """Whether a constraint is confidently broken; a lower limit of the memory can't be, on few prompts."""
        name, sign = constraint.metric, 1.0 if constraint.operator == "<=" else -1.0
        if name == SUCCESS:
            ones = sum(value > 0.5 if sign > 0.0 else value < 0.5 for value in _values_of(measurement, name))
            limit = constraint.limit if sign > 0.0 else 1.0 - constraint.limit
            return least_count(ones, measurement.n_prompts, self._n_prompts, self._alpha) > limit * self._n_prompts
        if name in OBJECTIVES and not OBJECTIVES[name].is_cost:
            excess = sign * (np.asarray(_values_of(measurement, name), np.float64) - constraint.limit)
            return bool(lower_bound(excess, self._n_prompts, self._alpha) > 0.0)
        if name.startswith("memory") and constraint.operator == ">=":
            return False
        slack = LATENCY_SLACK if name.startswith(("latency", "energy")) else 0.0
        return constraint.violation(measurement) > slack


def merged(lower: Measurement, upper: Measurement, *, adaptive: bool = False) -> Measurement:
    """One measurement of two, of the first prompts of a fidelity and of those that follow them.

    Values per prompt are joined, for the metrics that both have. Timings are those of the larger part, of `upper` where
    both are equally large; the peak memory is the larger one; what both cost is added up. Of a schedule
    that is `adaptive`, which decides anew for every batch, MACs and network calls are averaged over the prompts.

    Raises:
        EvaluatorError: MACs or network calls differ, so the two can't be of one schedule and condition.
    """
    measured = ("macs", "network_calls")
    for name in ("baseline_macs",) if adaptive else ("baseline_macs", *measured):
        if getattr(lower, name) != getattr(upper, name):
            raise EvaluatorError(
                f"the parts of a measurement must agree in {name}; got {getattr(lower, name)} and "
                f"{getattr(upper, name)}: the evaluator does not do the same for every prompt"
            )
    n = lower.n_prompts, upper.n_prompts
    means = {x: round((getattr(lower, x) * n[0] + getattr(upper, x) * n[1]) / sum(n)) for x in measured}
    timed = lower if lower.n_prompts > upper.n_prompts else upper
    return replace(
        timed,
        quality={n: (*values, *upper.quality[n]) for n, values in lower.quality.items() if n in upper.quality},
        peak_memory_bytes=max(lower.peak_memory_bytes, upper.peak_memory_bytes),
        wall_s=lower.wall_s + upper.wall_s,
        macs=means["macs"],
        network_calls=means["network_calls"],
    )


def _values_of(measurement: Measurement, name: str) -> tuple[float, ...]:
    if name not in measurement.quality:
        known = ", ".join(sorted(measurement.quality))
        raise UsageError(f"the metric {name!r} was not measured here; measured: {known}; choose one of those")
    return measurement.quality[name]


def _sign(name: str) -> float:
    return -1.0 if OBJECTIVES[name].higher_is_better else 1.0


def _size(name: str, own: Array, means: Array) -> Array:
    """What differences between own values (k,) and those of schedules with means (n,) grow with; 1 where with none."""
    if name not in LOGARITHMIC:
        return np.ones(len(means))
    return np.asarray(np.maximum(0.5 * (own.mean() + means), ERROR_FLOOR))


def _margin(name: str, means: Array, share: float, n_prompts: int) -> Array:
    """The gain on signed means (n,) that corresponds to a deviation that is smaller by a share.

    Of a PSNR that is the gain in dB; metrics up to 1 count by their distance to it, which for successes is half a
    failure at least: where nothing fails there is nothing to gain. Of rewards, which differ little
    beside their size, every gain counts.
    """
    if name in REWARDS:
        return np.zeros(len(means))
    if name == "psnr":
        return np.full(len(means), -20.0 * math.log10(1.0 - share))
    if OBJECTIVES[name].higher_is_better:
        return share * np.maximum(1.0 + means, 0.5 / n_prompts if name == SUCCESS else 0.0)
    return share * means
