"""Additive corrections to a solver program: what is fitted by gradient on top of a theoretical solver.

"Additive around theory" as in the Generalized Solver (Oganov et al. 2026, arXiv 2510.17699): zero is the solver itself,
and at equal numbers of parameters it beats coefficients that are free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from autotune.spaces.errors import ScheduleError

Rows: TypeAlias = tuple[tuple[float, ...], ...]

MAX_ADDEND = 1e9
"""Largest size of an addend, that of the coefficients themselves (`autotune.spaces.solver_program`)."""

_FIELDS = ("timesteps", "states", "outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCorrection:
    """Addends to the coefficients of a program of n calls.

    `timesteps` (n) shifts what the network is called with, not the levels that the formulas compute with. Row i of
    `states` and `outputs` has i + 1 addends, to the factors on x_0 .. x_i and o_0 .. o_i.
    """

    timesteps: tuple[float, ...]
    states: Rows
    outputs: Rows

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        for name in ("states", "outputs"):
            lengths = [len(row) for row in getattr(self, name)]
            if lengths != list(range(1, n + 1)):
                raise ScheduleError(f"correction.{name} must have rows of 1 .. {n} numbers; got rows of {lengths}")
        _check_sizes(self.timesteps, "timesteps")
        for name in ("states", "outputs"):
            for i, row in enumerate(getattr(self, name)):
                _check_sizes(row, f"{name}[{i}]")

    @property
    def n_steps(self) -> int:
        """Number of network calls."""
        return len(self.timesteps)

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing."""
        return not any((*self.timesteps, *(v for row in (*self.states, *self.outputs) for v in row)))

    def plus(self, other: "ProgramCorrection") -> "ProgramCorrection":
        """Both, one after the other; they must be of the same number of steps."""
        return ProgramCorrection(
            timesteps=_sum(self.timesteps, other.timesteps),
            states=tuple(map(_sum, self.states, other.states)),
            outputs=tuple(map(_sum, self.outputs, other.outputs)),
        )

    def to_json(self) -> dict[str, object]:
        """A JSON object that `correction_from_json` reads back."""
        return {
            "timesteps": [float(v) for v in self.timesteps],
            "states": [[float(v) for v in row] for row in self.states],
            "outputs": [[float(v) for v in row] for row in self.outputs],
        }


def correction_from_json(data: object) -> ProgramCorrection:
    """The correction that `to_json` wrote.

    Raises:
        ScheduleError: it is not such an object, or a number is too large.
    """
    if not isinstance(data, Mapping) or set(data) != set(_FIELDS):
        raise ScheduleError(f"correction must be an object with {', '.join(_FIELDS)}; got {data!r}")
    return ProgramCorrection(
        timesteps=_row(data["timesteps"], "timesteps"),
        states=_rows(data["states"], "states"),
        outputs=_rows(data["outputs"], "outputs"),
    )


def _sum(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _check_sizes(values: tuple[float, ...], name: str) -> None:
    for i, value in enumerate(values):
        if not abs(value) <= MAX_ADDEND:
            raise ScheduleError(
                f"correction.{name}[{i}] must be a number within +-{MAX_ADDEND:g}; got {value}; 0 adds nothing"
            )


def _row(values: object, name: str) -> tuple[float, ...]:
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise ScheduleError(f"correction.{name} must hold lists of numbers; got {values!r}")
    return tuple(float(v) for v in values)


def _rows(rows: object, name: str) -> Rows:
    if not isinstance(rows, list):
        raise ScheduleError(f"correction.{name} must be a list of lists; got {rows!r}")
    return tuple(_row(row, name) for row in rows)
