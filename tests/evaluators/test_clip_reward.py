import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from autotune.evaluators.clip_reward import ClipReward, load_reward
from autotune.evaluators.metrics import Metrics
from autotune.evaluators.rewards import MetricChoice, asked_metrics, parse_metric
from autotune.evaluators.sampling import Samples
from autotune.spaces.errors import ModelNotFoundError, UsageError
from autotune.spaces.objective import parse_constraint

from .tiny_clip import SIDE, make_clip

CPU = torch.device("cpu")
PROMPTS = ["a cat", "two ships on the sea", "a very long prompt that does not fit into twenty tokens", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def reward(folder: Path) -> ClipReward:
    return load_reward(MetricChoice("clip-score", str(folder)))


def images(n: int, height: int = 40, width: int = 30) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(40, 30), (30, 47), (24, 24), (9, 31)])
def test_images_are_prepared_as_transformers_does(reward: ClipReward, size: tuple[int, int]) -> None:
    (image,) = images(1, *size)
    processor: Any = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    expected = processor(pixels, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(reward.preprocess(image).numpy(), expected, atol=1e-5)


def test_the_value_is_the_cosine_of_an_image_and_its_own_prompt(reward: ClipReward, folder: Path) -> None:
    drawn = images(len(PROMPTS))
    model: Any = CLIPModel.from_pretrained(folder).requires_grad_(False)
    pixels = torch.stack([reward.preprocess(image) for image in drawn])
    vision = model.visual_projection(model.vision_model(pixels).pooler_output)
    expected = []
    for prompt, image in zip(PROMPTS, vision, strict=True):
        tokens = reward._tokenizer([prompt], truncation=True, max_length=20, return_tensors="pt")
        text = model.text_projection(model.text_model(tokens["input_ids"]).pooler_output)[0]
        expected.append(float(torch.cosine_similarity(image, text, dim=0)))
    assert reward.score(drawn, PROMPTS, CPU) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == len(expected)
    scaled = ClipReward("pick-score", folder, folder, scaled=True, identity="x")
    factor = float(model.logit_scale.exp())
    assert scaled.score(drawn, PROMPTS, CPU) == pytest.approx([factor * value for value in expected], abs=1e-4)


def test_batches_do_not_change_values(reward: ClipReward) -> None:
    drawn, prompts = images(19), [f"{i} cats" for i in range(19)]
    alone = [reward.score(drawn[i : i + 1], prompts[i : i + 1], CPU)[0] for i in range(19)]
    assert reward.score(drawn, prompts, CPU) == pytest.approx(alone, abs=1e-5)


def test_other_weights_have_another_identity(reward: ClipReward, tmp_path: Path) -> None:
    assert load_reward(MetricChoice("hps", str(make_clip(tmp_path / "a")))).identity == reward.identity
    assert load_reward(MetricChoice("hps", str(make_clip(tmp_path / "b", seed=1)))).identity != reward.identity


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _with_code(folder: Path) -> None:
    (folder / "modeling.py").write_text("")


def _of_another_kind(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "clip"', '"model_type": "blip"'))


def _without_a_tower(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))


def _without_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickled, "pytorch_model.bin is a pickle"),
        (_with_code, "must hold no code"),
        (_of_another_kind, "CLIPModel.*--metric clip-score=FOLDER"),
        (_without_a_tower, "missing: .*layers.2"),
        (_without_a_tokenizer, "a tokenizer must hold"),
    ],
)
def test_weights_that_can_not_be_trusted_are_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    damage(damaged)
    with pytest.raises(ModelNotFoundError, match=message):
        load_reward(MetricChoice("clip-score", str(damaged)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image-reward", "pickle.*pick-score and hps"),
        ("fid", "one of clip-score, pick-score, hps, energy; got 'fid'"),
        ("energy=x", "takes no weights"),
        ("hps=", "folder or hub id"),
    ],
)
def test_metrics_that_can_not_be_had_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_metric(text)


def test_objectives_and_limits_ask_for_their_metrics() -> None:
    limits = [parse_constraint("hps>=0.2"), parse_constraint("energy_j<=5"), parse_constraint("psnr>=20")]
    asked = asked_metrics(["clip-score=/weights"], ("latency", "clip-score"), limits)
    assert list(map(str, asked)) == ["clip-score=/weights", "hps", "energy"]
    assert asked_metrics([], ("latency", "deviation"), []) == ()
    with pytest.raises(UsageError, match="not available"):
        asked_metrics([], ("latency", "image-reward"), [])
    with pytest.raises(UsageError, match="once"):
        asked_metrics(["hps", "hps=x"], (), [])


def test_rewards_stand_beside_the_usual_metrics_and_name_their_weights(reward: ClipReward) -> None:
    metrics = Metrics((reward,))
    assert metrics.identity == f"+clip-score@{reward.identity}"
    assert Metrics().identity == ""
    drawn = Samples(latents=torch.ones(2, 4, 5, 5), images=images(2), seconds=1.0)
    quality = metrics.measure(drawn, drawn, PROMPTS[:2], CPU)
    assert set(quality) == {"deviation", "psnr", "ssim", "clip-score"}
    assert quality["clip-score"] == reward.score(drawn.images, PROMPTS[:2], CPU)
