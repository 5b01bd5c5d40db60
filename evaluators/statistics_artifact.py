"""Empirical statistics as a file: safetensors with l, s, b and the lambda grid, and the condition they belong to."""

import json
import struct

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from autotune.evaluators.reference import ArtifactCache
from autotune.spaces.empirical_statistics import EmpiricalStatistics
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError

FORMAT = "dpm-v3-statistics-1"
_NAMES = ("lam", "l", "s", "b")


def statistics_name(condition_hash: str, *, n_samples: int, n_levels: int) -> str:
    """The name that statistics of a condition are kept under."""
    return f"statistics/{n_samples}/{n_levels}/{condition_hash}"


def save_statistics(artifacts: ArtifactCache, name: str, statistics: EmpiricalStatistics, condition_hash: str) -> None:
    """Keep statistics under `name`; the tables in float32, the grid in float64."""
    tensors = {key: getattr(statistics, key).astype(np.float64 if key == "lam" else np.float32) for key in _NAMES}
    artifacts.save(name, save(tensors, {"format": FORMAT, "condition": condition_hash}), "statistics")


def load_statistics(artifacts: ArtifactCache, name: str, condition_hash: str) -> EmpiricalStatistics | None:
    """The statistics kept under `name`; None if there are none.

    Raises:
        ScheduleMismatchError: they were fitted under another condition.
        ScheduleError: the file is damaged, of another format, or breaks a rule of `EmpiricalStatistics`.
    """
    data = artifacts.load(name)
    return None if data is None else parse_statistics(data, condition_hash)


def parse_statistics(data: bytes, condition_hash: str) -> EmpiricalStatistics:
    """The statistics in the bytes of a file; errors as for `load_statistics`."""
    try:
        tensors = load(data)
        (length,) = struct.unpack("<Q", data[:8])  # safetensors: the header's length, then the header
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except SafetensorError as error:
        raise ScheduleError(f"statistics must be a safetensors file ({error}); fit them again") from error
    if header.get("format") != FORMAT or set(tensors) != set(_NAMES):
        raise ScheduleError(
            f"statistics must have the format {FORMAT} and the tensors {', '.join(_NAMES)}; got "
            f"{header.get('format')!r} and {', '.join(sorted(tensors))}; fit them again"
        )
    if header.get("condition") != condition_hash:
        raise ScheduleMismatchError(
            f"statistics fit one condition; they were fitted under {str(header.get('condition'))[:12]}, this is "
            f"{condition_hash[:12]}; fit them again for it"
        )
    return EmpiricalStatistics(**tensors)
