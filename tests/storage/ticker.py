"""A clock that a test sets."""


class Ticker:
    """Seconds that stand still, or go on by `step` with every look."""

    def __init__(self, step: float = 0.0) -> None:
        self.seconds = 0.0
        self._step = step

    def __call__(self) -> float:
        self.seconds += self._step
        return self.seconds
