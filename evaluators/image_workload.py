"""Images: prompts are embedded once, and what is drawn is held against the converged run."""

from collections.abc import Sequence
from typing import Any

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.energy import EnergyMeter
from autotune.evaluators.load import LoadedModel
from autotune.evaluators.metrics import Metrics, RewardModel
from autotune.evaluators.prompt_embedding import embed_prompts
from autotune.evaluators.sampling import Purpose, Samples, run_pipeline
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.reference_schedule import reference_schedule
from autotune.spaces.schedule import Schedule


class ImageWorkload:
    """Draws images with a text-to-image pipeline; implements `Workload`. `rewards` judge the images too."""

    converges = True

    def __init__(self, model: LoadedModel, rewards: Sequence[RewardModel] = ()) -> None:
        self._pipe, self._preset = model.pipe, model.preset
        self._metrics = Metrics(rewards, aligned=model.preset.name.startswith("mini-"))
        self.identity = self._metrics.identity
        self._embeddings: dict[str, dict[str, torch.Tensor]] = {}

    def reference_schedule(self, condition: Condition) -> Schedule:
        """The converged run from the condition's start level."""
        return reference_schedule(condition)

    def run(
        self,
        fidelity: Fidelity,
        n_steps: int,
        purpose: Purpose,
        *,
        timeout_s: float | None = None,
        meter: EnergyMeter | None = None,
    ) -> Samples:
        """One image per prompt and seed, whatever the purpose; see `Workload`."""
        return run_pipeline(
            self._pipe,
            self.embedded(fidelity),
            fidelity,
            batch_size=self._preset.batch_size,
            timeout_s=timeout_s,
            meter=meter,
            arguments={"num_inference_steps": n_steps, **self.arguments},
        )

    def quality(self, samples: Samples, reference: Samples, fidelity: Fidelity) -> dict[str, tuple[float, ...]]:
        """The figures of `Metrics`."""
        return self._metrics.measure(samples, reference, fidelity.prompts, self._pipe._execution_device)

    def embedded(self, fidelity: Fidelity) -> dict[str, torch.Tensor]:
        """Call arguments that replace the prompts."""
        if fidelity.hash not in self._embeddings:
            preset = self._preset
            self._embeddings[fidelity.hash] = embed_prompts(
                self._pipe, fidelity.prompts, guidance_scale=preset.guidance_scale, call_kwargs=preset.call_kwargs
            )
        return self._embeddings[fidelity.hash]

    @property
    def arguments(self) -> dict[str, Any]:
        """The call's other arguments, but for the number of steps."""
        preset = self._preset
        size = {"height": preset.height, "width": preset.width}
        guidance = find_adapter(self._pipe).guidance_argument
        return {guidance: preset.guidance_scale, **size, **preset.call_kwargs}
