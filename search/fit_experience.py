"""What fits by gradient, or by least squares, have left of errors, and what they are expected to leave."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.spaces.column_fit import FitColumn

LIKENESS = 0.3
"""Standard deviation, in the logarithm of the step count, of the Gaussian by which fits count for others."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fitted; whether it, or what it was carried from, was before; whether with a new analytic first step."""

    column: FitColumn
    again: bool = False
    analytic: bool = False


PRIORS: Mapping[Kind, tuple[float, float]] = {
    Kind(FitColumn.SOLVER): (0.5, 260.0),
    Kind(FitColumn.SOLVER, analytic=True): (0.42, 260.0),
    Kind(FitColumn.SOLVER, again=True): (0.8, 260.0),
    Kind(FitColumn.CORRECTION): (0.75, 440.0),
    Kind(FitColumn.CORRECTION, again=True): (0.9, 440.0),
    Kind(FitColumn.CACHE_CORRECTION): (0.8, 76.0),
}
"""What a quick fit is expected to leave of an error, and how many runs over a prompt it is expected to take.

That is before the first one has been seen; it counts as one fit. With an analytic first step, six fits at 5 to 16
steps of mini-flux and mini-pixart left .36 to .61; without, three from the same schedules .47 to .62.
"""


@dataclass(slots=True)
class Experience:
    """The fits of one kind: logarithms of their step counts and of what they left of the error.

    `runs` is their mean cost, and `n` their number, with the prior as one of them.
    """

    prior: float
    runs: float
    fits: list[tuple[float, float]] = field(default_factory=list)
    n: int = 1

    def ratio(self, n_steps: int, likely: float = 1.0) -> float:
        """What a fit leaves of the error: a geometric mean, in which fits at like step counts weigh most.

        It counts as the first of them that `likely` is left, if that is less than the prior.
        """
        weights = [math.exp(-0.5 * ((n - math.log(n_steps)) / LIKENESS) ** 2) for n, _ in self.fits]
        first = math.log(min(self.prior, likely))
        total = first + sum(w * left for w, (_, left) in zip(weights, self.fits, strict=True))
        return math.exp(total / (1.0 + sum(weights)))


def between(fitted: Mapping[int, float], n_steps: int) -> float:
    """The error that fits at fewer and at more steps let expect at `n_steps`: the least on a line between two of them.

    `fitted` has their errors by their steps; lines are straight on logarithmic axes. Infinite with none on one side.
    """
    fewer, more = ([n for n, e in fitted.items() if side * (n - n_steps) > 0 and e > 0.0] for side in (-1, 1))
    weights = ((math.log(m / n_steps) / math.log(m / n), n, m) for n in fewer for m in more)
    return min((fitted[n] ** w * fitted[m] ** (1.0 - w) for w, n, m in weights), default=math.inf)
