from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from autotune.evaluators import pixart_adapter
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.cache_plans import even_actions, on_sites
from autotune.search.fewer_steps import RECIPES, recipe_schedule
from autotune.search.guidance_plans import guidance_column
from autotune.search.searcher import SearchContext
from autotune.search.table_variation import MOVES, TableVariation
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule


@pytest.fixture
def context(evaluator: TabulatedEvaluator) -> SearchContext:
    """A guided model with nested sites."""
    blocks = SimpleNamespace(transformer_blocks=range(6))
    sites = tuple(replace(site, macs=1_000_000) for site in pixart_adapter.list_sites(blocks))
    inventory = Inventory(denoiser_class="PixArtTransformer2DModel", sites=sites, total_macs=2_000_000)
    guided = TabulatedEvaluator(replace(evaluator.condition, guidance_scale=3.0), inventory)
    return SearchContext(
        condition=guided.condition, inventory=inventory, own_timesteps=guided.own_timesteps, guided=True
    )


@pytest.fixture
def whole(context: SearchContext) -> Schedule:
    """A schedule with all columns, of 12 steps."""
    solver = recipe_schedule(RECIPES[0], context, 12)
    assert solver is not None
    cache = on_sites(even_actions(12, 7), context.inventory, context.inventory.outermost)
    column = guidance_column((0, 1, 3, 5, 6, 8, 10), 12, 2, GuidanceAction.LINEAR)
    return canonical_schedule(replace(solver, cache=cache, guidance=column), context.inventory)


def n_refreshed(schedule: Schedule) -> int:
    assert schedule.cache is not None
    return int((schedule.cache.table[:, 0] == 0).sum())


def n_both(schedule: Schedule) -> int:
    assert schedule.guidance is not None
    return sum(row is GuidanceAction.BOTH for row in schedule.guidance)


@pytest.mark.parametrize("name", MOVES)
def test_moves_give_valid_schedules_and_change_most(context: SearchContext, whole: Schedule, name: str) -> None:
    variation, rng = TableVariation(context), np.random.default_rng(0)
    other = Schedule(n_steps=20, cache=on_sites(even_actions(20, 11), context.inventory, context.inventory.leaves))
    n_changed = n_valid = 0
    for parent in (whole, other, Schedule(n_steps=20)):
        for _ in range(20):
            try:
                child = canonical_schedule(MOVES[name](variation, parent, other, rng), context.inventory)
            except ScheduleError:
                continue
            n_valid += 1
            n_changed += child != parent
    assert n_valid >= 55
    assert n_changed >= (15 if name in ("columns of two", "no cache", "cache crossover") else 40)


@pytest.mark.parametrize("n_steps", [6, 9, 18, 24])
def test_all_columns_are_taken_to_another_step_count(context: SearchContext, whole: Schedule, n_steps: int) -> None:
    moved = TableVariation(context).retimed(whole, n_steps)
    assert moved.time is not None
    assert whole.time is not None
    assert len(moved.time) == n_steps
    assert moved.time[0] == whole.time[0]
    assert n_refreshed(moved) == pytest.approx(7 * n_steps / 12, abs=1.0)
    assert n_both(moved) == pytest.approx(n_both(whole) * n_steps / 12, abs=1.0)


def test_a_cache_on_the_solver_of_another_keeps_its_share_of_refreshes(context: SearchContext, whole: Schedule) -> None:
    variation = TableVariation(context)
    own = Schedule(n_steps=20, cache=on_sites(even_actions(20, 10), context.inventory, context.inventory.outermost))
    child = variation.on_solver(own, whole)
    assert (child.time, child.solver, child.guidance) == (whole.time, whole.solver, None)
    assert n_refreshed(child) == pytest.approx(6, abs=1)
    back = variation.on_solver(whole, Schedule(n_steps=20))
    assert back.time is None
    assert back.cache is not None
    assert back.cache.n_calls == 20
    assert n_both(back) == pytest.approx(n_both(whole) * 20 / 12, abs=1.0)


def test_branches_are_dropped_in_computed_calls_and_wherever_all_is_read(
    context: SearchContext, whole: Schedule
) -> None:
    variation, rng = TableVariation(context), np.random.default_rng(1)
    for _ in range(20):
        child = variation.drop_branches(replace(whole, guidance=None), rng)
        assert child.guidance is not None
        assert child.cache is not None
        reads = child.cache.table[:, 0] != 0
        assert all(row is not GuidanceAction.BOTH for row, read in zip(child.guidance, reads, strict=True) if read)
    unguided = TableVariation(replace(context, guided=False))
    assert unguided.drop_branches(Schedule(n_steps=20), rng) == Schedule(n_steps=20)
