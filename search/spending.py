"""What a study has used, what is under way, and whether more fits into its budget."""

from collections import deque
from collections.abc import Callable
from statistics import median

from autotune.search.budget import Budget, Spent

N_RECENT = 8
"""Recent candidates whose median says how long the next one takes."""

N_FEW = 3
"""So many must be known for that."""


class Spending:
    """Counts what a study uses; what is under way counts as used.

    `now` tells the seconds of this process's part of the study, `used` what earlier ones took. A sum that is known
    before it is spent, such as the network calls of an evaluation, never passes its limit.
    """

    def __init__(self, budget: Budget, now: Callable[[], float], n_workers: int, used: Spent) -> None:
        self.budget, self.n_workers = budget, n_workers
        self._now, self._used = now, used
        self._evaluations = self._network_calls = 0
        self._recent: deque[float] = deque(maxlen=N_RECENT)

    @property
    def spent(self) -> Spent:
        """All so far; evaluations and network calls are counted anew by every process, from the study's record."""
        now = self._now()
        return Spent(
            wall_s=self._used.wall_s + now,
            evaluations=self._evaluations,
            network_calls=self._network_calls,
            worker_s=self._used.worker_s + now * self.n_workers,
        )

    @property
    def used_fraction(self) -> float:
        """Share of the budget that is used."""
        return self.budget.used_fraction(self.spent)

    @property
    def left_s(self) -> float:
        """Seconds until the time is over; infinite if it is not limited."""
        return self.budget.left_s(self.spent, self.n_workers)

    @property
    def total_s(self) -> float:
        """Wall time of the whole study if it uses all that is left; infinite if that is not limited."""
        return self.spent.wall_s + self.left_s

    def search_s(self, before: Spent) -> float:
        """Seconds that the search has at most from a moment on, half of the study's time being for the verification.

        Where the start took that long already, it is a quarter of what is left.
        """
        left_s = self.budget.left_s(before, self.n_workers)
        return max(0.5 * (before.wall_s + left_s) - before.wall_s, 0.25 * left_s)

    def recall(self, network_calls: int) -> None:
        """Count an evaluation of the study's record, whatever the limits."""
        self._evaluations += 1
        self._network_calls += network_calls

    def begin(self, network_calls: int) -> bool:
        """Count one more evaluation, if the limits allow it."""
        if not self.budget.allows(self.spent, network_calls=network_calls):
            return False
        self._evaluations += 1
        self._network_calls += network_calls
        return True

    def extend(self, network_calls: int) -> bool:
        """Count more network calls of an evaluation that has begun, if the limit allows them."""
        limit = self.budget.network_calls
        if limit is not None and self._network_calls + network_calls > limit:
            return False
        self._network_calls += network_calls
        return True

    def note_calls(self, network_calls: int) -> None:
        """Count network calls that were made for something else, such as a fit."""
        self._network_calls += network_calls

    def note_seconds(self, seconds: float) -> None:
        """Learn how long a candidate took at its first rung; whether there is time for more is asked there."""
        self._recent.append(seconds)

    def next_s(self, unknown_s: float) -> float:
        """Seconds that the next candidate takes; at most, as long as few are known, `unknown_s` counting with them."""
        return median(self._recent) if len(self._recent) >= N_FEW else max(unknown_s, *self._recent, 0.0)
