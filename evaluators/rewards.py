"""What a study may measure beyond the figures that every measurement has, by the name that `--metric` takes.

Importing this module loads neither torch nor transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.spaces.errors import UsageError
from autotune.spaces.objective import ENERGY, REWARDS, Constraint

ENERGY_METRIC = "energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A network that judges an image by its prompt: two towers in the format of `transformers.CLIPModel`.

    The value is the cosine of the two embeddings, with `scaled` times the network's own factor. `source` is the hub id
    of its weights, which must be safetensors, `tokenizer` of the tokenizer where that lies elsewhere. Where
    `unavailable` gives a reason, it can't be loaded.
    """

    description: str
    source: str = ""
    tokenizer: str | None = None
    scaled: bool = False
    unavailable: str = ""


REWARD_MODELS: dict[str, Reward] = {
    "clip-score": Reward(
        description="CLIP score (Hessel et al. 2021) as a plain cosine, of CLIP ViT-L/14",
        source="openai/clip-vit-large-patch14",
    ),
    "pick-score": Reward(
        description="PickScore v1 (Kirstain et al. 2023), with its factor of 100",
        source="yuvalkirstain/PickScore_v1",
        tokenizer="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        scaled=True,
    ),
    "hps": Reward(
        description="Human Preference Score v2 (Wu et al. 2023), in a conversion to transformers",
        source="adams-story/HPSv2-hf",
    ),
    "image-reward": Reward(
        description="ImageReward (Xu et al. 2023)",
        unavailable="its authors publish its weights as a pickle, which autotune never opens, and transformers has no "
        "network for them; pick-score and hps judge the same, learned from more preferences",
    ),
}
"""Rewards by name; each is an objective and a limit of the same name."""

assert set(REWARD_MODELS) == set(REWARDS)


@dataclass(frozen=True, slots=True)
class MetricChoice:
    """A metric that a study asks for, and the folder or hub id of its weights if these are not the usual ones."""

    name: str
    source: str | None = None

    def absolute(self) -> "MetricChoice":
        """The same with the absolute path of a folder, so that `resume` finds it from another working folder."""
        is_folder = self.source is not None and Path(self.source).expanduser().is_dir()
        return MetricChoice(self.name, str(Path(str(self.source)).expanduser().resolve())) if is_folder else self

    def __str__(self) -> str:
        return self.name if self.source is None else f"{self.name}={self.source}"


def parse_metric(text: str) -> MetricChoice:
    """The choice of a text such as `clip-score`, `hps=/models/hps` or `energy`.

    Raises:
        UsageError: there is no such metric, it can't be had, or it takes no weights.
    """
    name, separator, source = (part.strip() for part in text.partition("="))
    if name == ENERGY_METRIC:
        if separator:
            raise UsageError(f"energy is read from counters and takes no weights; got {text!r}: give energy alone")
        return MetricChoice(name)
    if name not in REWARD_MODELS:
        known = ", ".join((*(n for n, reward in REWARD_MODELS.items() if not reward.unavailable), ENERGY_METRIC))
        raise UsageError(f"a metric to measure besides the usual ones is one of {known}; got {name!r}")
    if reason := REWARD_MODELS[name].unavailable:
        raise UsageError(f"the metric {name} is not available: {reason}")
    if separator and not source:
        raise UsageError(f"after = a metric takes a folder or hub id with its weights; got {text!r}")
    return MetricChoice(name, source or None)


def asked_metrics(
    texts: Sequence[str], objectives: Sequence[str], constraints: Sequence[Constraint]
) -> tuple[MetricChoice, ...]:
    """The metrics that were asked for, by name or as an objective or a limit; each once.

    Raises:
        UsageError: see `parse_metric`, or a metric is given twice.
    """
    choices = [parse_metric(text) for text in texts]
    names = [choice.name for choice in choices]
    if len(set(names)) != len(names):
        raise UsageError(f"each metric may be given once; got {', '.join(names)}")
    for used in (*objectives, *(constraint.metric for constraint in constraints)):
        name = ENERGY_METRIC if used in ENERGY else used
        if (name in REWARD_MODELS or name == ENERGY_METRIC) and name not in names:
            choices.append(parse_metric(name))
            names.append(name)
    return tuple(choices)


def metric_rows() -> list[dict[str, object]]:
    """The metrics that can be asked for, as `autotune list metrics` shows them."""
    rows: list[dict[str, object]] = [
        {"metric": name, "available": not reward.unavailable, "what": reward.description,
         "source": reward.source or reward.unavailable}
        for name, reward in REWARD_MODELS.items()
    ]  # fmt: skip
    counters = "NVML on NVIDIA GPUs (extra `energy`), RAPL on Linux processors where it may be read"
    energy = {"metric": ENERGY_METRIC, "available": True, "what": "joules of the timed runs", "source": counters}
    return [*rows, energy]
