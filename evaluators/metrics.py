"""The quality figures of a scored schedule: one value per prompt and metric."""

from collections.abc import Sequence
from typing import Protocol

import torch

from autotune.evaluators.feature_net import class_probability, load_feature_net
from autotune.evaluators.quality import score_deviation, score_psnr, score_ssim
from autotune.evaluators.sampling import Samples

CIFAR_SIZE = (32, 32)
"""Height and width of the images that the feature net knows."""


class RewardModel(Protocol):
    """A network that judges images by their prompts; `identity` tells its weights."""

    name: str
    identity: str

    def score(self, images: torch.Tensor, prompts: Sequence[str], device: torch.device) -> tuple[float, ...]:
        """One value per image (n, 3, height, width) in [0, 1] and its prompt."""
        ...


class Metrics:
    """Deviation, PSNR and SSIM to the reference; the feature net's alignment if `aligned`; and the given rewards."""

    def __init__(self, rewards: Sequence[RewardModel] = (), *, aligned: bool = False) -> None:
        self._rewards = tuple(rewards)
        self._feature_net = load_feature_net(torch.device("cpu")) if aligned else None

    @property
    def identity(self) -> str:
        """What tells values with these rewards from values with others; empty without any."""
        return "".join(sorted(f"+{reward.name}@{reward.identity}" for reward in self._rewards))

    def measure(
        self, samples: Samples, reference: Samples, prompts: Sequence[str], device: torch.device
    ) -> dict[str, tuple[float, ...]]:
        """The values by metric; rewards run on `device`. Alignment is left out where a prompt names no class."""
        quality = {
            "deviation": score_deviation(samples.latents, reference.latents),
            "psnr": score_psnr(samples.images, reference.images),
            "ssim": score_ssim(samples.images, reference.images),
        }
        if self._feature_net is not None and samples.images.shape[-2:] == CIFAR_SIZE:
            alignment = class_probability(self._feature_net, samples.images, prompts)
            if bool(torch.isfinite(alignment).all()):
                quality["alignment"] = tuple(alignment.tolist())
        for reward in self._rewards:
            quality[reward.name] = reward.score(samples.images, prompts, device)
        return quality
