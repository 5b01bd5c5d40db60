"""From the name that `--model` takes to the model's default run.

Importing this module loads neither torch nor diffusers.
"""

import dataclasses
import difflib
import re
from pathlib import Path

from huggingface_hub import constants

from autotune.evaluators.model_folder import INDEX, check_model_folder, components, read_json
from autotune.evaluators.presets import PRESETS, Preset
from autotune.spaces.errors import ModelNotFoundError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_USUAL_GUIDANCE = 5.0

POLICY = "mini-policy"
"""The preset whose defaults any policy gets."""

_DENOISERS = ("transformer", "unet")


def resolve_model(name: str) -> Preset:
    """The preset for a preset's name, a folder with `model_index.json`, or a hub id such as `org/name`.

    A preset's name wins over a folder of that name; write `./name` for the folder. Folders, and hub models that are in
    the cache, get defaults from their configuration files; other hub models get them once downloaded.

    Raises:
        ModelNotFoundError: The name is none of these, or the folder is not a complete pipeline.
    """
    if name in PRESETS:
        return PRESETS[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_model_folder(folder)
        return describe_folder(folder.resolve().name, folder.resolve(), folder)
    for preset in PRESETS.values():
        if preset.source == name:
            return preset
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        snapshot = cached_snapshot(name)
        if snapshot is not None and (snapshot / INDEX).is_file():
            return describe_folder(name, name, snapshot)
        return _describe(name, name, "DiffusionPipeline", 1024, {})
    near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ModelNotFoundError(
        f"a model is a preset, a folder in diffusers format, or a hub id such as org/name; got {name!r}, which is no "
        f"folder and no preset: {hint}Presets are {', '.join(PRESETS)}"
    )


def describe_folder(name: str, source: str | Path, folder: Path) -> Preset:
    """Defaults for the pipeline in `folder`: those of the preset with its pipeline class, at its own resolution."""
    index = read_json(folder / INDEX)
    limits: dict[str, int] = {}
    for component in components(index):
        path = folder / component / "tokenizer_config.json"
        length = read_json(path).get("model_max_length") if path.is_file() else None
        if isinstance(length, int):
            limits[component] = length
    return _describe(name, source, str(index.get("_class_name")), _resolution(folder), limits)


def cached_snapshot(hub_id: str) -> Path | None:
    """Folder of the hub cache that holds the main revision of a model, complete or not; None if there is none."""
    repository = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def _describe(name: str, source: str | Path, pipeline_class: str, resolution: int, limits: dict[str, int]) -> Preset:
    if pipeline_class == PRESETS[POLICY].pipeline_class:
        return dataclasses.replace(PRESETS[POLICY], name=name, source=source, description=f"policy from {source}")
    like = next((p for p in PRESETS.values() if not p.is_local and p.pipeline_class == pipeline_class), None)
    call_kwargs = dict(like.call_kwargs) if like else {}
    # Only the T5 encoder's length is an argument; it is the second tokenizer of FLUX, the third of SD3.
    limit = limits[max(limits)] if limits else None
    length = call_kwargs.get("max_sequence_length")
    if limit is not None and isinstance(length, int):
        call_kwargs["max_sequence_length"] = min(length, limit)
    return Preset(
        name=name,
        source=source,
        pipeline_class=pipeline_class,
        description=f"{pipeline_class} from {source}",
        n_steps=like.n_steps if like else 28,
        guidance_scale=like.guidance_scale if like else _USUAL_GUIDANCE,
        height=resolution,
        width=resolution,
        call_kwargs=call_kwargs,
        dtype=like.dtype if like else "bfloat16",
    )


def _resolution(folder: Path) -> int:
    """Pixels a side that the model was trained at: from the denoiser's `sample_size`, or else the autoencoder's."""
    paths = [folder / name / "config.json" for name in ("vae", *_DENOISERS)]
    configs = {path.parent.name: read_json(path) for path in paths if path.is_file()}
    vae = configs.pop("vae", {})
    channels = vae.get("block_out_channels")
    scale = 2 ** (len(channels) - 1) if isinstance(channels, list) else 8
    for denoiser in configs.values():
        size = denoiser.get("sample_size")
        if isinstance(size, int):
            return size * scale
    size = vae.get("sample_size")
    return size if isinstance(size, int) else 1024
