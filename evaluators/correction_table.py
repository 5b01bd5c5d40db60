"""The table of the column `cache_correction`: per site the calls that are corrected, with scales and shifts.

Site i of the inventory has `i.calls` (n_calls,), and for tensor k of its value `i.k.scale` and `i.k.shift`, both
(n_calls, channels). Those of the network's output begin with `output`. A history correction has `output.calls`,
`output.refreshes` (n_calls,), how many each call looks back to, and `output.history` (n_calls, channels, k): weights of
the output, the latents, outputs and latents of refreshes, newest first, and of 1; 0 stands for a missing refresh.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from autotune.evaluators.schedule_table import FORMAT, HISTORY_FORMAT, Tensors, read_table
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, ChannelAffine
from autotune.spaces.channel_mix import N_REFRESHES, ChannelMix
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

COLUMN = "cache_correction"

_N_WEIGHTS = 3 + 2 * N_REFRESHES


def correction_tensors(correction: CacheCorrection) -> dict[str, np.ndarray]:
    """The tensors of the table, float32."""
    by_site: dict[int, dict[int, tuple[ChannelAffine | None, ...]]] = defaultdict(dict)
    for (call, column), lines in sorted(correction.cells.items()):
        by_site[column][call] = lines
    tensors = {}
    for number, rows in by_site.items():
        site = "output" if number == OUTPUT else str(number)
        tensors[f"{site}.calls"] = np.array(list(rows), np.int32)
        for k, parts in enumerate(zip(*rows.values(), strict=True)):
            width = next((len(line.scale) for line in parts if line is not None), None)
            if width is not None:
                same = ChannelAffine(np.ones(width), np.zeros(width))
                full = [same if line is None else line for line in parts]
                tensors[f"{site}.{k}.scale"] = np.stack([line.scale for line in full]).astype(np.float32)
                tensors[f"{site}.{k}.shift"] = np.stack([line.shift for line in full]).astype(np.float32)
    return tensors | _history_tensors(correction.history)


def table_format(correction: CacheCorrection) -> str:
    """The format of its table."""
    return HISTORY_FORMAT if correction.history else FORMAT


def _history_tensors(history: Mapping[int, ChannelMix]) -> dict[str, np.ndarray]:
    if not history:
        return {}
    mixes = [history[call] for call in sorted(history)]
    weights = np.zeros((len(mixes), len(mixes[0].weights), _N_WEIGHTS), np.float32)
    for row, mix in zip(weights, mixes, strict=True):
        row[:, : 2 + 2 * mix.n_refreshes], row[:, -1] = mix.weights[:, :-1], mix.weights[:, -1]
    return {
        "output.calls": np.array(sorted(history), np.int32),
        "output.refreshes": np.array([mix.n_refreshes for mix in mixes], np.int32),
        "output.history": weights,
    }


def read_correction(schedule: Schedule, condition: Condition, tables: Mapping[str, bytes]) -> CacheCorrection | None:
    """The correction that a canonical schedule names; None if it names none.

    Raises:
        ScheduleError: the table is missing or damaged, or does not fit the cache plan.
        ScheduleMismatchError: it was made for something else.
    """
    if schedule.cache_correction is None or schedule.cache is None:
        return None
    tensors = read_table(COLUMN, schedule, condition, tables, (FORMAT, HISTORY_FORMAT))
    actions = schedule.cache.table
    cells: dict[tuple[int, int], tuple[ChannelAffine | None, ...]] = {}
    history: dict[int, ChannelMix] = {}
    n_read = 0
    for name, calls in tensors.items():
        site_text, _, rest = name.partition(".")
        if rest != "calls":
            continue
        n_read += 1
        site = int(site_text) if site_text.isdecimal() else OUTPUT
        known = 0 <= site < schedule.cache.n_sites or site_text == "output"
        if not known or calls.ndim != 1 or calls.dtype.kind != "i":
            raise ScheduleError(_wrong(name, f"a list of calls of one of {schedule.cache.n_sites} sites, or output"))
        rows = [int(call) for call in calls]
        read = (actions if site == OUTPUT else actions[:, [site]]) != CacheAction.RECOMPUTE
        if any(not 0 < call < len(actions) or not read[call].any() for call in rows):
            raise ScheduleError(_wrong(name, "calls in which the column cache reads the site"))
        if site == OUTPUT and "output.history" in tensors:
            history, n_read = _history(tensors, rows), n_read + 2
            continue
        lines: list[list[ChannelAffine] | None] = []
        while f"{site_text}.{len(lines)}.scale" in tensors or f"{site_text}.{len(lines) + 1}.scale" in tensors:
            lines.append(_lines(tensors, f"{site_text}.{len(lines)}", len(rows)))
        n_read += 2 * sum(part is not None for part in lines)
        for i, call in enumerate(rows):
            cells[call, site] = tuple(None if part is None else part[i] for part in lines)
    if n_read != len(tensors):
        raise ScheduleError(f"the table of {COLUMN} has tensors of no site; export the schedule again")
    return CacheCorrection(cells, history)


def _history(tensors: Tensors, rows: list[int]) -> dict[int, ChannelMix]:
    """The mixes of these calls."""
    weights, refreshes = tensors["output.history"], tensors.get("output.refreshes")
    if refreshes is None or refreshes.shape != (len(rows),) or refreshes.dtype.kind != "i":
        raise ScheduleError(_wrong("output.refreshes", f"a number of refreshes for each of {len(rows)} calls"))
    if any(not 1 <= n <= N_REFRESHES for n in refreshes.tolist()):
        raise ScheduleError(_wrong("output.refreshes", f"numbers from 1 to {N_REFRESHES}"))
    if weights.ndim != 3 or weights.shape[0] != len(rows) or weights.shape[2] != _N_WEIGHTS:
        raise ScheduleError(_wrong("output.history", f"{len(rows)} rows of {_N_WEIGHTS} weights for each channel"))
    if weights.dtype != np.float32:
        raise ScheduleError(_wrong("output.history", "numbers of type float32"))
    kept = [[*range(2 + 2 * n), _N_WEIGHTS - 1] for n in refreshes.tolist()]
    return {call: ChannelMix(weights[i][:, kept[i]].astype(np.float64)) for i, call in enumerate(rows)}


def _lines(tensors: Tensors, name: str, n_rows: int) -> list[ChannelAffine] | None:
    if f"{name}.scale" not in tensors:
        return None
    scale, shift = tensors[f"{name}.scale"], tensors.get(f"{name}.shift")
    if shift is None or scale.ndim != 2 or scale.shape != shift.shape or len(scale) != n_rows:
        raise ScheduleError(_wrong(name, f"scale and shift of {n_rows} rows and equally many channels"))
    if scale.dtype != np.float32 or shift.dtype != np.float32:
        raise ScheduleError(_wrong(name, "numbers of type float32"))
    pairs = zip(scale.astype(np.float64), shift.astype(np.float64), strict=True)
    return [ChannelAffine(a, b) for a, b in pairs]


def _wrong(name: str, rule: str) -> str:
    return f"the tensor {name} of the table of {COLUMN} must hold {rule}; export the schedule again"
