import inspect
from pathlib import Path

import diffusers
import pytest

from autotune.evaluators.adapters import ADAPTERS
from autotune.evaluators.feature_net import CLASSES, class_of
from autotune.evaluators.policy.simulator import TASKS
from autotune.evaluators.presets import PRESETS, PROMPTS, ZOO, Preset, read_prompts
from autotune.spaces.errors import UsageError

MINIS = ("mini-flux", "mini-pixart", "mini-sd")
IMAGES = {name: preset for name, preset in PRESETS.items() if not preset.is_policy}


def test_names_are_those_of_the_documentation() -> None:
    big = {"flux", "flux-schnell", "pixart-alpha", "pixart-sigma", "sd15", "sdxl", "sd3", "qwen-image"}
    assert set(PRESETS) == {*MINIS, "mini-policy", *big}
    assert all(name == preset.name for name, preset in PRESETS.items())
    assert {name for name, preset in PRESETS.items() if preset.is_local} == {*MINIS, "mini-policy"}


@pytest.mark.parametrize("preset", IMAGES.values(), ids=list(IMAGES))
def test_prompts_of_a_preset_are_enough_and_held_out(preset: Preset) -> None:
    calibration, held_out = read_prompts(preset.calibration_prompts), read_prompts(preset.held_out_prompts)
    assert len(calibration) == len(held_out) == preset.n_calibration
    together = {prompt.casefold() for prompt in calibration + held_out}
    assert len(together) == 2 * preset.n_calibration


def test_episodes_of_the_policy_cover_its_tasks_evenly() -> None:
    preset = PRESETS["mini-policy"]
    for path in (preset.calibration_prompts, preset.held_out_prompts):
        tasks = read_prompts(path)
        assert len(tasks) >= preset.n_calibration
        assert [tasks[i : i + 5] for i in range(0, len(tasks), 5)] == [TASKS] * (len(tasks) // 5)


@pytest.mark.parametrize("name", ["calibration.txt", "held_out.txt"])
def test_prompts_for_the_large_models_are_diverse(name: str) -> None:
    lines = (PROMPTS / name).read_bytes().decode("utf-8").splitlines()
    assert len(lines) == 100
    assert [line.strip() for line in lines] == lines
    lengths = [len(line.split()) for line in lines]
    assert sum(length <= 3 for length in lengths) >= 4
    assert sum(40 <= length <= 60 for length in lengths) >= 4
    assert max(lengths) <= 60
    assert sum('"' in line for line in lines) >= 5, "prompts that ask for written text"
    counts = ("one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ", "nine ")
    assert sum(any(count in f"{line.lower()} " for count in counts) for line in lines) >= 8
    openings = {" ".join(line.lower().split()[:3]) for line in lines}
    assert len(openings) >= 85


@pytest.mark.parametrize("name", ["mini_calibration.txt", "mini_held_out.txt"])
def test_prompts_for_the_reference_models_cover_each_class(name: str) -> None:
    classes = [class_of(prompt) for prompt in read_prompts(PROMPTS / name)]
    assert set(classes) == set(range(len(CLASSES)))


def test_reference_models_know_every_word_of_their_prompts() -> None:
    vocabulary = (ZOO / "mini-flux" / "tokenizer" / "tokenizer.json").read_text()
    for name in ("mini_calibration.txt", "mini_held_out.txt"):
        for prompt in read_prompts(PROMPTS / name):
            assert all(f'"{word}"' in vocabulary for word in prompt.split()), prompt


def test_prompt_file_may_hold_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# first\n\n  a cat \nein schönes Bild\n".encode())
    assert read_prompts(path) == ("a cat", "ein schönes Bild")


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe\x00caf\xe9"])
def test_useless_prompt_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"prompts\.txt"):
        read_prompts(path)


@pytest.mark.parametrize("preset", IMAGES.values(), ids=list(IMAGES))
def test_pipeline_of_a_preset_takes_its_arguments_and_has_an_adapter(preset: Preset) -> None:
    pipeline = getattr(diffusers, preset.pipeline_class)
    call = inspect.signature(pipeline.__call__).parameters
    parts = inspect.signature(pipeline.__init__).parameters
    adapter = ADAPTERS[parts["transformer" if "transformer" in parts else "unet"].annotation.__name__]
    assert {"prompt", "height", "width", adapter.guidance_argument, *preset.call_kwargs} <= set(call)
