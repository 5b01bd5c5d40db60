"""Meta-World's simulated arm (McLean et al. 2025, arXiv 2505.11289), many episodes in lock step."""

import copy
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import UsageError

TASKS = ("reach", "push", "pick-place", "button-press-topdown", "drawer-open")
"""Tasks of `mini-policy`, in the order of their places in an observation."""

STATE_DIM = 21
"""Hand, gripper and objects (18), and the goal (3)."""

HAND, OBJECT, GOAL = slice(0, 3), slice(4, 7), slice(18, 21)
"""Positions in an observation, in metres."""

OBSERVATION_DIM = STATE_DIM + len(TASKS)
"""The state, and which task it is: 1 in one of five places."""

ACTION_DIM = 4
"""The hand's displacement in three directions and the gripper's force, each in [-1, 1]."""

MAX_EPISODE_STEPS = 200
"""Steps after which an episode has failed; the scripted experts take 40 to 110."""

Array = NDArray[np.float32]


def check_simulator() -> str:
    """The version of Meta-World.

    Raises:
        UsageError: it, or MuJoCo, is not installed.
    """
    try:
        import metaworld
    except ImportError as error:
        raise UsageError(
            f"a policy is judged in a simulator, which needs the packages metaworld and mujoco ({error}): "
            "pip install 'diffusion-autotune[policy]'"
        ) from error
    from importlib.metadata import version

    return version(metaworld.__name__)


@dataclass(frozen=True, slots=True)
class Episode:
    """A task of `TASKS` and the seed that its objects and its goal are drawn from."""

    task: str
    seed: int


class Expert:
    """Meta-World's scripted policy of a task."""

    def __init__(self, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        make: Any = ENV_POLICY_MAP[f"{task}-v3"]
        self._policy = make()

    def act(self, state: NDArray[np.float64]) -> Array:
        """The action (ACTION_DIM,) in a simulator's state (39,), clipped to [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # experts ask for more than the box allows
            action: Array = np.clip(self._policy.get_action(state), -1.0, 1.0).astype(np.float32)
        return action


def observe(task: str, state: NDArray[np.float64]) -> Array:
    """What the policy is told (OBSERVATION_DIM,) of a simulator's state (39,), which repeats the state before."""
    one_hot = np.eye(len(TASKS))[TASKS.index(task)]
    return np.concatenate([state[:18], state[36:39], one_hot]).astype(np.float32)


@dataclass(slots=True)
class Simulators:
    """Simulators of each task, made when they are needed, and kept for later episodes.

    The same episode under the same actions gives the same states, bit for bit, whatever a simulator did before.
    """

    _first: dict[str, Any] = field(default_factory=dict)
    _idle: dict[str, list[Any]] = field(default_factory=dict)

    def start(self, episode: Episode) -> tuple[Any, NDArray[np.float64]]:
        """A simulator at the first state (39,) of an episode; `give_back` takes it when the episode is over.

        Raises:
            UsageError: the task is unknown, or Meta-World is not installed.
        """
        idle = self._idle.setdefault(episode.task, [])
        env = idle.pop() if idle else self._make(episode.task)
        env.seed(episode.seed)
        state, _ = env.reset()
        return env, state

    def give_back(self, task: str, env: Any) -> None:
        """Take a simulator that no episode needs any more."""
        self._idle[task].append(env)

    def _make(self, task: str) -> Any:
        """A copy of the task's first simulator, which took far longer to make."""
        if task not in self._first:
            self._first[task] = _make_simulator(task)
        first = self._first[task]
        import mujoco

        made = object.__new__(type(first))
        made.__dict__.update(first.__dict__)
        made.model = copy.copy(first.model)
        made.data = mujoco.MjData(made.model)
        return made


def _make_simulator(task: str) -> Any:
    if task not in TASKS:
        raise UsageError(f"a task must be one of {', '.join(TASKS)}; got {task!r}")
    check_simulator()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    make: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]
    env = make(seed=0)
    env._freeze_rand_vec = False  # objects and goal are drawn at each reset, by the seed
    env.seeded_rand_vec = True
    return env


class EpisodeBatch:
    """Episodes in lock step, at most `at_once` of them, the next ones taking the places of those that have ended.

    One ends with its success, or without after `MAX_EPISODE_STEPS` steps.
    """

    def __init__(self, simulators: Simulators, episodes: Sequence[Episode], at_once: int) -> None:
        self._simulators, self._at_once = simulators, at_once
        self._waiting = deque(enumerate(episodes))
        self._started: dict[int, _Running] = {}
        self.running: list[int] = []
        """Places, in the order of the episodes, of those that are under way."""
        self._fill()

    @property
    def successes(self) -> tuple[float, ...]:
        """1 for each episode that has succeeded so far, 0 for others."""
        return tuple(float(self._started[i].succeeded) for i in sorted(self._started))

    @property
    def paths(self) -> tuple[Array, ...]:
        """What was observed in each episode so far, (n, OBSERVATION_DIM)."""
        return tuple(np.stack(self._started[i].observed) for i in sorted(self._started))

    @property
    def n_steps(self) -> tuple[int, ...]:
        """Steps that each running episode has made."""
        return tuple(len(self._started[i].observed) - 1 for i in self.running)

    def observations(self) -> Array:
        """The last two observations of the running episodes (n_running, 2, OBSERVATION_DIM), the newest last."""
        return np.stack([last_two(self._started[i].observed) for i in self.running])

    def act(self, actions: NDArray[np.floating[Any]]) -> None:
        """Execute a chunk of actions (n_running, n_actions, ACTION_DIM), one row per running episode."""
        for i, chunk in zip(self.running, actions, strict=True):
            one = self._started[i]
            for action in chunk:
                one.step(action)
                if one.ended:
                    self._simulators.give_back(one.episode.task, one.env)
                    break
        self.running = [i for i in self.running if not self._started[i].ended]
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self.running) < self._at_once:
            i, episode = self._waiting.popleft()
            self._started[i] = _Running(episode, *self._simulators.start(episode))
            self.running.append(i)


def last_two(observed: Sequence[Array]) -> Array:
    """The last two observations (2, OBSERVATION_DIM); the first one twice where there is no other."""
    return np.stack([observed[max(0, len(observed) - 2)], observed[-1]])


class _Running:
    def __init__(self, episode: Episode, env: Any, state: NDArray[np.float64]) -> None:
        self.episode, self.env, self.succeeded = episode, env, False
        self.observed = [observe(episode.task, state)]

    @property
    def ended(self) -> bool:
        return self.succeeded or len(self.observed) > MAX_EPISODE_STEPS

    def step(self, action: NDArray[np.floating[Any]]) -> None:
        state, _, _, _, info = self.env.step(np.clip(action, -1.0, 1.0))
        self.observed.append(observe(self.episode.task, state))
        self.succeeded = bool(info["success"])
