"""Energy counters: the board's of an NVIDIA GPU, the packages' of a processor. They count all that runs there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autotune.spaces.errors import UsageError

POWERCAP = Path("/sys/class/powercap")

_ANOTHER = "leave energy out of objectives, limits and metrics"


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """A counter in joules that only grows; `source` is `nvml` or `rapl`. Differences of two readings mean something."""

    source: str
    read_j: Callable[[], float]


def make_energy_meter(device: torch.device) -> EnergyMeter:
    """The meter of a device.

    Raises:
        UsageError: there is none, or it can't be read; the message says why.
    """
    if device.type == "cuda":
        return _nvml_meter(device)
    if device.type == "cpu":
        return rapl_meter(POWERCAP)
    raise UsageError(f"energy can be measured on NVIDIA GPUs and Linux processors; got {device}: {_ANOTHER}")


def _nvml_meter(device: torch.device) -> EnergyMeter:
    try:
        import pynvml
    except ImportError as error:
        raise UsageError(
            f"energy of a GPU is read through NVML: pip install 'diffusion-autotune[energy]', or {_ANOTHER}"
        ) from error
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid  # CUDA_VISIBLE_DEVICES changes indices
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (nvml.NVMLError, AttributeError) as error:
        raise UsageError(
            f"the energy counter of {device} must be readable (Volta or later); {error}: {_ANOTHER}"
        ) from error
    return EnergyMeter("nvml", lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3)


def rapl_meter(root: Path) -> EnergyMeter:
    """The sum over the processor packages that Linux's powercap lists under `root`.

    Each counter wraps around after some hundred kilojoules; a wrap between two readings is seen, a second one is not.

    Raises:
        UsageError: there are no counters, or they can't be read.
    """
    packages = sorted(root.glob("intel-rapl:[0-9]*"))  # AMD's too
    packages = [folder for folder in packages if folder.name.count(":") == 1]  # the others are parts of these
    if not packages:
        raise UsageError(f"energy of a processor is read from {root}/intel-rapl:*, and there is none here: {_ANOTHER}")
    try:
        counters = [_RaplCounter(folder) for folder in packages]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the energy counters must be readable; {error}: "
            f"sudo chmod a+r {root}/intel-rapl:*/energy_uj, or {_ANOTHER}"
        ) from error
    return EnergyMeter("rapl", lambda: sum(counter.read_j() for counter in counters))


class _RaplCounter:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj, self._total_uj = self._read(), 0

    def _read(self) -> int:
        return int(self._path.read_text())

    def read_j(self) -> float:
        """Joules since the counter was made."""
        now = self._read()
        self._total_uj += now - self._last_uj if now >= self._last_uj else now + self._range_uj - self._last_uj
        self._last_uj = now
        return self._total_uj / 1e6
