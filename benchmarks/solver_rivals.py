"""The solvers and time grids that a searched schedule has to beat, and their choice per cell."""

from collections.abc import Callable, Iterator

import numpy as np

from autotune.evaluators.worker import Worker
from autotune.search.dmn_grid import dmn
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import karras, uniform_lambda
from autotune.spaces.trace import Trace
from autotune.spaces.traced_grid import ays, gits

SOLVERS = (
    "euler", "dpmpp-2m", "dpmpp-3m", "dpmpp-3m-upstream", "unipc-2", "unipc-3", "ab2", "ab3", "deis-2", "deis-3",
)  # fmt: skip
GRIDS = ("default", "karras", "uniform lambda", "halfway", "ays", "gits", "dmn")
N_SCREENED = 8
"""Prompts that all cells of the grid are screened on; the best `N_FINALISTS` go on to all calibration prompts."""
N_FINALISTS = 8

Score = Callable[[Schedule, Fidelity], Measurement | None]


class Rivals:
    """Known solvers on known grids, under one condition."""

    def __init__(self, worker: Worker, calibration: Fidelity) -> None:
        self._worker, self._calibration = worker, calibration
        self._condition: Condition = worker.condition
        self._trace: Trace = worker.trace(calibration, 4, 100)

    def schedule(self, solver: str, grid: str, n: int) -> Schedule | None:
        """The combination at n calls, canonical; None where there is none."""
        noise = self._condition.noise_schedule
        try:
            made = Schedule(n_steps=n, time=self.grid(grid, n), solver=make_solver(solver, n, noise))
            return canonical_schedule(made, self._worker.inventory)
        except ScheduleError:
            return None

    def grid(self, name: str, n: int) -> tuple[float, ...]:
        """A time grid that begins at the condition's starting noise."""
        condition = self._condition
        noise, start, prediction = condition.noise_schedule, condition.start_timestep, condition.prediction
        own = self._worker.own_timesteps(n)
        own = (start, *own[1:]) if len(own) == n else tuple(start * (1.0 - i / n) for i in range(n))
        # Grids that would end at the cleanest timestep lose to ones that end where the default does, or a bit below.
        low = 0.25 * own[-1]
        if name == "karras":
            return karras(noise, n, t_start=start, t_end=low)
        if name == "uniform lambda":
            return uniform_lambda(noise, n, t_start=start, t_end=low)
        if name == "halfway":
            return tuple(0.5 * (a + b) for a, b in zip(own, self.grid("uniform lambda", n), strict=True))
        if name == "ays":
            return ays(self._trace, noise, prediction, n, t_end=own[-1])
        if name == "gits":
            return gits(self._trace, noise, prediction, n, discount=0.9)
        if name == "dmn":
            return dmn(noise, n, t_start=start, t_end=low if n >= 8 else None)
        return own

    def n_images(self, n: int) -> int:
        """What `best` takes at n calls, in images."""
        n_combinations = sum(1 for _ in self._combinations(n))
        n_prompts = len(self._calibration.prompts)
        return n_combinations * min(N_SCREENED, n_prompts) + min(N_FINALISTS, n_combinations) * n_prompts

    def best(self, n: int, score: Score) -> tuple[str, Schedule, list[Schedule]]:
        """Name and schedule of the best combination on the calibration prompts, and all finalists."""
        screening = self._calibration.first(min(N_SCREENED, len(self._calibration.prompts)))
        screened = sorted(self._scored(n, screening, score), key=lambda row: row[0])[:N_FINALISTS]
        finals = []
        for _, name, schedule in screened:
            measurement = score(schedule, self._calibration)
            if measurement is not None:
                finals.append((measurement.mean("deviation"), name, schedule))
        finals.sort(key=lambda row: row[0])
        return finals[0][1], finals[0][2], [schedule for _, _, schedule in finals]

    def _scored(self, n: int, fidelity: Fidelity, score: Score) -> Iterator[tuple[float, str, Schedule]]:
        for name, schedule in self._combinations(n):
            measurement = score(schedule, fidelity)
            if measurement is not None and np.isfinite(measurement.mean("deviation")):
                yield measurement.mean("deviation"), name, schedule

    def _combinations(self, n: int) -> Iterator[tuple[str, Schedule]]:
        seen = set()
        for grid in GRIDS:
            for solver in SOLVERS:
                schedule = self.schedule(solver, grid, n)
                if schedule is not None and schedule not in seen:
                    seen.add(schedule)
                    yield f"{solver}, {grid}", schedule
