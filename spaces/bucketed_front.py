"""The front of points with any number of objectives while it grows; every objective is minimised."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKET_SIZE = 64

Points = NDArray[np.float64]
"""Shape (n_objectives, n): numpy compares long rows with one value each faster than many short ones."""


class BucketedFront:
    """Points that no other dominates, in buckets of neighbours, each bucket with its lowest and highest corner.

    A new point is compared with the corners, and with the points of those buckets alone whose box it neither clears
    nor misses: the leaves of an ND-tree (Jaszkiewicz and Lust 2018, arXiv 1603.04798) without the tree, since numpy
    looks at a thousand corners in the time of a few steps down it.
    """

    def __init__(self, n_objectives: int) -> None:
        # Both with room for more than there are: the corners of the buckets, and the points of each.
        self._low, self._high = np.empty((n_objectives, 8)), np.empty((n_objectives, 8))
        self._buckets: list[_Bucket] = []
        self._scale = np.ones((n_objectives, 1))

    def add(self, tag: int, values: Sequence[float]) -> list[int] | None:
        """Take a point in; the tags of those that it drives out.

        None if a point that is here dominates or equals it, or a value is NaN.
        """
        point = np.array(values, np.float64)[:, None]
        if np.isnan(point).any() or self._is_beaten(point):
            return None
        removed = self._drive_out(point)
        self._insert(tag, point)
        return removed

    def _is_beaten(self, point: Points) -> bool:
        below = _all(self._low[:, : len(self._buckets)] <= point)
        return any(_all(self._buckets[i].points <= point).any() for i in below.nonzero()[0].tolist())

    def _drive_out(self, point: Points) -> list[int]:
        removed: list[int] = []
        above = _all(self._high[:, : len(self._buckets)] >= point)
        for i in above.nonzero()[0].tolist()[::-1]:  # from the end on: the last bucket takes the place of an empty one
            bucket = self._buckets[i]
            beaten = _all(bucket.points >= point)
            if not beaten.any():
                continue
            removed += bucket.tags[beaten].tolist()
            if beaten.all():
                self._drop(i)
            else:
                self._set(i, bucket.points[:, ~beaten], bucket.tags[~beaten])
        return removed

    def _insert(self, tag: int, point: Points) -> None:
        if not self._buckets:
            self._set(0, point, np.array([tag]))
            return
        i = self._nearest(point)
        bucket = self._buckets[i]
        if bucket.size < BUCKET_SIZE:
            bucket.append(point, tag)
            np.minimum(self._low[:, i : i + 1], point, out=self._low[:, i : i + 1])
            np.maximum(self._high[:, i : i + 1], point, out=self._high[:, i : i + 1])
            return
        points, tags = np.hstack([bucket.points, point]), np.append(bucket.tags, tag)
        with np.errstate(invalid="ignore"):
            order = np.argsort(points[np.argmax(np.ptp(points, axis=1, keepdims=True) / self._scale)])
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        self._set(i, points[:, first], tags[first])
        self._set(len(self._buckets), points[:, second], tags[second])
        extent = self._high[:, : len(self._buckets)].max(axis=1) - self._low[:, : len(self._buckets)].min(axis=1)
        self._scale = np.where(extent > 0.0, extent, 1.0)[:, None]

    def _nearest(self, point: Points) -> int:
        """The bucket whose box the point is closest to; where values are infinite, any."""
        n = len(self._buckets)
        with np.errstate(invalid="ignore"):
            outside = np.maximum(self._low[:, :n] - point, point - self._high[:, :n])
            return int((np.maximum(outside, 0.0) / self._scale).sum(axis=0).argmin())

    def _set(self, i: int, points: Points, tags: NDArray[np.int64]) -> None:
        """Fill bucket `i` anew, or the one after the last."""
        if i == self._low.shape[1]:
            self._low, self._high = (np.hstack([table, table]) for table in (self._low, self._high))
        self._buckets[i : i + 1] = [_Bucket(points, tags)]
        self._low[:, i], self._high[:, i] = points.min(axis=1), points.max(axis=1)

    def _drop(self, i: int) -> None:
        last = self._buckets.pop()
        if i < len(self._buckets):
            self._set(i, last.points, last.tags)


class _Bucket:
    """At most `BUCKET_SIZE` points and their tags."""

    def __init__(self, points: Points, tags: NDArray[np.int64]) -> None:
        self.size = len(tags)
        self._points, self._tags = np.empty((len(points), BUCKET_SIZE)), np.empty(BUCKET_SIZE, np.int64)
        self._points[:, : self.size], self._tags[: self.size] = points, tags

    def append(self, point: Points, tag: int) -> None:
        """Add a point to those that are fewer than `BUCKET_SIZE`."""
        self._points[:, self.size], self._tags[self.size] = point[:, 0], tag
        self.size += 1

    @property
    def points(self) -> Points:
        """Shape (n_objectives, size)."""
        return self._points[:, : self.size]

    @property
    def tags(self) -> NDArray[np.int64]:
        """Shape (size,)."""
        return self._tags[: self.size]


def _all(table: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each column, whether all is true."""
    return np.asarray(np.logical_and.reduce(table, axis=0))
