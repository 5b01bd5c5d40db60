"""The guidance column of a schedule: what each network call does with the two branches of classifier-free guidance."""

import math
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.cache_plan import values_kept
from autotune.spaces.errors import ScheduleError

MAX_WEIGHTS = 3
"""Differences that an estimate may read."""


class GuidanceAction(StrEnum):
    """What a network call does with the two branches.

    All but the first run the conditional branch alone, which gives c. The unconditional output is then c - d, where d
    is estimated from the differences c_j - u_j of the last calls that ran both. These stand at the numbers of their
    calls: at their lambdas, lines and parabolas came out farther from the converged run, by .1 to 1 dB in each of ten
    columns of 8 to 20 steps on mini-pixart. Fitted weights may be those of any places.
    """

    BOTH = "both"
    STORED = "stored"
    """d is the last difference."""
    LINEAR = "linear"
    """d lies on the line through the last two."""
    QUADRATIC = "quadratic"
    """d lies on the parabola through the last three."""
    CONDITIONAL = "conditional"
    """d is 0, so guidance has no effect."""


GuidanceRow: TypeAlias = GuidanceAction | tuple[float, ...]
"""An action, or fitted weights: d is their sum with the last differences, the newest first."""

_FORECAST = {
    GuidanceAction.STORED: CacheAction.REUSE,
    GuidanceAction.LINEAR: CacheAction.TAYLOR_1,
    GuidanceAction.QUADRATIC: CacheAction.NEWTON_2,
}
_OF_ORDER = tuple(_FORECAST)


def n_differences(row: GuidanceRow) -> int:
    """How many differences a row reads."""
    if isinstance(row, tuple):
        return len(row)
    return _FORECAST[row].order + 1 if row in _FORECAST else 0


def guidance_weights(row: GuidanceRow, computed: Sequence[int], now: int) -> tuple[float, ...]:
    """Weights of the last differences, newest first; fewer than `n_differences` where fewer are there.

    Args:
        row: no BOTH.
        computed: calls that ran both branches, newest first.
        now: the present call.
    """
    if isinstance(row, tuple):
        return row[: len(computed)]
    return forecast_weights(_FORECAST[row], computed, now) if row in _FORECAST else ()


def check_guidance(column: Sequence[GuidanceRow]) -> None:
    """Raise a ScheduleError that names the row if an estimate has nothing to read, or weights are none."""
    n_both = 0
    for i, row in enumerate(column):
        if isinstance(row, tuple):
            if not all(math.isfinite(weight) for weight in row):
                raise ScheduleError(f"guidance[{i}] must hold finite weights; got {list(row)}")
            if not 1 <= len(row) <= min(MAX_WEIGHTS, n_both):
                raise ScheduleError(
                    f"guidance[{i}] must hold 1 to {MAX_WEIGHTS} weights, one for each of the {n_both} calls before it "
                    f"that run both branches at most; got {len(row)}"
                )
        elif n_differences(row) and not n_both:
            raise ScheduleError(f"guidance[{i}] can't be '{row}': no call before it runs both branches")
        n_both += row is GuidanceAction.BOTH


def canonical_guidance(column: Sequence[GuidanceRow]) -> tuple[GuidanceRow, ...] | None:
    """The column with the actions that its calls really take; None where all run both branches."""
    rows: list[GuidanceRow] = []
    n_both = 0
    for row in column:
        if row == (1.0,):
            rows.append(GuidanceAction.STORED)
        elif isinstance(row, tuple) or not n_differences(row):
            rows.append(row)
        else:
            rows.append(_OF_ORDER[min(n_differences(row), n_both) - 1])
        n_both += row is GuidanceAction.BOTH
    return None if all(row is GuidanceAction.BOTH for row in rows) else tuple(rows)


def guidance_to_json(column: Sequence[GuidanceRow]) -> list[object]:
    """Names of actions, and weights as lists of numbers."""
    return [[float(weight) for weight in row] if isinstance(row, tuple) else str(row) for row in column]


def guidance_from_json(data: Sequence[object]) -> tuple[GuidanceRow, ...]:
    """The column that `guidance_to_json` wrote.

    Raises:
        ScheduleError: a row is no action and no list of numbers.
    """
    rows: list[GuidanceRow] = []
    for i, value in enumerate(data):
        if isinstance(value, list) and all(isinstance(w, int | float) and not isinstance(w, bool) for w in value):
            rows.append(tuple(value))
        elif isinstance(value, str) and value in list(GuidanceAction):
            rows.append(GuidanceAction(value))
        else:
            raise ScheduleError(
                f"guidance[{i}] must be one of {[str(a) for a in GuidanceAction]}, or a list of weights; got {value!r}"
            )
    return tuple(rows)


def dropped_rows(column: Sequence[GuidanceRow] | None, n_calls: int) -> tuple[bool, ...]:
    """Which network calls leave the unconditional branch out."""
    return (False,) * n_calls if column is None else tuple(row is not GuidanceAction.BOTH for row in column)


def differences_kept(column: Sequence[GuidanceRow]) -> tuple[int, ...]:
    """How many differences must stay stored after each call, since later ones read them."""
    if not column:
        return ()
    made = np.array([[row is GuidanceAction.BOTH for row in column]])
    reads = np.array([[n_differences(row) > 0 for row in column]])
    orders = np.array([[max(0, n_differences(row) - 1) for row in column]])
    return tuple(values_kept(made, reads, orders)[1][0].tolist())


def fitted_guidance(
    column: Sequence[GuidanceRow], gram: NDArray[np.float64], calls: Collection[int] | None = None
) -> tuple[GuidanceRow, ...]:
    """The column with least-squares weights in place of estimates that read differences.

    What a call's weights are fitted to is its difference less the errors of all estimates before. Plain fits are closer
    call by call, but err to one side, and a run adds their errors up: on mini-pixart it was farther off than with
    parabolas, and with these weights closer. Weights are rounded to six decimals, to be the same on every machine.

    Args:
        column: a valid guidance column.
        gram: inner products of the differences c - u of all pairs of calls, summed over samples, of runs that took both
            branches in every call; float64 (n_calls, n_calls).
        calls: whose estimates are replaced; by default all.
    """
    fitted: list[GuidanceRow] = []
    both: list[int] = []
    error = np.zeros(len(column))  # of the estimates so far, as weights of the differences
    for i, row in enumerate(column):
        read = both[: n_differences(row)]
        if read and (calls is None or i in calls):
            wanted = (np.arange(len(column)) == i) - error
            # Relative to the newest one, as the differences hardly differ.
            ridge = max(1e-9 * gram[read[0], read[0]], np.finfo(float).tiny) * np.eye(len(read))
            weights = np.linalg.solve(gram[np.ix_(read, read)] + ridge, gram[read] @ wanted)
            row = tuple(weights.round(6).tolist())
        if read:
            weights_now = guidance_weights(row, both, i)
            error[read[: len(weights_now)]] += weights_now
            error[i] -= 1.0
        fitted.append(row)
        if row is GuidanceAction.BOTH:
            both.insert(0, i)
    return tuple(fitted)
