"""The front of points in the plane while it grows, and the area that it dominates; both coordinates are minimised."""

from bisect import bisect_right


class Staircase:
    """Points that no other dominates: `x` rises, and `y[x]` falls.

    A new point costs O(log n) comparisons, one more per point that it drives out, and a shift of one list.
    """

    def __init__(self) -> None:
        self.x: list[float] = []
        self.y: dict[float, float] = {}

    def place(self, x: float, y: float) -> range | None:
        """Positions in `x` of the points that a new one drives out, empty where it only comes between two.

        None if a point that is here dominates or equals the new one, or a coordinate is NaN.
        """
        if x != x or y != y:
            return None
        start = bisect_right(self.x, x)
        if start:
            before = self.x[start - 1]
            if self.y[before] <= y:
                return None
            if before == x:
                start -= 1
        stop = start
        while stop < len(self.x) and self.y[self.x[stop]] >= y:
            stop += 1
        return range(start, stop)

    def add(self, x: float, y: float) -> list[float] | None:
        """Take a point in; the x of those that it drives out, None if it is not taken."""
        place = self.place(x, y)
        if place is None:
            return None
        removed = self.x[place.start : place.stop]
        for old in removed:
            del self.y[old]
        self.x[place.start : place.stop] = [x]
        self.y[x] = y
        return removed


class DominatedArea:
    """The area between a corner and the points that were added, those outside the corner left out."""

    def __init__(self, right: float, top: float) -> None:
        self._right, self._top = right, top
        self._front = Staircase()
        self.value = 0.0

    def add(self, x: float, y: float) -> None:
        """Grow by what a point dominates and none before it did."""
        front = self._front
        place = front.place(x, y) if x < self._right and y < self._top else None
        if place is None:
            return
        ceiling = front.y[front.x[place.start - 1]] if place.start else self._top
        left = x
        for right in front.x[place.start : place.stop]:
            self.value += (right - left) * (ceiling - y)
            left, ceiling = right, front.y[right]
        right = front.x[place.stop] if place.stop < len(front.x) else self._right
        self.value += (right - left) * (ceiling - y)
        front.add(x, y)
