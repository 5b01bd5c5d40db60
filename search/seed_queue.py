"""The schedules that an evolution begins with."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from autotune.search.fitness import Fitness
from autotune.search.searcher import Novelty, Proposal
from autotune.spaces.schedule import Schedule

Seed = tuple[str, Schedule]
"""Label and schedule."""

Item = TypeVar("Item")


def in_turns(*sources: Iterator[Item]) -> Iterator[Item]:
    """One item of each source after the other, as long as any has some."""
    left = list(sources)
    while left:
        for source in list(left):
            item = next(source, None)
            if item is None:
                left.remove(source)
            else:
                yield item


class SeedQueue:
    """Up to `n` seeds of `make`, one by one; they are made when the first is asked for, since planning takes runs."""

    def __init__(self, make: Callable[[], Iterator[Seed]], n: int, novelty: Novelty, fitness: Fitness) -> None:
        self._make, self._n = make, n
        self._novelty, self._fitness = novelty, fitness
        self._left: list[Seed] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all have been taken."""
        return self._left == []

    def take(self, family: str) -> Proposal | None:
        """The next one that is new and keeps to the limits; None if there are no more."""
        if self._left is None:
            self._left = list(islice(self._make(), self._n))[::-1]
        while self._left:
            label, schedule = self._left.pop()
            proposal = self._novelty.admit(schedule, family=family, label=label)
            if proposal is not None and not self._fitness.refuses(proposal.schedule):
                return proposal
        return None
