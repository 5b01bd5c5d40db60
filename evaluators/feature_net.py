"""The classifier of CIFAR-10 images that stands in for an alignment score on the reference models."""

import itertools
import re
from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autotune.evaluators.presets import ZOO
from autotune.spaces.errors import ModelNotFoundError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Classes in the order of the network's outputs."""

_CLASS_NAME = re.compile(rf"\b({'|'.join(CLASSES)})s?\b", re.IGNORECASE)


def _convolution(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.GELU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = _convolution(width, width)
        self.b = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(self.a(x))
        return y


class FeatureNet(nn.Module):
    """A residual network of 1.1 M parameters; input (batch, 3, 32, 32) in [-1, 1], output the ten class logits."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = _convolution(3, width)
        widths = (width, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(n_in, n_out, 2), _Residual(n_out)) for n_in, n_out in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], len(CLASSES))

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The activations after the stem and each of the three stages, at 32, 16, 8 and 4 pixels a side."""
        levels = [self.stem(x)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels

    def features(self, x: Tensor) -> Tensor:
        """The last stage's activations averaged over space, (batch, 192)."""
        return self.pyramid(x)[-1].mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (batch, 10)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def load_feature_net(device: str | torch.device = "cpu") -> FeatureNet:
    """The trained network in evaluation mode, float32.

    Raises:
        ModelNotFoundError: The installed package lacks the weight file.
    """
    path = ZOO / "feature_net.safetensors"
    if not path.is_file():
        raise ModelNotFoundError(f"the package must hold {path.name}; {path} is missing: install the package again")
    state = load_file(path)
    net = FeatureNet()
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return net.eval().requires_grad_(False).to(device)


def class_of(prompt: str) -> int | None:
    """Index of the one class that a prompt names, as a word of its own; None if it names none, or more than one.

    Example:
        >>> class_of("a photo of two cats"), class_of("a caterpillar"), class_of("a dog on a ship")
        (3, None, None)
    """
    names = {match.lower() for match in _CLASS_NAME.findall(prompt)}
    return CLASSES.index(names.pop()) if len(names) == 1 else None


@torch.no_grad()
def class_probability(net: FeatureNet, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Probability (batch,) that the network gives to the class named in each image's prompt.

    `images` are (batch, 3, 32, 32) in [0, 1]; values outside are clipped. NaN where the prompt does not name exactly
    one class, see `class_of`.

    Raises:
        ValueError: The images have another shape, or there is not one prompt per image.
    """
    if images.ndim != 4 or images.shape[1:] != (3, 32, 32) or len(prompts) != len(images):
        raise ValueError(
            f"images must be (batch, 3, 32, 32) with one prompt each; got {tuple(images.shape)}, {len(prompts)} prompts"
        )
    weight = net.head.weight
    inputs = images.to(device=weight.device, dtype=weight.dtype).clamp(0, 1) * 2 - 1
    probabilities = net(inputs).softmax(1)
    classes = [class_of(prompt) for prompt in prompts]
    index = torch.tensor([-1 if c is None else c for c in classes], device=weight.device)
    named = probabilities.gather(1, index.clamp(min=0)[:, None])[:, 0]
    return torch.where(index >= 0, named, torch.nan)
