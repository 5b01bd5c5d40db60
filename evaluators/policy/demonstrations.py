"""Demonstrations of Meta-World's scripted experts: clean labels on states that noise has led to.

After DART (Laskey et al. 2017, arXiv 1703.09327): a policy that is shown mistakes learns to recover from them.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autotune.evaluators.policy.simulator import (
    MAX_EPISODE_STEPS,
    Episode,
    Expert,
    Simulators,
    check_simulator,
    observe,
)

Array = NDArray[np.float32]

FIRST_SEED = 10_000_000
"""Episodes with this seed and above are demonstrated; those below are for evaluation alone."""

_STEPS_AFTER_SUCCESS = 12
_SHARE_CLEAN = 0.3
_QUIET, _BURST = (10, 25), (2, 9)
"""Steps between and within bursts of noise, drawn from these ranges."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Demonstration:
    """One successful episode of an expert.

    `observations` (n, OBSERVATION_DIM) are what the policy would be told, `actions` (n, ACTION_DIM) what the expert
    does there, in [-1, 1]; `disturbed` (n,) tells the steps that executed something else.
    """

    observations: Array
    actions: Array
    disturbed: NDArray[np.bool_]


def record_demonstrations(tasks: Sequence[str], n_per_task: int, *, n_processes: int = 1) -> list[Demonstration]:
    """`n_per_task` successful episodes of each task, from `FIRST_SEED` on; the same arguments give the same ones.

    Raises:
        UsageError: a task is unknown, or Meta-World is not installed.
    """
    check_simulator()
    with ProcessPoolExecutor(n_processes) as processes:
        recorded = processes.map(partial(_record_task, n_episodes=n_per_task), tasks)
        return [demonstration for of_task in recorded for demonstration in of_task]


def _record_task(task: str, n_episodes: int) -> list[Demonstration]:
    simulators, seed = Simulators(), FIRST_SEED
    recorded: list[Demonstration] = []
    while len(recorded) < n_episodes:
        demonstration = _record(simulators, Episode(task, seed))
        seed += 1
        if demonstration is not None:
            recorded.append(demonstration)
    return recorded


def _record(simulators: Simulators, episode: Episode) -> Demonstration | None:
    """The episode of the expert, or None where noise has made it fail."""
    expert = Expert(episode.task)
    disturbances = _disturbances(np.random.default_rng(episode.seed))
    env, state = simulators.start(episode)
    observations, actions, end = [], [], None
    for step in range(MAX_EPISODE_STEPS):
        action = expert.act(state)
        observations.append(observe(episode.task, state))
        actions.append(action)
        executed = np.clip(action + disturbances[step], -1.0, 1.0)
        state, _, _, _, info = env.step(executed)
        if info["success"] and end is None:
            end = step + _STEPS_AFTER_SUCCESS
        if step == end:
            break
    simulators.give_back(episode.task, env)
    if end is None:
        return None
    return Demonstration(
        observations=np.stack(observations),
        actions=np.stack(actions),
        disturbed=np.any(disturbances[: len(actions)] != 0.0, axis=1),
    )


def _disturbances(rng: np.random.Generator) -> NDArray[np.float64]:
    """What is added to the actions (MAX_EPISODE_STEPS, 4): nothing, or bursts of a push and of noise."""
    added = np.zeros((MAX_EPISODE_STEPS, 4))
    if rng.random() < _SHARE_CLEAN:
        return added
    start = int(rng.integers(0, _QUIET[1]))
    while start < MAX_EPISODE_STEPS:
        end = min(start + int(rng.integers(*_BURST)), MAX_EPISODE_STEPS)
        push = rng.normal(0.0, 0.5, 3)
        added[start:end, :3] = push + rng.normal(0.0, 0.3, (end - start, 3))
        if rng.random() < 0.1:
            added[start:end, 3] = rng.normal(0.0, 1.0)
        start = end + int(rng.integers(*_QUIET))
    return added
