"""Loading a pipeline with its weights: safetensors only, never code from a model's folder or from the hub."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from transformers.utils import logging as transformers_logging

from autotune.evaluators.hardware import AUTO_DEVICE, choose_device
from autotune.evaluators.model_folder import INDEX, check_model_folder, hash_model_folder, read_json
from autotune.evaluators.policy.pipeline import PolicyPipeline
from autotune.evaluators.presets import PRESETS, Preset
from autotune.evaluators.resolve import cached_snapshot, describe_folder, resolve_model
from autotune.spaces.errors import EvaluatorError, ModelNotFoundError, UsageError

__all__ = ["LoadedModel", "load_model", "resolve_model"]

PROBE_S = 4.0
"""How long to wait for the hub's answer before a download is tried; its client would retry for minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A warm pipeline in evaluation mode, without gradients.

    `revision` is the hub's commit, or for a folder a SHA-256 over its configuration and weights.
    """

    preset: Preset
    pipe: Any
    revision: str


def load_model(name: str, *, device: str | torch.device = AUTO_DEVICE, dtype: str | None = None) -> LoadedModel:
    """The pipeline that `name` stands for (see `resolve_model`), on `device` (by default see `choose_device`).

    `dtype` is `float32`, `bfloat16` or `float16`; None takes the preset's, but float32 for float16 on a processor,
    where half precision is slow and partly missing. A hub model comes from the hub cache if it is there, else it is
    downloaded.

    Raises:
        ModelNotFoundError: The weights can't be had; the message says what was looked for.
        UsageError: The device or the dtype does not exist here.
        EvaluatorError: The weights do not fit into the device's memory.
    """
    target = choose_device(device)
    preset, folder, revision = locate_model(name)
    torch_dtype = choose_dtype(dtype or preset.dtype, target, explicit=dtype is not None)
    return LoadedModel(preset=preset, pipe=_load_pipeline(folder, torch_dtype, target), revision=revision)


def locate_model(name: str) -> tuple[Preset, Path, str]:
    """The model that `name` stands for, the folder with its files, which are downloaded if need be, and its revision.

    Raises:
        ModelNotFoundError: The files can't be had, or are not complete.
    """
    preset = resolve_model(name)
    if isinstance(preset.source, Path):
        check_model_folder(preset.source)
        return preset, preset.source, hash_model_folder(preset.source)
    folder = fetch_snapshot(preset.source)
    if preset.name not in PRESETS:
        preset = describe_folder(preset.name, preset.source, folder)
    return preset, folder, folder.name


def fetch_snapshot(hub_id: str) -> Path:
    """Folder of a hub model's files: the cached ones if they are complete, else downloaded ones.

    Raises:
        ModelNotFoundError: Neither is possible; raised within seconds if the hub can't be reached.
    """
    cached = cached_snapshot(hub_id)
    incomplete = ""
    if cached is not None:
        try:
            check_model_folder(cached)
            return cached
        except ModelNotFoundError as error:
            incomplete = f"; the cached copy is incomplete: {error}"
    try:
        HfApi().model_info(hub_id, timeout=PROBE_S)
        folder = Path(DiffusionPipeline.download(hub_id, use_safetensors=True))
    except Exception as error:  # the hub client lets its HTTP library's errors through, and changed that library once
        raise ModelNotFoundError(
            f"looked for hub model {hub_id!r} in the cache {constants.HF_HUB_CACHE} and on the hub: "
            f"{short_reason(error)}{incomplete}. Give --model a folder that holds the pipeline, or try "
            "--model mini-flux, which needs no download"
        ) from error
    check_model_folder(folder)
    return folder


def short_reason(error: Exception) -> str:
    """Why the hub gave nothing, in one line."""
    if isinstance(error, GatedRepoError):
        return "it is gated; accept its licence on its page and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or it is private and you are not logged in"
    if isinstance(error, OfflineModeIsEnabled):
        return "it is not cached, and offline mode is switched on (HF_HUB_OFFLINE)"
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"not cached, and the download failed ({first_line})"


def choose_dtype(name: str, device: torch.device, *, explicit: bool) -> torch.dtype:
    """The torch dtype of that name; float32 for float16 on a processor, unless it was asked for by name.

    Raises:
        UsageError: The name is not that of a dtype that models are loaded in.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise UsageError(f"the dtype must be one of {', '.join(dtypes)}; got {name!r}")
    if device.type == "cpu" and name == "float16" and not explicit:
        return torch.float32
    return dtypes[name]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide the libraries' progress bars for a fraction of a second's work, and advice that does not apply."""
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    handlers = logging.getLogger("transformers").handlers

    def is_relevant(record: logging.LogRecord) -> bool:
        return "requires torchvision" not in record.getMessage()

    for library in shown:
        library.disable_progress_bar()
    for handler in handlers:
        handler.addFilter(is_relevant)
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        for handler in handlers:
            handler.removeFilter(is_relevant)


def _load_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    kind = read_json(folder / INDEX).get("_class_name")
    try:
        load: Any = (PolicyPipeline if kind == PolicyPipeline.__name__ else DiffusionPipeline).from_pretrained
        with quietly():
            pipe = load(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelNotFoundError(
            f"a model folder must load with DiffusionPipeline.from_pretrained; {folder}: {reason}. Download or save it "
            "again, or try --model mini-flux"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    try:
        return pipe.to(device)
    except torch.OutOfMemoryError as error:
        raise EvaluatorError(
            f"the weights in {folder} do not fit into the memory of {device}; use a smaller model or dtype"
        ) from error
