"""The table of the column `quantization`: for each layer, by module path, its bits and grids.

The layer L has `L.bits` (2,), of weights and activations, `L.parts` (n_parts,), `L.weight.scale` and `L.weight.zero`
(n_parts, output channels), `L.activation.scale` and `L.activation.zero` (n_calls, n_parts), and, if it is corrected,
`L.gain` and `L.shift` (output channels,).
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from autotune.evaluators.schedule_table import Tensors, read_table
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization
from autotune.spaces.schedule import Schedule

COLUMN = "quantization"

_INTEGER, _FLOAT, _CODE = np.int32, np.float32, np.uint8
_GRIDS = ("weight.scale", "weight.zero", "activation.scale", "activation.zero")
_TYPES: Mapping[str, type[np.generic]] = {
    "bits": _INTEGER,
    "parts": _INTEGER,
    **{name: _FLOAT if name.endswith("scale") else _CODE for name in _GRIDS},
    "gain": _FLOAT,
    "shift": _FLOAT,
}


def quantization_tensors(quantization: Quantization) -> dict[str, np.ndarray]:
    """The tensors of the table."""
    tensors: dict[str, np.ndarray] = {}
    for name, layer in quantization.layers.items():
        own = {
            "bits": [layer.weight_bits, layer.activation_bits],
            "parts": layer.parts,
            "weight.scale": layer.weight.scale,
            "weight.zero": layer.weight.zero,
            "activation.scale": layer.activation.scale,
            "activation.zero": layer.activation.zero,
            "gain": layer.gain,
            "shift": layer.shift,
        }
        tensors |= {f"{name}.{key}": np.asarray(value, _TYPES[key]) for key, value in own.items() if value is not None}
    return tensors


def read_quantization(schedule: Schedule, condition: Condition, tables: Mapping[str, bytes]) -> Quantization | None:
    """The quantization that a canonical schedule names; None if it names none.

    Raises:
        ScheduleError: the table is missing or damaged.
        ScheduleMismatchError: it was made for something else.
    """
    if schedule.quantization is None:
        return None
    by_layer: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in read_table(COLUMN, schedule, condition, tables).items():
        key = next((key for key in _TYPES if name.endswith(f".{key}")), None)
        if key is None or tensor.dtype != _TYPES[key]:
            raise ScheduleError(f"the table of {COLUMN} holds no tensor like {name}; export the schedule again")
        by_layer[name.removesuffix(f".{key}")][key] = tensor
    return Quantization({name: _layer(name, own) for name, own in sorted(by_layer.items())})


def _layer(name: str, own: Tensors) -> LayerQuantization:
    missing = [key for key in ("bits", "parts", *_GRIDS) if key not in own]
    if missing or own["bits"].shape != (2,) or own["parts"].ndim != 1:
        raise ScheduleError(
            f"the table of {COLUMN} must have two bits, parts and grids for each layer; {name} has not: "
            "export the schedule again"
        )
    number = {key: tensor.astype(np.float64) for key, tensor in own.items()}
    try:
        return LayerQuantization(
            weight_bits=int(own["bits"][0]),
            activation_bits=int(own["bits"][1]),
            parts=tuple(int(n) for n in own["parts"]),
            weight=Grid(number["weight.scale"], number["weight.zero"]),
            activation=Grid(number["activation.scale"], number["activation.zero"]),
            gain=number.get("gain"),
            shift=number.get("shift"),
        )
    except ScheduleError as error:
        raise ScheduleError(f"the table of {COLUMN} is damaged at {name}: {error}") from error
