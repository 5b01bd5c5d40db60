"""Whether a model can run on this machine, answered in milliseconds: nothing is loaded or downloaded."""

import importlib.util
import os
import shutil
import subprocess

from autotune.evaluators.model_folder import check_model_folder
from autotune.evaluators.presets import Preset
from autotune.evaluators.resolve import cached_snapshot
from autotune.spaces.errors import ModelNotFoundError

_BYTES_PER_GB = 1e9


def can_run_here(preset: Preset) -> tuple[bool, str]:
    """Whether a study of this model can start now, and the reason in a few words.

    Looked at are the weights (in their folder or in the hub cache) and the rough memory need against the GPU's memory,
    or the machine's where there is no GPU. Memory that can't be found out is taken to be enough.
    """
    folder = preset.source if not isinstance(preset.source, str) else cached_snapshot(preset.source)
    if folder is None:
        return False, f"weights not downloaded (looked for {preset.source} in the hub cache)"
    try:
        check_model_folder(folder)
    except ModelNotFoundError as error:
        return False, f"weights incomplete: {error}"
    if preset.is_policy and importlib.util.find_spec("metaworld") is None:
        return False, "simulator not installed: pip install 'diffusion-autotune[policy]'"
    where, available_gb = _largest_memory()
    # Half precision is widened on a processor, see load_model.
    need_gb = preset.memory_gb * (2 if where == "RAM" and preset.dtype == "float16" else 1)
    if available_gb is not None and need_gb > available_gb:
        return False, f"needs about {need_gb:.0f} GB, {where} has {available_gb:.0f} GB"
    return True, "ready"


def _largest_memory() -> tuple[str, float | None]:
    """Memory in GB of the largest GPU, or of the machine."""
    if command := shutil.which("nvidia-smi"):
        arguments = [command, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(arguments, capture_output=True, text=True, timeout=5, check=True).stdout
            return "GPU", max(float(line) for line in answer.split()) * 2**20 / _BYTES_PER_GB
        except (OSError, subprocess.SubprocessError, ValueError):
            pass  # no driver: the machine's memory counts
    try:
        return "RAM", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _BYTES_PER_GB
    except (AttributeError, ValueError, OSError):
        return "RAM", None
