"""Policies at other numbers of calls."""

import dataclasses

import numpy as np
import pytest

from autotune.evaluators.small_flux import small_flux_inventory
from autotune.spaces.cache_policy import UNLIMITED, CachePolicy, PolicyKind
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.policy_retiming import retimed_policy
from autotune.spaces.retiming import RunLevels, retime
from autotune.spaces.schedule import Schedule

RATIOS = (1.0, 0.98, 0.95, 0.97, 0.9, 0.92, 0.85, 0.8)
MAGCACHE = CachePolicy(
    kind=PolicyKind.MAGCACHE, threshold=0.1, max_skips=2, warm_up=2, cool_down=1, ratios=RATIOS
)  # fmt: skip


def test_the_same_calls_leave_a_policy_as_it_is() -> None:
    assert retimed_policy(MAGCACHE, np.arange(8.0), 8) is MAGCACHE


def test_twice_as_many_calls() -> None:
    made = retimed_policy(MAGCACHE, 2.0 * np.arange(8.0), 16)
    assert (made.warm_up, made.cool_down, made.max_skips, made.threshold) == (4, 2, 4, 0.1)
    assert made.n_calls == 16
    assert np.prod(made.ratios) == pytest.approx(np.prod(RATIOS))
    for i in range(1, 8):  # two calls change as much as one did
        assert made.ratios[2 * i - 1] * made.ratios[2 * i] == pytest.approx(RATIOS[i])


def test_few_calls_keep_their_guards() -> None:
    made = retimed_policy(MAGCACHE, np.arange(8.0) / 4, 2)
    assert (made.warm_up, made.cool_down, made.max_skips) == (1, 1, 1)
    unlimited = CachePolicy(kind=PolicyKind.FIRST_BLOCK, threshold=0.2)
    made = retimed_policy(unlimited, np.arange(8.0) / 4, 2)
    assert (made.max_skips, made.warm_up, made.cool_down) == (UNLIMITED, 1, 0)


def test_levels_count_and_not_indices() -> None:
    """Source calls are dense at the beginning, where the target has few."""
    policy = CachePolicy(kind=PolicyKind.SADA_MULTISTEP, threshold=1.0, order=2, warm_up=4, settled=6, max_skips=3)
    at = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0, 6.0])
    made = retimed_policy(policy, at, 8)
    assert (made.warm_up, made.settled) == (1, 4)


def test_a_schedule_is_retimed_with_its_policy_and_says_what_that_leaves() -> None:
    inventory = small_flux_inventory()
    noise = Flow(mu=0.0, dynamic=False)
    source, target = (
        RunLevels(noise=noise, start=1000.0, times=tuple(np.linspace(1000, 1000 / n, n))) for n in (8, 16)
    )
    schedule = Schedule(n_steps=8, policy=MAGCACHE)
    made = retime(schedule, inventory, source, target, 16)
    assert made.schedule == dataclasses.replace(schedule, n_steps=16, policy=made.schedule.policy)
    assert made.schedule.policy is not None
    assert made.schedule.policy.n_calls == 16
    plain = dataclasses.replace(schedule, policy=CachePolicy(kind=PolicyKind.FIRST_BLOCK, threshold=0.2))
    for retimed in (made, retime(plain, inventory, source, target, 16)):  # the threshold was tuned at other distances
        assert ["tune it again" in remark for remark in retimed.remarks] == [True]
    same = retime(schedule, inventory, source, source, 8)
    assert (same.schedule, same.remarks) == (schedule, ())
