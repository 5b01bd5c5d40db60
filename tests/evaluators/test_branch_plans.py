"""Caches of the two guidance branches, each by a plan of its own."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import _attach, attach, remove
from autotune.evaluators.attachment import Attachment
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow
from autotune.spaces.schedule import Schedule, canonical_schedule

from .mini_pipelines import random_plan, run, state
from .naive_cache import Naive
from .random_pipelines import random_args

N_STEPS = 7
BATCHED = ("mini-pixart", "mini-sd", "sd3", "sdxl")
SEQUENTIAL = ("mini-flux", "qwen-image", "wan")
Case = tuple[str, Any, dict[str, Any]]


@pytest.fixture(params=[*BATCHED, *SEQUENTIAL])
def guided(
    request: pytest.FixtureRequest,
    random_pipes: dict[str, Any],
    flux_pipe: Any,
    pixart_pipe: Any,
    sd_pipe: Any,
    small_args: Any,
) -> Iterator[Case]:
    name = request.param
    minis = {"mini-flux": flux_pipe, "mini-pixart": pixart_pipe, "mini-sd": sd_pipe}
    pipe = minis.get(name) or random_pipes[name]
    kwargs = small_args(name, steps=N_STEPS) if name in minis else random_args(name, steps=N_STEPS)
    if name == "mini-flux":
        kwargs |= {"negative_prompt": "a dog", "true_cfg_scale": 2.5}
    yield name, pipe, kwargs
    remove(pipe)


def plans_of(case: Case, seed: int, *, forecasts: bool = True) -> tuple[CachePlan, CachePlan]:
    _, pipe, kwargs = case
    return (
        random_plan(pipe, kwargs, seed, forecasts=forecasts),
        random_plan(pipe, kwargs, seed + 100, forecasts=forecasts),
    )


def drawn(case: Case, schedule: Schedule) -> tuple[torch.Tensor, Attachment]:
    _, pipe, kwargs = case
    attachment = _attach(pipe, schedule)
    result = run(pipe, kwargs)
    remove(pipe)
    assert attachment.cache is not None
    assert attachment.cache.missed == 0
    assert attachment.cache.stored_bytes == 0
    return result, attachment


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def reference(case: Case, plans: tuple[CachePlan, CachePlan], column: tuple[GuidanceRow, ...] = ()) -> torch.Tensor:
    """The plans executed on copies, with nothing skipped."""
    name, pipe, kwargs = case
    rows = plans[0].n_calls
    dropped = tuple(row is not GuidanceAction.BOTH for row in column) or (False,) * rows
    batched = name in BATCHED
    with Naive(pipe, plans[0], dropped if batched else (), 1 if batched else 2, plans[1]):
        if column:
            _attach(pipe, Schedule(n_steps=N_STEPS, guidance=column))
        result = run(pipe, kwargs)
        remove(pipe)
    return result


@pytest.mark.parametrize("forecasts", [False, True])
def test_each_branch_follows_its_own_plan(guided: Case, forecasts: bool) -> None:
    plans = plans_of(guided, 3, forecasts=forecasts)
    expected = reference(guided, plans)
    schedule = Schedule(n_steps=N_STEPS, cache=plans[0], unconditional_cache=plans[1])
    result, _ = drawn(guided, schedule)
    assert relative_difference(result, expected) < 1e-4
    swapped, _ = drawn(guided, Schedule(n_steps=N_STEPS, cache=plans[1], unconditional_cache=plans[0]))
    assert relative_difference(swapped, expected) > 1e-2


def test_calls_without_a_branch_leave_its_values_as_they_are(guided: Case) -> None:
    if guided[0] in SEQUENTIAL:
        pytest.skip("a call that is left out is no call that the reference counts")
    plans = plans_of(guided, 4)
    both, stored = GuidanceAction.BOTH, GuidanceAction.STORED
    column = (both, both, stored, both, GuidanceAction.CONDITIONAL, both, both, stored)[: plans[0].n_calls]
    expected = reference(guided, plans, column)
    result, _ = drawn(guided, Schedule(n_steps=N_STEPS, cache=plans[0], unconditional_cache=plans[1], guidance=column))
    assert relative_difference(result, expected) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_the_canonical_form_changes_no_bit(guided: Case, seed: int) -> None:
    _, pipe, _ = guided
    inventory = list_inventory(pipe)
    plans, rng = plans_of(guided, seed), np.random.default_rng(seed)
    rows = [GuidanceAction.BOTH, GuidanceAction.BOTH, *GuidanceAction]
    column: tuple[GuidanceRow, ...] | None = None
    if seed:
        picked = [rows[int(i)] for i in rng.integers(len(rows), size=plans[0].n_calls - 1)]
        column = (GuidanceAction.BOTH, *picked)
    whole = Schedule(n_steps=N_STEPS, cache=plans[0], unconditional_cache=plans[1], guidance=column)
    canonical = canonical_schedule(whole, inventory)
    assert canonical.unconditional_cache not in (None, plans[1])
    assert canonical_schedule(canonical, inventory) == canonical
    (one, _), (other, _) = drawn(guided, whole), drawn(guided, canonical)
    assert torch.equal(one, other)


def test_equal_plans_are_one_plan_for_both(guided: Case) -> None:
    _, pipe, _ = guided
    plan = plans_of(guided, 5)[0]
    one = canonical_schedule(Schedule(n_steps=N_STEPS, cache=plan), list_inventory(pipe))
    two = canonical_schedule(Schedule(n_steps=N_STEPS, cache=plan, unconditional_cache=plan), list_inventory(pipe))
    assert one == two
    assert two.unconditional_cache is None


@pytest.mark.parametrize("name", ["mini-pixart", "mini-flux"])
def test_a_run_without_guidance_is_refused(name: str, pixart_pipe: Any, flux_pipe: Any, small_args: Any) -> None:
    pipe = {"mini-pixart": pixart_pipe, "mini-flux": flux_pipe}[name]
    kwargs = {**small_args(name, steps=N_STEPS), "guidance_scale": 1.0}
    before = state(pipe)
    plans = random_plan(pipe, kwargs, 0), random_plan(pipe, kwargs, 1)
    attach(pipe, Schedule(n_steps=N_STEPS, cache=plans[0], unconditional_cache=plans[1]))
    with pytest.raises(
        ScheduleMismatchError, match="unconditional_cache, and a guidance_gain, need classifier-free guidance"
    ):
        run(pipe, kwargs)
    remove(pipe)
    assert state(pipe) == before
