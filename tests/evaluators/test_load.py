import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from autotune.evaluators.availability import can_run_here
from autotune.evaluators.hardware import choose_device
from autotune.evaluators.load import load_model, resolve_model
from autotune.evaluators.model_folder import hash_model_folder
from autotune.evaluators.presets import PRESETS, ZOO
from autotune.spaces.errors import ModelNotFoundError, UsageError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ZOO / "mini-sd", tmp_path / "my-model"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with every download switched off the way a user would."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def _cache_model(cache: Path, hub_id: str, model: Path) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    return Path(shutil.copytree(model, repository / "snapshots" / "0123abcd"))


@pytest.mark.parametrize("name", ["mini-flux", "mini-pixart", "mini-sd"])
def test_reference_model_loads_for_inference(name: str) -> None:
    model = load_model(name)
    modules = [part for part in model.pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert type(model.pipe).__name__ == model.preset.pipeline_class
    assert not any(module.training for module in modules)
    assert not any(p.requires_grad or p.dtype != torch.float32 for module in modules for p in module.parameters())
    assert model.revision == hash_model_folder(ZOO / name)
    assert len(model.revision) == 64


def test_folder_loads_with_defaults_from_its_configuration(folder: Path) -> None:
    model = load_model(str(folder), dtype="bfloat16")
    assert (model.preset.name, model.preset.height, model.preset.width) == ("my-model", 32, 32)
    assert model.preset.pipeline_class == "StableDiffusionPipeline"
    assert model.preset.guidance_scale == PRESETS["sd15"].guidance_scale
    assert model.pipe.dtype == torch.bfloat16
    assert model.revision == hash_model_folder(ZOO / "mini-sd")


def test_resolution_and_prompt_length_of_a_flux_folder_are_its_own() -> None:
    preset = resolve_model(str(ZOO / "mini-flux"))
    assert (preset.height, preset.call_kwargs["max_sequence_length"]) == (32, 16)


def test_revision_changes_with_one_byte_of_the_weights(folder: Path) -> None:
    before = hash_model_folder(folder)
    path = folder / "unet" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert hash_model_folder(folder) != before


def test_unknown_name_lists_the_presets_and_the_nearest() -> None:
    with pytest.raises(ModelNotFoundError, match=r"did you mean mini-flux") as caught:
        resolve_model("mini-flx")
    assert all(name in str(caught.value) for name in PRESETS)


def test_hub_model_that_cannot_be_had_fails_fast_and_names_what_was_sought(empty_cache: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ModelNotFoundError, match=r"FLUX\.1-dev") as caught:
        load_model("flux")
    assert time.monotonic() - began < 5
    assert str(empty_cache) in str(caught.value)
    assert "--model mini-flux" in str(caught.value)


def test_hub_id_of_a_preset_is_that_preset() -> None:
    assert resolve_model("black-forest-labs/FLUX.1-dev") is PRESETS["flux"]


def test_cached_hub_model_loads_without_the_network_and_knows_its_commit(empty_cache: Path) -> None:
    _cache_model(empty_cache, "someone/tiny-sd", ZOO / "mini-sd")
    model = load_model("someone/tiny-sd")
    assert (model.preset.name, model.revision, model.preset.height) == ("someone/tiny-sd", "0123abcd", 32)


def test_incomplete_cached_hub_model_names_the_missing_part(empty_cache: Path) -> None:
    snapshot = _cache_model(empty_cache, "someone/tiny-sd", ZOO / "mini-sd")
    (snapshot / "unet" / WEIGHTS).unlink()
    with pytest.raises(ModelNotFoundError, match=r"cached copy is incomplete.*unet"):
        load_model("someone/tiny-sd")


def _remove_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _break_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{ not json")


def _truncate_weights(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:100_000])


def _remove_weights(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).unlink()


def _pickle_weights(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def _remove_component(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")


def _break_configuration(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("[1, 2]")


def _lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _plant_code(folder: Path) -> None:
    (folder / "unet" / "diffusers.py").write_text("raise SystemExit")


def _name_a_foreign_library(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["subprocess", "Popen"]}))


def _name_an_unknown_pipeline(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "NoSuchPipeline"}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_remove_index, r"model_index\.json is missing"),
        (_break_index, r"model_index\.json must be readable JSON"),
        (_truncate_weights, r"unet/diffusion_pytorch_model\.safetensors must be a whole"),
        (_remove_weights, r"vae has none"),
        (_pickle_weights, r"unet/diffusion_pytorch_model\.bin is a pickle"),
        (_remove_component, r"text_encoder has none"),
        (_break_configuration, r"unet/config\.json must hold a JSON object"),
        (_lose_a_shard, r"model-00001-of-00002\.safetensors"),
        (_plant_code, r"unet/diffusers\.py"),
        (_name_a_foreign_library, r"'unet' from 'subprocess'"),
        (_name_an_unknown_pipeline, r"NoSuchPipeline"),
    ],
)
def test_damaged_folder_is_one_clear_error(folder: Path, damage: object, named: str) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(ModelNotFoundError, match=named):
        load_model(str(folder))


def test_device_and_dtype_that_do_not_exist_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="'toaster'"):
        load_model("mini-sd", device="toaster")
    with pytest.raises(UsageError, match="float32, bfloat16, float16"):
        load_model("mini-sd", dtype="int4")


@pytest.mark.parametrize("there_is_one", [False, True])
def test_the_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there_is_one: bool) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    monkeypatch.setattr(torch, "empty", lambda *size, device: asked.append(device))
    device = choose_device()
    assert device.type == ("cuda" if there_is_one else "cpu")
    assert asked == [device]


def test_list_says_what_can_run_here_and_why_not(empty_cache: Path) -> None:
    assert can_run_here(PRESETS["mini-flux"]) == (True, "ready")
    runs, reason = can_run_here(PRESETS["sdxl"])
    assert not runs
    assert "stabilityai/stable-diffusion-xl-base-1.0" in reason
