import numpy as np
import pytest

from autotune.evaluators.policy.simulator import (
    ACTION_DIM,
    MAX_EPISODE_STEPS,
    OBSERVATION_DIM,
    TASKS,
    Episode,
    EpisodeBatch,
    Expert,
    Simulators,
)
from autotune.spaces.errors import UsageError

pytest.importorskip("metaworld")


def expert_states(simulators: Simulators, episode: Episode, n: int) -> np.ndarray:
    env, state = simulators.start(episode)
    expert, states = Expert(episode.task), [state]
    for _ in range(n):
        state, *_ = env.step(expert.act(state))
        states.append(state)
    simulators.give_back(episode.task, env)
    return np.array(states)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_the_same_in_a_used_simulator_and_in_a_copy_beside_others(task: str) -> None:
    fresh = expert_states(Simulators(), Episode(task, 5), 40)
    simulators = Simulators()
    expert_states(simulators, Episode(task, 9), 40)
    np.testing.assert_array_equal(expert_states(simulators, Episode(task, 5), 40), fresh)
    other, _ = simulators.start(Episode(task, 9))  # under way in the first simulator, so that the next is a copy
    for _ in range(3):
        other.step(np.ones(ACTION_DIM))
    np.testing.assert_array_equal(expert_states(simulators, Episode(task, 5), 40), fresh)
    assert np.abs(expert_states(simulators, Episode(task, 6), 0) - fresh[0]).max() > 1e-3


@pytest.mark.parametrize("at_once", [1, 3])
def test_experts_succeed_and_whoever_stands_still_fails(at_once: int) -> None:
    episodes = [Episode("reach", 1), Episode("drawer-open", 2), Episode("reach", 3)]
    batch = EpisodeBatch(Simulators(), episodes, at_once)
    assert np.array_equal(batch.observations()[:, 0], batch.observations()[:, 1])
    expert = Expert("reach")
    while batch.running:
        assert len(batch.running) <= at_once
        seen = batch.observations()[:, -1]
        assert seen.shape == (len(batch.running), OBSERVATION_DIM)
        actions = np.zeros((len(batch.running), 1, ACTION_DIM))
        for row, i in enumerate(batch.running):
            if episodes[i].task == "reach":  # its expert reads the present state, the goal and nothing else
                actions[row, 0] = expert.act(np.concatenate([seen[row, :18], seen[row, :18], seen[row, 18:21]]))
        batch.act(actions)
    assert batch.successes == (1.0, 0.0, 1.0)
    lengths = [len(path) for path in batch.paths]
    assert lengths[1] == MAX_EPISODE_STEPS + 1
    assert lengths[0] < 80


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="reach, push"):
        Simulators().start(Episode("juggle", 0))
