"""A study in a process of its own: the real loop and database, an evaluator by formula that may be given trouble.

    python study_process.py STORAGE TROUBLE WORKERS EVALUATIONS

Zero workers run in the process itself, others through Ray. Trouble comes to schedules of seven steps.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from autotune.evaluators.pool import InProcessPool, WorkerPool
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget, Spent
from autotune.search.clock import SystemClock
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.errors import AutotuneError
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.storage.database import Database

SCORE_S = float(os.environ.get("SCORE_S", "0.02"))
TROUBLED_STEPS = 7
LEAK_BYTES = 50_000_000


class TroubledEvaluator(TabulatedEvaluator):
    """Takes some time for each score, and brings trouble, in some cases only once: then a file in `folder` says so."""

    def __init__(self, trouble: str, folder: Path) -> None:
        super().__init__()
        self._trouble, self._folder = trouble, folder

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """The formula's measurement, unless there is trouble."""
        time.sleep(SCORE_S)
        made = super().score(schedule, fidelity, repeats=repeats)
        if schedule.n_steps != TROUBLED_STEPS:
            return made
        if self._trouble == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._trouble == "gives NaN" and isinstance(made, Measurement):
            made.quality["deviation"] = (float("nan"),) * len(fidelity.prompts)  # type: ignore[index]
        if self._trouble.endswith("once") and self._is_first():
            if self._trouble == "falls silent once":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self._trouble == "hangs once":
                time.sleep(3600.0)
            kept = []
            while self._trouble == "leaks once":
                kept.append(b"x" * LEAK_BYTES)
                time.sleep(0.02)
        return made

    def contact_sheet(self, schedule: Schedule, fidelity: Fidelity, indices: Sequence[int]) -> bytes:
        """A large one, where the disk is to be filled."""
        sheet = super().contact_sheet(schedule, fidelity, indices)
        return sheet + bytes(600_000 if self._trouble == "draws large sheets" else 0)

    def _is_first(self) -> bool:
        try:
            (self._folder / "trouble").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def make_plan(evaluations: int) -> StudyPlan:
    """The plan of the study "s"."""
    return StudyPlan(
        name="s",
        family="ecad",
        calibration=Fidelity(name="calibration", prompts=tuple("abcdefgh"), seeds=tuple(range(8))),
        held_out=Fidelity(name="held_out", prompts=("x", "y", "z"), seeds=(100, 101, 102)),
        budget=Budget(evaluations=evaluations),
        objectives=("macs", "deviation"),
    )


def make_pool(trouble: str, folder: Path, workers: int) -> WorkerPool:
    """The pool that the arguments ask for."""
    make = partial(TroubledEvaluator, trouble, folder)
    if workers == 0:
        return InProcessPool(make(), make_spare=make)
    from autotune.evaluators.ray_pool import RayPool

    return RayPool(make, workers, silence_s=8.0, hang_s=12.0)


def set_clock_back(database: Database) -> None:
    """Let the time of day jump back by an hour, again and again, for all that asks Python for it."""
    import datetime as module

    class Datetime(module.datetime):
        """Goes back."""

        n_asked = 0

        @classmethod
        def now(cls, tz: module.tzinfo | None = None) -> "Datetime":
            cls.n_asked += 1
            return super().now(tz) - module.timedelta(hours=cls.n_asked // 10)

    now = time.time
    time.time = lambda: now() - 3600.0 * (Datetime.n_asked // 10)
    for name, imported in list(sys.modules.items()):
        if name.startswith("autotune.") and getattr(imported, "datetime", None) is module.datetime:
            imported.datetime = Datetime  # type: ignore[attr-defined]


def main() -> int:
    """Run the study, or go on with it."""
    storage, trouble, workers, evaluations = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    plan = make_plan(evaluations)
    with Database.open(storage) as database:
        if trouble == "clock goes back":
            set_clock_back(database)
        pool = make_pool(trouble, database.location.artifacts.parent, workers)
        try:
            if not database.list_studies():
                database.create_study(
                    "s",
                    settings={"objectives": list(plan.objectives)},
                    provenance={},
                    condition=pool.condition,
                    inventory=pool.inventory,
                )
            used = Spent(wall_s=database.list_studies()[0].wall_s)
            print("ready", flush=True)
            StudyLoop(plan, pool, database, SystemClock(), used=used).run()
        except AutotuneError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        finally:
            pool.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
