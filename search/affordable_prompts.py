"""How many of a preset's prompts a budget of time affords."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil, inf

from autotune.evaluators.job import DefaultTimeJob
from autotune.evaluators.pool import WorkerPool
from autotune.search.budget import Budget, Spent
from autotune.search.dispatcher import Dispatcher
from autotune.search.progress import Progress
from autotune.search.settings import Settings
from autotune.spaces.reference_schedule import REFERENCE_STEPS
from autotune.storage.database import Database

SHARE = 0.5
"""Share of the time left that the default run and its reference may take, on all prompts, to search with or held out.

The timings that candidates are held against are in it. The rest is for what a study is about.
"""

TIMED_BATCHES = 4
"""Batches of default runs that timings take while the search begins: those of the baseline, and of a first rung."""

MIN_PROMPTS = 4
"""So many are left of either kind, whatever they take."""


def with_affordable_prompts(
    settings: Settings,
    pool: WorkerPool,
    database: Database,
    now: Callable[[], float],
    progress: Progress | None = None,
) -> Settings:
    """The settings, with the prompts halved until the default runs and their references fit into `SHARE` of the time.

    `now` tells the seconds that the study has taken. What the default run takes is measured first, in batches of
    `MIN_PROMPTS` images. Settings whose budget is no time, or affords all prompts, come back as they are.
    """
    budget = Budget(**settings.budget)  # type: ignore[arg-type]

    def left_s() -> float:
        spent = Spent(wall_s=now(), worker_s=now() * pool.n_workers)
        return budget.left_s(spent, pool.n_workers)

    if left_s() == inf:
        return settings
    job = DefaultTimeJob(fidelity=settings.plan("prompts").calibration.first(MIN_PROMPTS))
    default_ms = Dispatcher(pool, database).call(job)
    assert isinstance(default_ms, float)
    n_runs = 1.0 + (REFERENCE_STEPS / pool.condition.n_steps if pool.converges else 1.0)
    affordable = SHARE * left_s() / (default_ms / 1000.0)
    timed = TIMED_BATCHES, 2 * settings.plan("timings").verification.repeats
    share, sides = 1.0, (settings.calibration, settings.held_out)
    while max(len(side) for side in sides) > MIN_PROMPTS:
        sizes = [len(side) for side in sides]
        images = sum(n_runs * n + k * min(pool.condition.batch_size, n) for n, k in zip(sizes, timed, strict=True))
        if images <= affordable:
            break
        share /= 2.0
        sides = _first(settings.calibration, share), _first(settings.held_out, share)
    if share == 1.0:
        return settings
    calibration, held_out = sides
    if progress is not None:
        progress.on_fewer_prompts(len(calibration), len(held_out))
    return replace(settings, calibration=calibration, held_out=held_out)


def _first(prompts: tuple[str, ...], share: float) -> tuple[str, ...]:
    return prompts[: max(MIN_PROMPTS, ceil(share * len(prompts)))]
