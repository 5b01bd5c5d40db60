"""Solver schedules as points of a space of thirteen dimensions, whatever their number of steps."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_step import Domain, Relaxation, SolverStep, View
from autotune.spaces.time_grid import grid_ends, pinned_times

Array = NDArray[np.float64]

MAX_ORDER = 3

MIN_STEPS = 4
"""The fewest steps, or half the pipeline's own where those are fewer than eight."""

BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "end": (0.45, 1.0),
        "first_gap": (-0.5, 2.0),
        "tilt": (-0.7, 0.7),
        "bend": (-1.0, 1.5),
        "last_gap": (-0.5, 2.0),
        "slope": (0.85, 1.15),
        "tail_slope": (0.85, 1.15),
    }
)
"""Ranges of a point's real numbers: little more than known grids need, since a sampler begins by spreading over all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverPoint:
    """A solver schedule in few numbers.

    The calls lie between the condition's starting noise and `end`, a share of the way in lambda from there to the
    cleanest timestep that the model was trained on. The gap from level i to the next, in lambda, is a softmax of
    tilt u + bend u^2, where u goes from -1 at the first gap to 1 at the last; `first_gap` and `last_gap` add to those
    two, which grids in timesteps make larger: a flow's first level is pure noise, a variance-preserving one's last is
    nearly clean.

    `form` is a key of `SolverEncoding.forms`. The order grows to `order` as outputs come in and, in lambda, falls
    again at the end. The factor on the slope runs from `slope` in the first row to `tail_slope` in the last.
    `analytic_start` makes the first gap a step without a call.
    """

    n_steps: int
    form: str
    order: int
    relaxation: Relaxation
    corrector: bool
    analytic_start: bool
    end: float
    first_gap: float
    tilt: float
    bend: float
    last_gap: float
    slope: float
    tail_slope: float


@dataclass(frozen=True)
class SolverEncoding:
    """The points that a condition allows, and the schedules that they stand for."""

    condition: Condition
    inventory: Inventory

    @property
    def step_range(self) -> tuple[int, int]:
        """Least and largest number of steps: below the pipeline's own, of which one step is the least."""
        n = self.condition.n_steps
        return max(1, min(MIN_STEPS, n // 2)), max(1, n - 1)

    @property
    def forms(self) -> dict[str, tuple[View, Domain]]:
        """View and domain by name; `straight` is the straight ODE."""
        is_flow = isinstance(self.condition.noise_schedule, Flow)
        return {
            "data": ("data", "lambda"),
            "noise": ("noise", "lambda"),
            "straight": ("velocity" if is_flow else "noise", "sigma"),
        }

    @property
    def allows_analytic_start(self) -> bool:
        """Whether an analytic first step exists on the condition's noise schedule."""
        return not isinstance(self.condition.noise_schedule, MeanReverting)

    def decode(self, point: SolverPoint) -> Schedule:
        """The canonical schedule of a point.

        Raises:
            ScheduleError: the point has an analytic start where there is none, or an order below 1.
        """
        n, start = point.n_steps, self.condition.start_timestep
        rows = tuple(self._row(point, i) for i in range(n))
        schedule = Schedule(
            n_steps=n,
            time=self._levels(point)[point.analytic_start :],
            solver=rows,
            start=start if point.analytic_start else None,
        )
        return canonical_schedule(schedule, self.inventory)

    def encode(self, schedule: Schedule) -> SolverPoint | None:
        """The point with the formulas of a canonical schedule and the nearest grid; None where no point has them.

        The grid is fitted by least squares on the logarithms of the gaps, then brought into `BOUNDS`.
        """
        low, high = self.step_range
        steps = [row for row in schedule.solver or () if isinstance(row, SolverStep)]
        form = next((k for k, v in self.forms.items() if steps and v == (steps[0].view, steps[0].domain)), None)
        if not low <= schedule.n_steps <= high or form is None or schedule.time is None:
            return None
        slope = next((step.slope for step in steps if step.order > 1 or step.corrector), 1.0)
        point = SolverPoint(
            n_steps=schedule.n_steps,
            form=form,
            order=max(step.order for step in steps),
            relaxation=next((step.relaxation for step in steps if step.relaxation != "taylor"), "taylor"),
            corrector=steps[0].corrector,
            analytic_start=schedule.start is not None,
            slope=slope,
            tail_slope=slope,
            **self._fitted_grid(schedule),
        )
        try:
            decoded = self.decode(point)
        except ScheduleError:
            return None
        known = dataclasses.replace(schedule, time=decoded.time)
        inside = BOUNDS["slope"][0] <= slope <= BOUNDS["slope"][1] and point.order <= MAX_ORDER
        return point if inside and known == decoded else None

    def grid_error(self, point: SolverPoint, schedule: Schedule) -> float:
        """Largest distance in lambda between the timesteps of both, over the schedule's mean gap; of equal lengths."""
        lam = self._lam(schedule)
        other = self._lam(self.decode(point))
        return float(np.abs(lam - other).max() / max((lam[-1] - lam[0]) / max(len(lam) - 1, 1), 1e-12))

    def _row(self, point: SolverPoint, i: int) -> SolverStep:
        n = point.n_steps
        view, domain = self.forms[point.form]
        left = n - i if domain == "lambda" else n
        return SolverStep(
            view=view,
            domain=domain,
            order=min(point.order, i + 1, left),
            relaxation=point.relaxation,
            corrector=point.corrector,
            slope=point.slope + (point.tail_slope - point.slope) * i / max(n - 1, 1),
        )

    def _levels(self, point: SolverPoint) -> tuple[float, ...]:
        """Timesteps from the starting noise to the last call."""
        noise = self.condition.noise_schedule
        start, _, lam_start, lam_clean = grid_ends(noise, point.n_steps, self.condition.start_timestep, None)
        n_gaps = point.n_steps - 1 + point.analytic_start
        shape = np.array([point.first_gap, point.tilt, point.bend, point.last_gap])
        gaps = np.exp(_shape_matrix(n_gaps) @ shape)
        way = np.append(0.0, np.cumsum(gaps / gaps.sum()))
        lam = lam_start + point.end * (lam_clean - lam_start) * way
        return pinned_times(noise, lam, start, float(noise.t_from_lam(lam[-1])))

    def _fitted_grid(self, schedule: Schedule) -> dict[str, float]:
        _, _, lam_start, lam_clean = grid_ends(
            self.condition.noise_schedule, schedule.n_steps, self.condition.start_timestep, None
        )
        lam = self._lam(schedule)
        gaps = np.diff(lam)
        design = np.column_stack([_shape_matrix(len(gaps)), np.ones(len(gaps))])
        shape = np.linalg.lstsq(design, np.log(np.maximum(gaps, 1e-12)), rcond=None)[0]
        values = dict(zip(("first_gap", "tilt", "bend", "last_gap"), shape.tolist(), strict=False))
        values["end"] = (lam[-1] - lam_start) / (lam_clean - lam_start)
        return {name: float(np.clip(value, *BOUNDS[name])) for name, value in values.items()}

    def _lam(self, schedule: Schedule) -> Array:
        """Lambdas from the starting noise to the last call; the starting noise of a flow as `grid_ends` has it."""
        time, _ = schedule.solver_columns
        levels = time if schedule.start is None else (schedule.start, *time)
        noise = self.condition.noise_schedule
        top = noise.t_max - 1.0 if isinstance(noise, Flow) else noise.t_max
        return noise.lam(np.minimum(levels, top))


def _shape_matrix(n_gaps: int) -> Array:
    """What `first_gap`, `tilt`, `bend` and `last_gap` add to the logarithms of the gaps; shape (n_gaps, 4)."""
    u = np.linspace(-1.0, 1.0, n_gaps) if n_gaps > 1 else np.zeros(n_gaps)
    first, last = np.zeros((2, n_gaps))
    first[:1] = last[n_gaps - 1 :] = 1.0
    return np.column_stack([first, u, u**2, last])
