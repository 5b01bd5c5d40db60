from dataclasses import replace

import numpy as np
import pytest

from autotune.evaluators.schedule_features import (
    ENCODINGS,
    N_LAGS,
    N_LEVELS,
    N_PHASES,
    N_WEIGHTS,
    cache_features,
    forecast_features,
    solver_features,
)
from autotune.evaluators.small_flux import small_flux_inventory
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver

INVENTORY = small_flux_inventory(2, 1)
N_SITES, N_CALLS = len(INVENTORY), 10


def test_ages_of_reused_values_are_summed_by_site_and_part_by_call_and_over_all() -> None:
    reuse = np.zeros((N_CALLS, N_SITES), bool)
    reuse[3:6, 1] = True  # ages 1, 2, 3 in calls 3, 4, 5: parts 1, 2 and 2
    reuse[9, 4] = True
    features = np.expm1(cache_features(CachePlan.from_array(reuse), INVENTORY, N_CALLS))
    by_part, by_call, overall = np.split(features, [N_PHASES * N_SITES, N_PHASES * N_SITES + N_CALLS])
    expected = np.zeros((N_PHASES, N_SITES))
    expected[1, 1], expected[2, 1], expected[4, 4] = 1, 5, 1
    assert by_part == pytest.approx(expected.ravel())
    assert by_call == pytest.approx([0, 0, 0, 1, 2, 3, 0, 0, 0, 1])
    assert overall == pytest.approx([7, 4, 15])
    assert not cache_features(None, INVENTORY, N_CALLS).any()
    assert len(cache_features(None, INVENTORY, N_CALLS)) == len(features)


def test_dead_cells_change_nothing() -> None:
    """With `proj_out` reused, what feeds it alone does not matter."""
    out = next(i for i, site in enumerate(INVENTORY.sites) if site.component == "proj_out")
    reuse = np.zeros((N_CALLS, N_SITES), bool)
    reuse[1:, out] = True
    dead = reuse.copy()
    dead[2:5, out - 1] = True
    without, with_dead = (cache_features(CachePlan.from_array(t), INVENTORY, N_CALLS) for t in (reuse, dead))
    assert np.array_equal(without, with_dead)


def test_forecasts_are_summed_by_their_order_beside_the_ages() -> None:
    actions = np.zeros((N_CALLS, N_SITES), int)
    actions[4:7, 1] = CacheAction.TAYLOR_1  # from calls 2 and 3 on: ages 1, 2, 3
    actions[8, 4] = CacheAction.NEWTON_2
    actions[5, 3] = CacheAction.REUSE
    plan = CachePlan.from_array(actions)
    features = forecast_features(plan, INVENTORY, N_CALLS)
    ages, first, second = np.split(features, [-2 * (N_CALLS + 3), -(N_CALLS + 3)])
    assert np.array_equal(ages, cache_features(plan, INVENTORY, N_CALLS))
    assert np.expm1(first) == pytest.approx([0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 6, 3, 14])
    assert np.expm1(second) == pytest.approx([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1])


@pytest.mark.parametrize("n", [1, 4, 20])
def test_eulers_weights_are_one_on_the_last_output_and_nothing_before(n: int) -> None:
    evaluator = TabulatedEvaluator()
    solver = make_solver("euler", n, evaluator.condition.noise_schedule)
    features = solver_features(Schedule(n_steps=n, time=evaluator.own_timesteps(n), solver=solver), evaluator.condition)
    assert features[0] == pytest.approx(np.log(n))
    weights = features[2 + N_LEVELS :].reshape(N_LAGS, N_WEIGHTS)
    assert weights == pytest.approx(np.array([[1.0], [0.0], [0.0]]) * np.ones(N_WEIGHTS))


def test_levels_run_from_the_first_call_to_the_last() -> None:
    evaluator = TabulatedEvaluator()
    noise = evaluator.condition.noise_schedule
    time = evaluator.own_timesteps(8)
    schedule = Schedule(n_steps=8, time=time, solver=make_solver("ab2", 8, noise))
    levels = solver_features(schedule, evaluator.condition)[2 : 2 + N_LEVELS]
    assert levels[-1] == pytest.approx(float(noise.lam(np.array(time[-1]))))
    assert (np.diff(levels) > 0.0).all()
    assert solver_features(schedule, evaluator.condition)[2 + N_LEVELS + N_WEIGHTS + 2] != 0.0  # the output before


def test_a_schedule_is_of_one_kind_at_most() -> None:
    evaluator = TabulatedEvaluator()
    time, solver = evaluator.own_timesteps(5), make_solver("euler", 5, evaluator.condition.noise_schedule)
    plan = CachePlan.from_array(np.zeros((5, len(evaluator.inventory)), int))
    reuses = Schedule(n_steps=20, cache=CachePlan.from_array(np.eye(20, len(evaluator.inventory))))
    forecasts = CachePlan.from_array(CacheAction.TAYLOR_1 * np.eye(20, len(evaluator.inventory)))
    kinds = {
        "cache": [Schedule(n_steps=20), reuses],
        "forecast": [Schedule(n_steps=20, cache=forecasts)],
        "solver": [Schedule(n_steps=5, time=time, solver=solver)],
        "neither": [
            Schedule(n_steps=5),
            Schedule(n_steps=5, time=time, solver=solver, cache=plan),
            replace(reuses, cache_correction="0" * 64),
            Schedule(n_steps=20, guidance=(GuidanceAction.CONDITIONAL,) * 20),
        ],
    }
    for kind, schedules in kinds.items():
        for schedule in schedules:
            found = [
                name
                for name, encode in ENCODINGS.items()
                if encode(schedule, evaluator.condition, evaluator.inventory, 20) is not None
            ]
            assert found == [kind] * (kind != "neither")
