"""Episodes of a policy: whether they succeed, how far the actions are from the default run's, and how long they take.

A prompt is a task and its seed an episode: where objects and goal lie, and the noise that actions begin from.
"""

import time
from typing import Any

import numpy as np
import torch

from autotune.evaluators.energy import EnergyMeter
from autotune.evaluators.load import LoadedModel
from autotune.evaluators.policy.path_picture import draw_path
from autotune.evaluators.policy.pipeline import PolicyPipeline
from autotune.evaluators.policy.simulator import (
    Episode,
    EpisodeBatch,
    Expert,
    Simulators,
    check_simulator,
    last_two,
    observe,
)
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.sampling import Purpose, Samples, deadline, synchronize
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import SUCCESS, Fidelity
from autotune.spaces.schedule import Schedule

ACTION_ERROR = "action-error"

N_ACTIONS = 8
"""Actions of a chunk that are executed before the policy is asked again."""

LOCK_STEP = 64
"""Episodes that go on side by side, in one batch of the network."""

N_TIMED = 3
"""Pipeline calls that a scored schedule is timed by."""

LATEST_LOOK = 40
"""Actions are compared in states that the expert reaches within this number of steps."""


def is_policy(pipe: Any) -> bool:
    """Whether a pipeline is a policy, which is judged by episodes."""
    return isinstance(pipe, PolicyPipeline)


class PolicyWorkload:
    """Runs a policy in its simulator; implements `Workload`.

    The final latents are chunks of actions in states on the way of the scripted expert, early and late ones, which no
    schedule has a part in. The reference is the default run from the same noise, that of its steps included.

    Raises:
        UsageError: the simulator is not installed.
    """

    converges = False

    def __init__(self, model: LoadedModel) -> None:
        self.identity = f"+metaworld@{check_simulator()}"
        self._pipe, self._batch_size = model.pipe, model.preset.batch_size
        self._simulators = Simulators()
        self._looks: dict[Episode, torch.Tensor] = {}

    def reference_schedule(self, condition: Condition) -> Schedule:
        """The default run."""
        return Schedule(n_steps=condition.n_steps)

    @torch.no_grad()
    def run(
        self,
        fidelity: Fidelity,
        n_steps: int,
        purpose: Purpose,
        *,
        timeout_s: float | None = None,
        meter: EnergyMeter | None = None,
    ) -> Samples:
        """Chunks of actions, and episodes where they are to be scored; see `Workload`.

        Raises:
            UsageError: a prompt is none of the simulator's tasks.
        """
        episodes = [Episode(task, seed) for task, seed in zip(fidelity.prompts, fidelity.seeds, strict=True)]
        with deadline(self._pipe, timeout_s):
            if purpose is Purpose.TIMED:
                return self._timed(episodes, n_steps, meter)
            actions = [self._act(episodes[i : i + LOCK_STEP], n_steps) for i in range(0, len(episodes), LOCK_STEP)]
            latents, blank = torch.cat(actions), torch.zeros(len(episodes), 3, 1, 1)
            if purpose is Purpose.LATENTS or not bool(torch.isfinite(latents).all()):  # which no arm can execute
                return Samples(latents=latents, images=blank, seconds=0.0)
            timed = self._timed(episodes[: N_TIMED * self._batch_size], n_steps, meter)
            images, success = self._live(episodes, n_steps)
        return Samples(
            latents=latents,
            images=images,
            seconds=timed.seconds,
            energy_j=timed.energy_j,
            n_timed=len(timed.latents),
            success=success,
        )

    def quality(self, samples: Samples, reference: Samples, fidelity: Fidelity) -> dict[str, tuple[float, ...]]:
        """Success, and the relative distance of the actions to the reference's."""
        return {SUCCESS: samples.success, ACTION_ERROR: score_deviation(samples.latents, reference.latents)}

    def _timed(self, episodes: list[Episode], n_steps: int, meter: EnergyMeter | None) -> Samples:
        actions, seconds, energy_j = [], 0.0, 0.0
        for start in range(0, len(episodes), self._batch_size):
            some = episodes[start : start + self._batch_size]
            self._look(some)
            synchronize(self._pipe)
            began, before_j = time.perf_counter(), 0.0 if meter is None else meter.read_j()
            actions.append(self._act(some, n_steps))
            synchronize(self._pipe)
            seconds += time.perf_counter() - began
            energy_j += 0.0 if meter is None else meter.read_j() - before_j
        return Samples(
            latents=torch.cat(actions),
            images=torch.zeros(len(episodes), 3, 1, 1),
            seconds=seconds,
            energy_j=None if meter is None else energy_j,
        )

    def _act(self, episodes: list[Episode], n_steps: int) -> torch.Tensor:
        """The chunks (n, horizon, action_dim), float32 on the CPU, of one pipeline call."""
        return self._call(self._look(episodes), [episode.seed for episode in episodes], n_steps)

    def _call(self, observations: torch.Tensor, seeds: list[int], n_steps: int) -> torch.Tensor:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        actions: torch.Tensor = self._pipe(observations, num_inference_steps=n_steps, generator=generators).actions
        return actions.float().cpu()

    def _live(self, episodes: list[Episode], n_steps: int) -> tuple[torch.Tensor, tuple[float, ...]]:
        """Pictures of the episodes, and which succeed."""
        first = self._pipe.transformer.config.n_observations - 1
        batch = EpisodeBatch(self._simulators, episodes, LOCK_STEP)
        while batch.running:
            seeds = [(episodes[i].seed << 8) + 1 + n for i, n in zip(batch.running, batch.n_steps, strict=True)]
            actions = self._call(torch.from_numpy(batch.observations()), seeds, n_steps)
            batch.act(actions[:, first : first + N_ACTIONS].nan_to_num().numpy())
        pictures = [draw_path(*seen) for seen in zip(batch.paths, batch.successes, strict=True)]
        return torch.stack(pictures), batch.successes

    def _look(self, episodes: list[Episode]) -> torch.Tensor:
        """What the policy is told in a state on the expert's way (n, 2, OBSERVATION_DIM)."""
        for episode in episodes:
            if episode not in self._looks:
                env, state = self._simulators.start(episode)
                expert, seen = Expert(episode.task), [observe(episode.task, state)]
                for _ in range(np.random.default_rng(episode.seed).integers(LATEST_LOOK)):
                    state, *_ = env.step(expert.act(state))
                    seen.append(observe(episode.task, state))
                self._simulators.give_back(episode.task, env)
                self._looks[episode] = torch.from_numpy(last_two(seen))
        return torch.stack([self._looks[episode] for episode in episodes])
