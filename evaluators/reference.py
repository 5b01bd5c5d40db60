"""The samples of the reference: from the same starting noise that every schedule is run from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from safetensors.torch import load, save

from autotune.evaluators.sampling import Samples
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.reference_schedule import REFERENCE_STEPS


class ArtifactCache(Protocol):
    """Where bytes are kept under a name between processes."""

    def save(self, name: str, data: bytes, kind: str) -> None:
        """Keep `data` under `name`."""
        ...

    def load(self, name: str) -> bytes | None:
        """What was kept under `name`, or None."""
        ...


class References:
    """The reference samples of one condition, each made once per prompt and seed, whatever set of prompts asks for it.

    `run` executes the reference's schedule on a fidelity. `artifacts` keeps the samples between processes, one file
    each.
    """

    def __init__(
        self, condition: Condition, run: Callable[[Fidelity], Samples], artifacts: ArtifactCache | None
    ) -> None:
        self._condition, self._run, self._artifacts = condition, run, artifacts
        self._made: dict[str, Samples] = {}

    def of(self, fidelity: Fidelity) -> Samples:
        """The reference samples of a fidelity, in its order; what is missing is made in one run."""
        singles = [fidelity.after(i).first(1) for i in range(len(fidelity.prompts))]
        missing = [single for single in singles if not self._is_known(single)]
        if missing:
            some = replace(
                fidelity,
                prompts=tuple(single.prompts[0] for single in missing),
                seeds=tuple(single.seeds[0] for single in missing),
            )
            samples = self._run(some)
            for i, single in enumerate(missing):
                self._keep(single, samples.latents[i : i + 1].clone(), samples.images[i : i + 1].clone())
        known = [self._made[single.hash] for single in singles]
        return Samples(
            latents=torch.cat([s.latents for s in known]), images=torch.cat([s.images for s in known]), seconds=0.0
        )

    def _is_known(self, single: Fidelity) -> bool:
        if single.hash not in self._made and self._artifacts is not None:
            stored = self._artifacts.load(self._name(single))
            if stored is not None:
                parts = load(stored)
                self._made[single.hash] = Samples(latents=parts["latents"], images=parts["images"], seconds=0.0)
        return single.hash in self._made

    def _keep(self, single: Fidelity, latents: torch.Tensor, images: torch.Tensor) -> None:
        self._made[single.hash] = Samples(latents=latents, images=images, seconds=0.0)
        if self._artifacts is not None:
            self._artifacts.save(self._name(single), save({"latents": latents, "images": images}), "reference")

    def _name(self, single: Fidelity) -> str:
        return f"reference/{REFERENCE_STEPS}/{self._condition.hash}/{single.hash}"
