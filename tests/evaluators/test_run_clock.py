"""The row of a network call, as told by diffusers' own schedulers."""

import copy
import inspect
from typing import Any

import diffusers
import pytest
import torch

from autotune.evaluators.override import Overrides
from autotune.evaluators.run_clock import RunClock
from autotune.spaces.errors import ScheduleMismatchError

SAMPLE = torch.zeros(1, 4, 2, 2)


def make(name: str, **config: Any) -> Any:
    return getattr(diffusers, name)(**config)


class Watched:
    """A scheduler under a clock, with what the clock reported."""

    def __init__(self, scheduler: Any, n_steps: int, n_rows: int | None) -> None:
        self.scheduler, self.events, self.overrides = scheduler, list[str](), Overrides()
        self.clock = RunClock(
            n_steps=n_steps, n_rows=n_rows, on_begin=lambda: self.events.append("begin"),
            on_end=lambda: self.events.append("end"),
        )  # fmt: skip
        self.clock.install(scheduler, self.overrides)

    def run(self, n_steps: int, *, calls: int = 1, start: int = 0) -> list[tuple[int, int] | None]:
        positions = []
        self.scheduler.set_timesteps(n_steps)
        if start and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(start)
        for t in self.scheduler.timesteps[start:]:
            positions += [self.clock.enter_call() for _ in range(calls)]
            self.scheduler.step(SAMPLE, t, SAMPLE)
        return positions


@pytest.mark.parametrize(
    ("name", "n_rows"),
    [
        ("DDIMScheduler", 4), ("DPMSolverMultistepScheduler", 4), ("EulerDiscreteScheduler", 4),
        ("FlowMatchEulerDiscreteScheduler", 4), ("UniPCMultistepScheduler", 4), ("HeunDiscreteScheduler", 7),
    ],
)  # fmt: skip
def test_rows_count_up_once_per_scheduler_step(name: str, n_rows: int) -> None:
    watched = Watched(make(name), 4, n_rows)
    for _ in range(2):
        assert watched.run(4) == [(row, 0) for row in range(n_rows)]
        assert watched.clock.enter_call() is None


def test_extra_call_of_pndm_has_its_own_row() -> None:
    watched = Watched(make("PNDMScheduler", skip_prk_steps=True), 4, 5)
    assert watched.run(4) == [(row, 0) for row in range(5)]


def test_calls_within_a_row_are_numbered() -> None:
    assert Watched(make("DDIMScheduler"), 2, 2).run(2, calls=2) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_run_begins_afresh_after_an_interrupted_one() -> None:
    watched = Watched(make("DDIMScheduler"), 3, 3)
    watched.scheduler.set_timesteps(3)
    watched.clock.enter_call()
    watched.scheduler.step(SAMPLE, watched.scheduler.timesteps[0], SAMPLE)
    assert watched.run(3) == [(0, 0), (1, 0), (2, 0)]
    assert watched.events == ["end", "begin", "end", "begin", "end"]


def test_late_start_begins_at_its_row() -> None:
    assert Watched(make("EulerDiscreteScheduler"), 4, 4).run(4, start=2) == [(2, 0), (3, 0)]


def test_late_start_that_the_scheduler_hides_is_refused() -> None:
    with pytest.raises(ScheduleMismatchError, match="a run must begin at the timestep of its first row"):
        Watched(make("DDIMScheduler"), 4, 4).run(4, start=2)


@pytest.mark.parametrize(("asked", "n_rows"), [(5, 4), (3, 4), (5, None)])
def test_another_step_count_is_refused_with_the_one_to_pass(asked: int, n_rows: int | None) -> None:
    watched = Watched(make("DDIMScheduler"), 4, n_rows)
    with pytest.raises(ScheduleMismatchError, match="num_inference_steps=4"):
        watched.scheduler.set_timesteps(asked)
    assert watched.clock.enter_call() is None


def test_schedule_without_rows_is_held_to_its_steps_not_to_network_calls() -> None:
    assert len(Watched(make("PNDMScheduler", skip_prk_steps=True), 4, None).run(4)) == 5


def test_watched_methods_keep_the_signatures_that_pipelines_inspect() -> None:
    plain = make("DDIMScheduler")
    signatures = inspect.signature(plain.set_timesteps), inspect.signature(plain.step)
    scheduler = Watched(plain, 4, 4).scheduler
    assert (inspect.signature(scheduler.set_timesteps), inspect.signature(scheduler.step)) == signatures


def test_deep_copy_of_a_watched_scheduler_is_free_of_the_clock() -> None:
    watched = Watched(make("DDIMScheduler"), 4, 4)
    watched.scheduler.set_timesteps(4)
    copied = copy.deepcopy(watched.scheduler)
    copied.set_timesteps(9)
    assert (len(copied.timesteps), len(watched.scheduler.timesteps)) == (9, 4)
    copied.step(SAMPLE, copied.timesteps[0], SAMPLE)
    assert watched.clock.enter_call() == (0, 0)


def test_undo_leaves_the_scheduler_as_it_was() -> None:
    scheduler = make("DDIMScheduler")
    keys = sorted(vars(scheduler))
    watched = Watched(scheduler, 4, 4)
    watched.overrides.undo()
    assert sorted(vars(scheduler)) == keys
    scheduler.set_timesteps(7)
