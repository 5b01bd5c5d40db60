"""A Python file that applies a schedule's columns cache and guidance alone: `cached_pipeline.py` with a plan in it."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.cache_plan import CachePlan, canonical_plan, cell_use
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import (
    GuidanceAction,
    GuidanceRow,
    canonical_guidance,
    dropped_rows,
    guidance_weights,
    n_differences,
)
from autotune.spaces.inventory import BLOCK, FINAL, STACK, Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash

_TEMPLATE = Path(__file__).with_name("cached_pipeline.py")
_FUNCTIONS = Path(__file__).with_name("cached_tensors.py")
_IMPORT = re.compile(r"^from autotune\.reports\.cached_tensors import \([^)]*\)\n\n", re.MULTILINE)
_BEGIN, _END = "# --- plan\n", "# --- end of plan\n"

Terms = tuple[tuple[int, float], ...]
"""A sum of stored values: the row that computed each, newest first, and its weight."""

COPIED = frozenset({"stage", "resnet"})
"""Components whose values others may change in place: `autotune.evaluators.adapters.Adapter.copied` of the UNet."""

TWO_STREAMS = frozenset({"FluxTransformer2DModel", "SD3Transformer2DModel", "QwenImageTransformer2DModel"})
"""Denoisers through whose blocks text and image flow; through those of others the image alone."""


BATCHED = frozenset({"PixArtTransformer2DModel", "SD3Transformer2DModel", "UNet2DConditionModel"})
"""Denoisers that guide in one batch; others are called once per branch: `autotune.evaluators.adapters.Adapter`."""


def diffusers_script(schedule: Schedule, inventory: Inventory, remarks: Sequence[str] = ()) -> str:
    """Source of the file; `remarks` are sentences that are put on top as comments.

    Raises:
        ScheduleError: the schedule neither caches nor leaves out guidance branches, caches each of them by a plan of
            its own, or a call must read a value of the unconditional branch that no call before it makes.
    """
    if schedule.unconditional_cache is not None:
        raise ScheduleError("a script for diffusers has one cache plan for both guidance branches; export as autotune")
    plan = None if schedule.cache is None else canonical_plan(schedule.cache, inventory)
    column = None if schedule.guidance is None else canonical_guidance(schedule.guidance)
    if plan is None and column is None:
        raise ScheduleError(
            "only a schedule that caches, or leaves out guidance branches, makes a script for diffusers; export as "
            "autotune"
        )
    n_calls = len(column) if plan is None and column is not None else plan.n_calls if plan is not None else 0
    letters, reads = _letters(plan, inventory, column) if plan is not None else (np.full((n_calls, 0), ""), {})
    gated = np.flatnonzero((letters != ".").any(axis=0))
    sites = [inventory.sites[i] for i in gated]
    blocks = [site.name for site in inventory.sites if site.component in (BLOCK, "stage")]
    spans = {s.name: blocks if s.component in (FINAL, STACK) else [s.name] for s in sites if s.component in _SPANS}
    streams = ("encoder_hidden_states", "hidden_states")[inventory.denoiser_class not in TWO_STREAMS :]
    name = schedule_hash(canonical_schedule(schedule, inventory))[:12]
    top = [
        f"# The cache and guidance plan of schedule {name}, written by autotune (Apache-2.0).",
        *(f"# Note: {remark}." for remark in remarks),
    ]
    lines = [
        f'DENOISER = "{inventory.denoiser_class}"',
        f"N_STEPS = {schedule.n_steps}",
        f"STREAMS: tuple[str, ...] = {streams}",
        f"COPIED: frozenset[str] = frozenset({sorted(site.name for site in sites if site.component in COPIED)})",
        "SPANS: Mapping[str, tuple[str, ...]] = {",
        *(f'    "{span}": {tuple(modules)},' for span, modules in spans.items()),
        "}",
        "READS: Mapping[str, tuple[Terms, ...]] = {",
        *(f'    "{letter}": {parts},' for parts, letter in reads.items()),
        "}",
        *_tuple_lines("GUIDANCE", "Terms | None", _differences(column or ())),
        f"SEPARATE = {inventory.denoiser_class not in BATCHED}",
        *_tuple_lines("SITES", "str", [site.name for site in sites]),
        *_tuple_lines("ROWS", "str", ["".join(row) for row in letters[:, gated]]),
    ]
    before, rest = _IMPORT.sub("", _TEMPLATE.read_text(encoding="utf-8")).split(_BEGIN)
    after = rest.split(_END)[1]
    functions = "\n\ndef " + _FUNCTIONS.read_text(encoding="utf-8").split("\n\ndef ", 1)[1]
    before = before.replace("import functools\n", "import dataclasses\nimport functools\n")
    return "\n".join(top) + "\n" + before + _BEGIN + "\n".join(lines) + "\n" + _END + after + functions


_SPANS = (FINAL, STACK, BLOCK)


def _letters(
    plan: CachePlan, inventory: Inventory, column: Sequence[GuidanceRow] | None
) -> tuple[np.ndarray, Mapping[tuple[Terms, ...], str]]:
    """What each site does in each call, in the letters of `cached_pipeline.ROWS`: (n_calls, n_sites); and its READS."""
    use = cell_use(plan, inventory)
    letters = np.where(use.called & ~use.runs & ~use.reads, "d", ".")
    dropped = np.array(dropped_rows(column, plan.n_calls))
    unused, reads = _alphabet(), dict[tuple[Terms, ...], str]()
    for row, site in np.argwhere(use.reads).tolist():
        action, order = CacheAction(plan.table[row, site]), int(use.order[row, site])
        made = np.flatnonzero(use.runs[:row, site])
        conditional = _terms(action, made[::-1][: order + 1].tolist(), row)
        parts: tuple[Terms, ...] = (conditional,)
        if column is not None:
            computed = made[~dropped[made]]
            if not dropped[row] and not len(computed):
                raise ScheduleError(
                    f"call {row} reads a value of {inventory.sites[site].name} of which no call before it makes the "
                    "unconditional half, so that a script can't plan it; run both branches in the first call"
                )
            unconditional = () if dropped[row] else _terms(action, computed[::-1][: order + 1].tolist(), row)
            parts = (unconditional, conditional)
        letters[row, site] = reads[parts] if parts in reads else reads.setdefault(parts, next(unused))
    return letters, reads


def _terms(action: CacheAction, computed: Sequence[int], now: int) -> Terms:
    return tuple(zip(computed, forecast_weights(action, computed, now), strict=True))


def _differences(column: Sequence[GuidanceRow]) -> Iterator[Terms | None]:
    """`cached_pipeline.GUIDANCE`."""
    both: list[int] = []
    for i, row in enumerate(column):
        if row is GuidanceAction.BOTH:
            yield None
            both.insert(0, i)
        else:
            computed = both[: n_differences(row)]
            yield tuple(zip(computed, guidance_weights(row, computed, i), strict=True))


def _alphabet() -> Iterator[str]:
    """Letters without end, the plain ones first, but not the one that has a meaning."""
    return (chr(code) for code in itertools.count(ord("A")) if chr(code).isalpha() and chr(code) != "d")


def _tuple_lines(name: str, kind: str, items: Iterator[object] | Sequence[object]) -> list[str]:
    texts = (f'"{item}"' if isinstance(item, str) else repr(item) for item in items)
    return [f"{name}: tuple[{kind}, ...] = (", *(f"    {text}," for text in texts), ")"]
