"""How much a study may spend: time, evaluations, network calls, money; the first limit that is hit stops it."""

import math
import re
from dataclasses import dataclass

from autotune.spaces.errors import UsageError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNIT_S = (86400.0, 3600.0, 60.0, 1.0)


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `2m`, `1h30m` or `1d`.

    Raises:
        UsageError: the text has another form, or the duration is not positive.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not text.strip():
        raise UsageError(f"a duration is written like 90s, 2m, 1h30m or 2h; got {text!r}")
    seconds = math.fsum(float(part or 0.0) * unit for part, unit in zip(match.groups(), _UNIT_S, strict=True))
    if seconds <= 0.0:
        raise UsageError(f"a duration must be longer than nothing; got {text!r}; write it like 90s, 2m or 2h")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a study has used so far, counted as `Budget` counts. `worker_s` is wall time times the number of workers."""

    wall_s: float = 0.0
    evaluations: int = 0
    network_calls: int = 0
    worker_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one study; at least one, None for no limit.

    `wall_s` counts start-up, search and the final re-measurement, over all sessions of the study. `evaluations` counts
    the distinct candidates that the search has seen, the baseline and stored results included, so that a resumed
    study ends where an undisturbed one does; `network_calls` counts theirs, summed over images. Both leave out the
    final re-measurement. `cost` is money at `price_per_hour` of one worker, for as long as the study runs.
    """

    wall_s: float | None = None
    evaluations: int | None = None
    network_calls: int | None = None
    cost: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        if all(limit is None for limit in (self.wall_s, self.evaluations, self.network_calls, self.cost)):
            raise UsageError("a study needs a budget; give a wall time such as 2h, or a number of evaluations")
        names = {"wall_s": "wall-time budget", "cost": "budget of money", "price_per_hour": "price of a worker's hour"}
        for name, what in names.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"the {what} must be a positive number; got {value}")
        if (self.cost is None) != (self.price_per_hour is None):
            raise UsageError("a budget of money needs the price of a worker's hour, and the other way round; give both")
        for name in ("evaluations", "network_calls"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                what = name.replace("_", " ")
                raise UsageError(f"the budget of {what} must be a whole number from 1 on; got {value!r}")

    def used_fraction(self, spent: Spent) -> float:
        """Share of the budget that is used, by the limit that is closest; 1 or more means exhausted."""
        pairs = (
            (spent.wall_s, self.wall_s),
            (spent.evaluations, self.evaluations),
            (spent.network_calls, self.network_calls),
            (spent.worker_s, self._worker_s),
        )
        return max(used / limit for used, limit in pairs if limit is not None)

    def left_s(self, spent: Spent, n_workers: int) -> float:
        """Seconds for which the study may go on with so many workers; infinite without a limit that is time."""
        by_wall = math.inf if self.wall_s is None else self.wall_s - spent.wall_s
        by_cost = math.inf if self._worker_s is None else (self._worker_s - spent.worker_s) / n_workers
        return min(by_wall, by_cost)

    def allows(self, spent: Spent, *, network_calls: int = 0) -> bool:
        """Whether one more evaluation of so many network calls stays within the limits that are counts."""
        if self.evaluations is not None and spent.evaluations >= self.evaluations:
            return False
        return self.network_calls is None or spent.network_calls + network_calls <= self.network_calls

    @property
    def _worker_s(self) -> float | None:
        if self.cost is None or self.price_per_hour is None:
            return None
        return 3600.0 * self.cost / self.price_per_hour
