"""Peak memory of a run: the device's on a GPU, the process's on a CPU; and whether a run failed for lack of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(slots=True)
class PeakMemory:
    """Peak bytes of a run, the resident model included; 0 where the platform can't tell."""

    bytes: int = 0


@contextlib.contextmanager
def measure_peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Fill in the peak when the block ends: allocated device memory on CUDA, resident set of the process on Linux."""
    peak = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    yield peak
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak.bytes = int(line.split()[1]) * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory was short."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower()
