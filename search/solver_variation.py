"""Variation of solver schedules: the mutations and crossovers of S3 on the columns `time` and `solver`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.noise_schedule import Flow, NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import FACTOR_LIMIT, Domain, Relaxation, SolverStep, View, factors_of

Rng = np.random.Generator
Array = NDArray[np.float64]

ORDERS = (1, 2, 3, 4)
ORDER_WEIGHTS = (0.2, 0.4, 0.3, 0.1)
"""How often a redrawn step gets each order (released search of Liu et al. 2024)."""

RELAXATIONS: tuple[Relaxation, ...] = ("taylor", "b1", "b2")

SCALES = (0.01, 0.5)
"""Range of the mutations' size: a share of the neighbouring gaps in lambda, or an addend to a factor."""

REDRAW = 0.4
"""Chance that an offspring redraws a discrete choice; factors and times move in every one."""

MOVE_STEP = 0.05
"""Chance that an offspring gains a step and loses another."""

MAX_FACTOR = 4.0

MOVES = {"state_gain": 0.03, "output_gain": 0.03, "guidance_gain": 0.1}
"""How far a gain moves where slope and curvature move by 1: the first two act on the whole state."""

MIN_BETA = 0.2

MIN_GAP = 0.5
"""Timesteps stay at least so far apart."""


class SolverVariation:
    """Draws offspring of schedules that have the columns `time` and `solver`.

    Times move in lambda between their neighbours. The first one is pinned to the starting noise, unless an analytic
    first step leads down to it. Of runs that are `guided` the factors on the guidance vary, too.
    """

    def __init__(self, noise: NoiseSchedule, start: float, *, guided: bool = False) -> None:
        self._noise = noise
        self._factors = factors_of(guided=guided)
        self._start = start
        self._low = 1.0 if float(noise.sigma(0.0)) == 0.0 else 0.0
        views: list[tuple[View, Domain]] = [("data", "lambda"), ("noise", "lambda")]
        self.views = (*views, ("velocity", "sigma") if isinstance(noise, Flow) else ("noise", "sigma"))

    def mutate(self, schedule: Schedule, rng: Rng) -> Schedule:
        """Move times and factors by one scale drawn for this offspring, and now and then a step; redraw a choice."""
        if schedule.n_steps > 1 and rng.random() < MOVE_STEP:
            schedule = self.moved_step(schedule, rng)
        scale = float(np.exp(rng.uniform(*np.log(SCALES))))
        before, steps = schedule.solver_columns
        share = float(rng.choice((1.0, 0.5, 2.0 / len(steps))))
        redrawn = int(rng.integers(len(steps))) if rng.random() < REDRAW else -1
        solver = tuple(
            self._walked(self._redrawn(step, rng) if i == redrawn else step, scale, share, rng)
            for i, step in enumerate(steps)
        )
        return replace(schedule, time=self._moved(schedule, before, scale, share, rng), solver=_grounded(solver))

    def cross(self, first: Schedule, second: Schedule, rng: Rng) -> Schedule:
        """A child of two schedules of one length: each step's formula from either parent.

        Times come from one parent, with its start, or lie between both, or a bit beyond.
        """
        (time, steps), (other_time, other_steps) = first.solver_columns, second.solver_columns
        start = first.start
        if first.start == second.start and rng.random() < 0.5:
            share = rng.uniform(-0.25, 1.25)
            time = self._times((1 - share) * self._lam(time) + share * self._lam(other_time), first)
        elif rng.random() < 0.5:
            time, start = other_time, second.start
        solver = tuple(a if rng.random() < 0.5 else b for a, b in zip(steps, other_steps, strict=True))
        return replace(first, time=time, start=start, solver=solver)

    def enriched(self, schedule: Schedule) -> Schedule:
        """The schedule with all terms up to F'' in each row, at first with factor 0: more for a fit to move.

        The last row, where lambda has but one term, moves to sigma. Predictors stay as they are, correctors do not.
        """
        _, steps = schedule.solver_columns
        view, domain = self.views[-1]
        rows: list[SolverRow] = []
        for i, step in enumerate(steps):
            row = step
            if isinstance(row, SolverStep) and i == len(steps) - 1 and row.domain == "lambda" and not row.origin:
                gains = self._gains_in_sigma(row, schedule.solver_columns[0][-1])
                if gains is not None:
                    row = SolverStep(view=view, domain=domain, order=1, state_gain=gains[0], output_gain=gains[1])
            if isinstance(row, SolverStep) and row.order < 3:
                slope = row.slope if row.order == 2 else 0.0
                row = replace(row, order=3, slope_points=row.slope_points or 1, slope=slope, curvature=0.0)
            rows.append(row)
        return replace(schedule, solver=tuple(rows))

    def _gains_in_sigma(self, row: SolverStep, time: float) -> tuple[float, float] | None:
        """Factors on state and output with which the last step in sigma is that of a row in lambda, from this time.

        None where they are too large: close to pure noise.
        """
        if row.view == "data":
            return row.output_gain, row.output_gain
        if not isinstance(self._noise, Flow):  # the same view, which ends in the data prediction too
            return row.state_gain, row.output_gain
        sigma = time / self._noise.t_max  # the noise is the state plus (1 - sigma) times the velocity
        if sigma >= 1.0:
            return None
        state_gain = (row.state_gain - sigma * row.output_gain) / (1.0 - sigma)
        return (state_gain, row.output_gain) if abs(state_gain) <= FACTOR_LIMIT else None

    def toggle_start(self, schedule: Schedule, rng: Rng) -> Schedule:
        """The schedule with an analytic first step where it has none, and without where it has one.

        A mean-reverting process has no such step: there the schedule stays as it is.
        """
        if isinstance(self._noise, MeanReverting):
            return schedule
        time, _ = schedule.solver_columns
        if schedule.start is not None:
            return replace(schedule, start=None, time=(self._start, *time[1:]))
        lam = self._lam(time)
        first = float(lam[0] + rng.uniform(0.1, 0.7) * (lam[1] - lam[0])) if len(lam) > 1 else float(lam[0] + 0.5)
        moved = max(float(self._noise.t_from_lam(first)), time[1] + MIN_GAP if len(time) > 1 else self._low)
        return replace(schedule, start=self._start, time=self._apart((moved, *time[1:]), self._start))

    def lengthened(self, schedule: Schedule, rng: Rng) -> Schedule:
        """The schedule with one step more, in the middle of a random gap, with its neighbour's formula."""
        return self._with_step_after(schedule, int(rng.integers(schedule.n_steps)))

    def shortened(self, schedule: Schedule, rng: Rng) -> Schedule:
        """The schedule without one of its steps, never the first; one of a single step stays as it is."""
        if schedule.n_steps == 1:
            return schedule
        return _without(schedule, int(rng.integers(1, schedule.n_steps)))

    def moved_step(self, schedule: Schedule, rng: Rng) -> Schedule:
        """The schedule with a step inserted and another one, never the first, left out; of two steps or more."""
        i = int(rng.integers(schedule.n_steps))
        longer = self._with_step_after(schedule, i)
        return _without(longer, int(rng.choice([j for j in range(1, longer.n_steps) if j != i + 1])))

    def _with_step_after(self, schedule: Schedule, i: int) -> Schedule:
        time, solver = schedule.solver_columns
        lam = np.append(self._lam(time), self._lam_low)
        lam = np.insert(lam, i + 1, 0.5 * (lam[i] + lam[i + 1]))[:-1]
        return replace(
            schedule,
            n_steps=schedule.n_steps + 1,
            time=self._times(lam, schedule),
            solver=(*solver[: i + 1], *solver[i:]),
        )

    def _moved(
        self, schedule: Schedule, time: tuple[float, ...], scale: float, share: float, rng: Rng
    ) -> tuple[float, ...]:
        lam = self._lam(time)
        gaps = np.diff(np.append(lam, self._lam_low + 1e-6))
        room = np.minimum(np.append(gaps[:1], gaps[:-1]), np.maximum(gaps, 0.05))
        moves = scale * room * rng.standard_normal(len(lam)) * (rng.random(len(lam)) < share)
        return self._times(lam + moves, schedule)

    def _times(self, lam: Array, schedule: Schedule) -> tuple[float, ...]:
        """Timesteps of lambdas in order and apart, the first one pinned where it must be."""
        times = np.sort(self._noise.t_from_lam(lam))[::-1]
        return self._apart(times.tolist(), schedule.start)

    def _apart(self, times: Sequence[float], start: float | None) -> tuple[float, ...]:
        """Falling timesteps moved apart by at least MIN_GAP, below the start and above the cleanest level."""
        kept: list[float] = []
        for t in times:
            highest = kept[-1] - MIN_GAP if kept else self._start - (0.0 if start is None else MIN_GAP)
            kept.append(min(t, highest))
        if start is None:
            kept[0] = self._start
        return tuple(max(t, self._low + MIN_GAP * (len(kept) - 1 - i)) for i, t in enumerate(kept))

    def _walked(self, step: SolverRow, scale: float, share: float, rng: Rng) -> SolverRow:
        """The factors, or the momentum, after a step of a random walk."""
        n = len(self._factors)
        moves = 2.0 * scale * rng.standard_normal(n) * (rng.random(n) < share)
        if isinstance(step, MomentumStep):
            return replace(step, beta=float(np.clip(step.beta + 0.5 * moves[0], MIN_BETA, 1.0)))
        if not isinstance(step, SolverStep):
            return step
        moves *= [MOVES.get(name, 1.0) for name in self._factors]
        factors = np.array([getattr(step, name) for name in self._factors])
        walked = np.clip(factors + moves, -MAX_FACTOR, MAX_FACTOR).tolist()
        return replace(step, **dict(zip(self._factors, walked, strict=True)))

    def _redrawn(self, step: SolverRow, rng: Rng) -> SolverRow:
        """One discrete choice of a step drawn anew; another kind of row becomes a step."""
        choice = int(rng.integers(7))
        if not isinstance(step, SolverStep):
            view, domain = self.views[-1]
            return SolverStep(view=view, domain=domain, order=step.order)
        if choice == 0:
            order = int(rng.choice(ORDERS, p=ORDER_WEIGHTS))
            return replace(step, order=order, slope_points=order - 1)
        if choice == 1:
            view, domain = self.views[int(rng.integers(len(self.views)))]
            return replace(step, view=view, domain=domain)
        if choice == 2 and step.order > 1:
            return replace(step, slope_points=int(rng.integers(1, 3)))
        if choice == 3:
            return replace(step, corrector=not step.corrector)
        if choice == 4:
            return replace(step, relaxation=RELAXATIONS[int(rng.integers(len(RELAXATIONS)))])
        # The next derivative comes in, or the last one goes, with a factor near 0: the formula changes little.
        if step.order == 1:
            return replace(step, order=2, slope_points=1, slope=0.0)
        if step.order == 2:
            return replace(step, order=3, curvature=0.0)
        return replace(step, order=2, slope_points=min(step.slope_points or 1, 2))

    def _lam(self, time: tuple[float, ...]) -> Array:
        """Lambdas of timesteps; a flow's pure noise lies one training step below the top, else it were infinite."""
        top = self._noise.t_max - 1.0 if isinstance(self._noise, Flow) else self._noise.t_max
        return self._noise.lam(np.minimum(time, top))

    @property
    def _lam_low(self) -> float:
        return float(self._noise.lam(self._low))


def _without(schedule: Schedule, i: int) -> Schedule:
    """The schedule without its step i."""
    time, solver = schedule.solver_columns
    return replace(
        schedule,
        n_steps=schedule.n_steps - 1,
        time=(*time[:i], *time[i + 1 :]),
        solver=_grounded((*solver[:i], *solver[i + 1 :])),
    )


def _grounded(solver: Sequence[SolverRow]) -> tuple[SolverRow, ...]:
    """Rows that start at a call that there is, and a last one in lambda at its own, as a schedule must have."""

    def origin(i: int, row: SolverStep) -> int:
        return 0 if i == len(solver) - 1 and row.domain == "lambda" else min(row.origin, i)

    return tuple(
        replace(row, origin=origin(i, row)) if isinstance(row, SolverStep) and row.origin else row
        for i, row in enumerate(solver)
    )
