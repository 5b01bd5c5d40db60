"""Schedules that the user gives a study to start from, such as re-timed ones of another condition."""

from collections.abc import Iterator

from autotune.search.planned import PlannedSearcher
from autotune.spaces.schedule import Schedule

FAMILY = "given"


class GivenSearcher(PlannedSearcher):
    """Goes through the context's given schedules; every other family is told their results before it begins."""

    family = FAMILY

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        yield from self._context.given
