"""Correcting and quantizing a schedule file on the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from autotune.evaluators import table_file
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import load_schedule_file, save_schedule_file

from .place import Finished

Call = Callable[..., Finished]


@pytest.mark.slow
def test_correct_writes_a_file_with_its_table_that_validates(call: Call) -> None:
    Path("steps.json").write_text("[0, 2]")
    words = ("import", "steps.json", "--as", "steps", "--model", "mini-flux", "--steps", "4", "-o", "plain.json")
    assert call(*words).code == 0
    Path("prompts.txt").write_text("a photo of a cat\n")
    done = call("correct", "plain.json", "--prompts", "prompts.txt", "-o", "better.schedule.json")
    assert done.code == 0, done.err
    assert done.out.startswith("deviation on the prompts that it was fitted on: 0.")
    assert done.out.endswith(
        "wrote better.schedule.json; in production: autotune.apply(pipe, 'better.schedule.json')\n"
    )
    file = load_schedule_file("better.schedule.json")
    digest = file.schedule.cache_correction
    assert digest is not None
    assert Path(f"better.{digest[:8]}.safetensors").is_file()
    assert file.schedule.without_tables == load_schedule_file("plain.json").schedule
    checked = call("validate", "better.schedule.json", "--format", "json")
    assert json.loads(checked.out)[0]["columns"] == ["cache", "cache_correction"]
    Path(f"better.{digest[:8]}.safetensors").unlink()
    refused = call("validate", "better.schedule.json")
    assert (refused.code, refused.out) == (2, "")
    assert "is missing: copy it there" in refused.err
    lines = call("correct", "plain.json", "--no-history", "--prompts", "prompts.txt", "-o", "lines.schedule.json")
    assert lines.code == 0, lines.err
    own = load_file(next(str(path) for path in Path().glob("lines.*.safetensors")))
    assert {name.split(".")[-1] for name in own} == {"calls", "scale", "shift", "weights"}, sorted(own)


@pytest.mark.slow
def test_quantize_keeps_the_schedule_and_drops_what_was_fitted_without_it(call: Call) -> None:
    Path("steps.json").write_text("[0, 2]")
    words = ("import", "steps.json", "--as", "steps", "--model", "mini-flux", "--steps", "4", "-o", "plain.json")
    assert call(*words).code == 0
    Path("prompts.txt").write_text("a photo of a cat\n")
    done = call(
        "quantize", "plain.json", "--precision", "w6.25a8", "--prompts", "prompts.txt", "-o", "small.schedule.json"
    )
    assert done.code == 0, done.err
    assert done.out.startswith("deviation on the prompts that it was fitted on: 0.")
    file = load_schedule_file("small.schedule.json")
    assert file.schedule.without_tables == load_schedule_file("plain.json").schedule
    assert list(file.schedule.tables) == ["quantization"]
    assert list(file.measured) == ["quantization"]
    both = call("correct", "small.schedule.json", "--prompts", "prompts.txt", "-o", "both.schedule.json")
    assert both.code == 0, both.err
    assert load_schedule_file("both.schedule.json").schedule.quantization == file.schedule.quantization
    checked = call("validate", "both.schedule.json", "--format", "json")
    assert json.loads(checked.out)[0]["columns"] == ["cache", "quantization", "cache_correction"]
    bare = ("quantize", "plain.json", "--precision", "w6.25a8", "--prompts", "prompts.txt", "--no-layer-corrections")
    assert call(*bare, "-o", "bare.schedule.json").code == 0
    tensors = load_file(str(next(Path().glob("bare.*.safetensors"))))
    assert not any(name.endswith(".gain") for name in tensors)
    after = []
    for name in ("small", "bare"):
        measured = load_schedule_file(f"{name}.schedule.json").measured["quantization"]
        assert isinstance(measured, dict)
        after.append(measured["deviation_after"])
    assert after[0] <= after[1], "corrections of layers are taken where they help"
    refused = call("quantize", "plain.json", "--precision", "w2a2", "-o", "x.json")
    assert refused.code == 2
    assert "weights have 4 to 8 bits on average; got 2" in refused.err or "one between like w6.25a8" in refused.err


def test_what_can_not_be_corrected_is_refused_before_a_model_is_loaded(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("steps.json").write_text("[0, 2]")
    assert (
        call("import", "steps.json", "--as", "steps", "--model", "mini-flux", "--steps", 4, "-o", "plain.json").code
        == 0
    )
    file = load_schedule_file("plain.json")
    save_schedule_file("none.json", replace(file, schedule=Schedule(n_steps=file.schedule.n_steps)))
    monkeypatch.setattr(table_file, "load_model", None)
    refused = call("correct", "none.json", "-o", "x.json")
    assert refused.code == 2
    assert "needs a schedule that reuses something" in refused.err
