"""How many evaluations per second real Ray actors can be kept busy with, by one driver on this machine.

The evaluators do nothing: what is left is the pool, Ray, and, in the second figure, the study loop with SQLite. The
numbers say from which evaluation time on the driver is what a cluster waits for. Prints a table and takes `--quick`
(fewer evaluations), `--seed`, `--json FILE`; `--device` has no effect.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.job import ScoreJob
from autotune.evaluators.ray_pool import RayPool
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SystemClock
from autotune.search.ladder import LadderSettings
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.storage.database import Database

N_ACTORS = (2, 8, 32)
N_REPEATS = 5
CALIBRATION = Fidelity(name="calibration", prompts=("a", "b"), seeds=(0, 1))
HELD_OUT = Fidelity(name="held_out", prompts=("c",), seeds=(2,))


class NullEvaluator(TabulatedEvaluator):
    """Gives every schedule the same measurement, at once."""

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """The measurement."""
        return Measurement(
            quality={"deviation": (0.1,) * len(fidelity.prompts)},
            latency_ms=(1.0,),
            baseline_latency_ms=(2.0,),
            macs=1,
            baseline_macs=2,
            network_calls=schedule.n_steps,
            peak_memory_bytes=0,
            wall_s=0.0,
        )


def main() -> None:
    arguments = parse_arguments(__doc__)
    bench = Benchmark("ray_throughput", arguments)
    n_jobs = 200 if arguments.quick else 1000
    for n_actors in N_ACTORS:
        _measure(bench, n_actors, n_jobs)
    bench.finish()


def _measure(bench: Benchmark, n_actors: int, n_jobs: int) -> None:
    began = time.perf_counter()
    pool = RayPool(NullEvaluator, n_actors)
    try:
        _keep_busy(pool, n_jobs)  # until every actor has started
        while pool.n_free < n_actors:
            pool.wait(60.0)
        bench.row("seconds until all actors work", time.perf_counter() - began, actors=n_actors)
        rates = [n_jobs / _keep_busy(pool, n_jobs) for _ in range(N_REPEATS)]
        bench.row("jobs per second, pool alone", statistics.median(rates), spread(rates), actors=n_actors)
        rates = [_study_rate(pool, n_jobs, bench.arguments.seed + i) for i in range(N_REPEATS)]
        bench.row("evaluations per second, study and SQLite", statistics.median(rates), spread(rates), actors=n_actors)
    finally:
        pool.close()


def _keep_busy(pool: RayPool, n_jobs: int) -> float:
    """Seconds for so many jobs, with all workers busy."""
    began, n_done, n_begun = time.perf_counter(), 0, 0
    while n_done < n_jobs:
        while n_begun < n_jobs and pool.n_free:
            pool.submit(ScoreJob(schedule=Schedule(n_steps=1 + n_begun % 50), fidelity=CALIBRATION))
            n_begun += 1
        n_done += len(pool.wait())
    return time.perf_counter() - began


def _study_rate(pool: RayPool, n_evaluations: int, seed: int) -> float:
    """Evaluations per second of a study of random cache masks."""
    objectives: Sequence[str] = ("macs", "deviation")
    plan = StudyPlan(
        name="rate",
        family="random",
        calibration=CALIBRATION,
        held_out=HELD_OUT,
        budget=Budget(evaluations=n_evaluations),
        objectives=tuple(objectives),
        ladder=LadderSettings(first=len(CALIBRATION.prompts)),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder, Database.open(str(Path(folder) / "rate.db")) as database:
        database.create_study(
            plan.name,
            settings={"objectives": list(objectives)},
            provenance={},
            condition=pool.condition,
            inventory=pool.inventory,
        )
        began = time.perf_counter()
        StudyLoop(plan, pool, database, SystemClock()).run()
        return n_evaluations / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
