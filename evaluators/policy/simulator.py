"""Meta-World's simulated arm (McLean et al. 2025, arXiv 2505.11289), many episodes in lock step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import UsageError

TASKS = ("reach", "push", "pick-place", "button-press-topdown", "drawer-open")
"""Tasks of `mini-policy`, in the order of their places in an observation."""

STATE_DIM = 21
"""Hand, gripper and objects now (18), and the goal (3)."""

OBSERVATION_DIM = STATE_DIM + len(TASKS)
"""The state, and which task it is: 1 in one of five places."""

ACTION_DIM = 4
"""The hand's displacement in three directions and the gripper's force, each in [-1, 1]."""

MAX_EPISODE_STEPS = 200
"""Steps after which an episode has failed; the scripted experts take 40 to 110."""

Array = NDArray[np.float32]


def metaworld() -> Any:
    """The package `metaworld`.

    Raises:
        UsageError: it, or mujoco, is not installed.
    """
    try:
        import metaworld
    except ImportError as error:
        raise UsageError(
            f"episodes of a policy need the packages metaworld and mujoco ({error}): "
            "pip install 'diffusion-autotune[policy]'"
        ) from error
    return metaworld


@dataclass(frozen=True, slots=True)
class Episode:
    """A task of `TASKS` and the seed that its objects and its goal are drawn from."""

    task: str
    seed: int


@dataclass(slots=True)
class _Running:
    episode: Episode
    env: Any
    observed_before: Array
    observed: Array
    n_steps: int = 0
    succeeded: bool = False

    @property
    def ended(self) -> bool:
        return self.succeeded or self.n_steps >= MAX_EPISODE_STEPS

    def step(self, action: Array) -> None:
        state, _, _, _, info = self.env.step(np.clip(action, -1.0, 1.0))
        self.observed_before, self.observed = self.observed, observe(self.episode.task, state)
        self.n_steps += 1
        self.succeeded = bool(info["success"])


@dataclass(slots=True)
class Simulators:
    """One simulator per task and episode under way; they are kept for later episodes, since making one takes a second.

    The same episode under the same actions gives the same states, whatever a simulator did before.
    """

    _idle: dict[str, list[Any]] = field(default_factory=dict)

    def start(self, episodes: Sequence[Episode]) -> "EpisodeBatch":
        """Reset simulators to the first states of these episodes."""
        return EpisodeBatch(self, [self._begin(episode) for episode in episodes])

    def _begin(self, episode: Episode) -> _Running:
        idle = self._idle.setdefault(episode.task, [])
        env = idle.pop() if idle else make_simulator(episode.task)
        env.seed(episode.seed)
        state, _ = env.reset()
        first = observe(episode.task, state)
        return _Running(episode, env, first, first)

    def give_back(self, task: str, env: Any) -> None:
        """Take a simulator that no episode needs any more."""
        self._idle[task].append(env)


def make_simulator(task: str) -> Any:
    """A simulator of one task, whose `seed` decides what the next `reset` draws.

    Raises:
        UsageError: the task is unknown, or Meta-World is not installed.
    """
    if task not in TASKS:
        raise UsageError(f"a task must be one of {', '.join(TASKS)}; got {task!r}")
    metaworld()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"](seed=0)
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    return env


def observe(task: str, state: NDArray[np.float64]) -> Array:
    """What the policy is told (OBSERVATION_DIM,) of a simulator's state (39,), which repeats the state before."""
    one_hot = np.eye(len(TASKS))[TASKS.index(task)]
    return np.concatenate([state[:18], state[36:39], one_hot]).astype(np.float32)


class EpisodeBatch:
    """Episodes under way, in lock step. One ends with its success, or without after `MAX_EPISODE_STEPS` steps."""

    def __init__(self, simulators: Simulators, episodes: list[_Running]) -> None:
        self._simulators, self._episodes, self._running = simulators, episodes, list(episodes)

    @property
    def running(self) -> list[int]:
        """Places, in the order of the start, of the episodes that have not ended."""
        return [i for i, one in enumerate(self._episodes) if not one.ended]

    @property
    def successes(self) -> tuple[bool, ...]:
        """Which episodes have succeeded so far, in the order of the start."""
        return tuple(one.succeeded for one in self._episodes)

    def observations(self) -> Array:
        """The last two observations of the running episodes (n_running, 2, OBSERVATION_DIM), the newest last."""
        return np.stack([np.stack([one.observed_before, one.observed]) for one in self._running])

    def act(self, actions: Array) -> None:
        """Execute a chunk of actions (n_running, n_actions, ACTION_DIM), one row per running episode."""
        for one, chunk in zip(self._running, actions, strict=True):
            for action in chunk:
                one.step(action)
                if one.ended:
                    self._simulators.give_back(one.episode.task, one.env)
                    break
        self._running = [one for one in self._running if not one.ended]
