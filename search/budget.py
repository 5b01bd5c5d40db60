"""How much a study may spend: wall time, evaluations, network calls; the first limit that is hit stops it."""

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
    """What a study has used so far, counted as `Budget` counts."""

    wall_s: float = 0.0
    evaluations: int = 0
    network_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one study; at least one, None for no limit.

    `wall_s` counts start-up, search and the final re-measurement, over all sessions of the study. `evaluations` counts
    the distinct candidates that the search has seen, the baseline and stored results included, so that a resumed
    study ends where an undisturbed one does; `network_calls` counts theirs, summed over images. The final
    re-measurement counts against the wall time only.
    """

    wall_s: float | None = None
    evaluations: int | None = None
    network_calls: int | None = None

    def __post_init__(self) -> None:
        if self.wall_s is None and self.evaluations is None and self.network_calls is None:
            raise UsageError("a study needs a budget; give a wall time such as 2h, or a number of evaluations")
        if self.wall_s is not None and not (math.isfinite(self.wall_s) and self.wall_s > 0):
            raise UsageError(f"the wall-time budget must be a positive number of seconds; got {self.wall_s}")
        for name in ("evaluations", "network_calls"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                what = name.replace("_", " ")
                raise UsageError(f"the budget of {what} must be a whole number from 1 on; got {value!r}")

    def used_fraction(self, spent: Spent) -> float:
        """Share of the budget that is used, by the limit that is closest; 1 or more means exhausted."""
        shares = [
            used / limit
            for used, limit in (
                (spent.wall_s, self.wall_s),
                (spent.evaluations, self.evaluations),
                (spent.network_calls, self.network_calls),
            )
            if limit is not None
        ]
        return max(shares)

    def allows(self, spent: Spent, *, next_s: float = 0.0, reserve_s: float = 0.0) -> bool:
        """Whether one more candidate, of an estimated `next_s` seconds, fits while `reserve_s` seconds stay free."""
        if self.wall_s is not None and spent.wall_s + next_s + reserve_s > self.wall_s:
            return False
        return self.used_fraction(spent) < 1.0
