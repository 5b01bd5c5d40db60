import hashlib
import re

import pytest
import torch

from autotune.evaluators.feature_net import CLASSES, class_of, class_probability, load_feature_net
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import ZOO


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a photo of a cat", 3), ("Two CATS!", 3), ("a caterpillar", None), ("a dog on a ship", None), ("", None)],
)
def test_class_is_a_word_of_its_own(prompt: str, expected: int | None) -> None:
    assert class_of(prompt) == expected


def test_drawn_images_are_recognised_as_their_prompts_class() -> None:
    model = load_model("mini-pixart")
    names = [CLASSES[i % 10] for i in range(16)]
    images = model.pipe(
        prompt=[f"a photo of a {name}" for name in names],
        num_inference_steps=10,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **model.preset.call_kwargs,
    ).images
    net = load_feature_net()
    own = class_probability(net, images, names)
    wrong = class_probability(net, images, [CLASSES[(i + 1) % 10] for i in range(16)])
    assert own.mean() > 0.5
    assert wrong.mean() < 0.2


def test_probability_is_nan_where_the_prompt_names_no_class() -> None:
    result = class_probability(load_feature_net(), torch.full((2, 3, 32, 32), 0.5), ["a house", "a ship"])
    assert torch.isnan(result).tolist() == [True, False]
    assert 0 <= result[1] <= 1


def test_probabilities_over_all_classes_sum_to_one() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = load_feature_net()
    total = sum(float(class_probability(net, image, [name])) for name in CLASSES)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_other_sizes_and_missing_prompts_are_refused() -> None:
    net = load_feature_net()
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\)"):
        class_probability(net, torch.zeros(1, 3, 64, 64), ["a cat"])
    with pytest.raises(ValueError, match="2 prompts"):
        class_probability(net, torch.zeros(1, 3, 32, 32), ["a cat", "a dog"])


def test_features_and_pyramid_have_the_documented_shapes() -> None:
    net = load_feature_net()
    image = torch.zeros(2, 3, 32, 32)
    assert net.features(image).shape == (2, 192)
    assert [level.shape[-1] for level in net.pyramid(image)] == [32, 16, 8, 4]


def test_model_card_states_the_hash_of_every_weight_file() -> None:
    stated = dict(re.findall(r"\| `([^`]+\.safetensors)` \| `([0-9a-f]{64})` \|", (ZOO / "README.md").read_text()))
    actual = {
        path.relative_to(ZOO).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in ZOO.rglob("*.safetensors")
    }
    assert stated == actual
