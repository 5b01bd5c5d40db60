"""What a measurement was made on: device, libraries, machine."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from autotune.spaces.errors import UsageError

AUTO_DEVICE = "auto"
_LIBRARIES = ("diffusers", "torch", "transformers")


def choose_device(device: str | torch.device = AUTO_DEVICE) -> torch.device:
    """The torch device of that name; `auto` is the first CUDA device, or the processor where there is none.

    Raises:
        UsageError: the device does not exist here.
    """
    if device == AUTO_DEVICE:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"the device must be {AUTO_DEVICE} or one of this machine; got {str(device)!r} ({reason}): use cpu"
        ) from error
    return target


def device_name(device: torch.device) -> str:
    """The device in words: a GPU's name, or the processor's with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def library_versions() -> tuple[tuple[str, str], ...]:
    """(name, version) of the libraries whose version can change a result or a timing."""
    return tuple((name, importlib.metadata.version(name)) for name in _LIBRARIES)


def describe_machine() -> dict[str, object]:
    """Provenance of a study: processor, cores, memory, accelerators, system, Python and package versions."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(pages / 2**30, 1),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
        "python": platform.python_version(),
        "autotune": importlib.metadata.version("diffusion-autotune"),
        **dict(library_versions()),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
