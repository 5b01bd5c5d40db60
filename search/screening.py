"""A learned predictor that picks the most promising of several offspring, once it has shown that it can."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.ensemble import ExtraTreesRegressor

from autotune.search.searcher import SearchContext
from autotune.search.table_encoding import TableEncoding
from autotune.spaces.schedule import Schedule

Array = NDArray[np.float64]

N_TREES = 100

MIN_KNOWN = 20
"""Schedules of which the quality must be known before anything is predicted."""

GROWTH = 1.15
"""The predictor is trained anew when the known schedules have grown by this factor."""

MIN_PREDICTED, MAX_PREDICTED = 16, 60
"""The last so many predictions of offspring that were measured since are what trust rests on."""

TRUST = 3.0
"""Standard deviations of Kendall's tau under chance by which it must exceed 0.

It is looked at after every result: with 2, mere noise is trusted at some time in a fifth of studies of 120 predictions.
"""


@dataclass(frozen=True, slots=True)
class Guess:
    """What was predicted of a schedule before it was measured: its quality, lower is better, at what relative cost."""

    value: float
    cost: float


class Screening:
    """Predicts the first objective of quality from encoded schedules, and keeps account of its predictions.

    Trusted is who ranks what was measured since better than chance would in 99.9 % of cases, after what the cost
    explains of both is taken away: that cheaper schedules deviate more is no merit. (Changes against a parent won't do
    in its place: a parent that was lucky makes any prediction of a change look right.)
    """

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._encoding = TableEncoding(context)
        self._seed = seed
        self._x: list[Array] = []
        self._y: list[float] = []
        self._checked: list[tuple[Guess, float]] = []
        self._model: ExtraTreesRegressor | None = None
        self._n_trained = 0

    @property
    def tau(self) -> float:
        """Kendall's tau of the last predicted and measured values, less what their costs explain; 0 of too few."""
        last = self._checked[-MAX_PREDICTED:]
        if len(last) < MIN_PREDICTED:
            return 0.0
        log_cost = np.log([max(guess.cost, 1e-3) for guess, _ in last])
        predicted = _residual(np.array([guess.value for guess, _ in last]), log_cost)
        return float(
            np.nan_to_num(kendalltau(predicted, _residual(np.array([y for _, y in last]), log_cost)).statistic)
        )

    @property
    def is_trusted(self) -> bool:
        """Whether the predictions have been better than chance."""
        n = min(len(self._checked), MAX_PREDICTED)
        return n >= MIN_PREDICTED and self.tau > TRUST * math.sqrt(2.0 * (2 * n + 5) / (9.0 * n * (n - 1)))

    def note(self, schedule: Schedule, value: float, guess: Guess | None = None) -> None:
        """Learn the value of a schedule, and what was predicted of it before."""
        if guess is not None and math.isfinite(guess.value):  # else it had no encoding
            self._checked.append((guess, value))
        encoded = self._encoding.encode(schedule)
        if encoded is not None:
            self._x.append(encoded)
            self._y.append(value)

    def predict(self, schedules: Sequence[Schedule]) -> list[float] | None:
        """Values of schedules, inf where one has no encoding; None while too few are known."""
        if len(self._y) < MIN_KNOWN:
            return None
        if self._model is None or len(self._y) >= GROWTH * self._n_trained:
            self._model = ExtraTreesRegressor(N_TREES, min_samples_leaf=2, random_state=self._seed)
            self._model.fit(np.array(self._x), np.array(self._y))
            self._n_trained = len(self._y)
        encoded = [self._encoding.encode(schedule) for schedule in schedules]
        there = [code for code in encoded if code is not None]
        values = iter(self._model.predict(np.array(there)).tolist() if there else [])
        return [math.inf if code is None else next(values) for code in encoded]


def _residual(values: Array, log_cost: Array) -> Array:
    """What a parabola in the logarithm of the cost leaves of the values."""
    terms = np.stack([np.ones_like(log_cost), log_cost, log_cost**2], axis=1)
    return np.asarray(values - terms @ np.linalg.lstsq(terms, values)[0])
