"""What a schedule does, call by call: a strip of letters and colours, one row per column of the schedule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from autotune.reports import palette
from autotune.reports.cell_path import runs
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_row import SolverRow

_FORMULAS = {
    "data view in lambda": ("D", "formula-0"),
    "noise view in lambda": ("N", "formula-1"),
    "velocity view in sigma": ("V", "formula-2"),
    "noise view in sigma": ("E", "formula-3"),
    "heavy ball": ("H", "formula-4"),
    "generalized heavy ball": ("G", "formula-5"),
    "BDIA": ("B", "formula-6"),
}
"""`SolverRow.form` -> letter and colour."""

_GUIDANCE = {
    GuidanceAction.BOTH: ("B", "guidance-both", "both branches"),
    GuidanceAction.STORED: ("S", "guidance-stored", "stored difference"),
    GuidanceAction.LINEAR: ("L", "guidance-linear", "linear forecast of it"),
    GuidanceAction.QUADRATIC: ("Q", "guidance-quadratic", "quadratic forecast of it"),
    GuidanceAction.CONDITIONAL: ("C", "guidance-one", "conditional branch only"),
}
_FITTED = ("F", "guidance-fitted", "fitted forecast of it")
"""Of a row with weights: letter, colour, meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripRow:
    """One row of the strip: per call a text (may be empty) and a colour of the palette."""

    name: str
    texts: tuple[str, ...]
    colours: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """A colour of the palette and what it means; no colour for a remark on the letters."""

    colour: str | None
    text: str


def strip_rows(schedule: Schedule) -> tuple[StripRow, ...]:
    """Rows for the columns that the schedule has: time, solver, compensation, guidance."""
    rows = []
    if schedule.time is not None:
        rows.append(_plain("timestep", [f"{t:.0f}" for t in schedule.time]))
    if schedule.solver is not None:
        texts = tuple(f"{_FORMULAS[row.form][0]}{row.order}{_marks(row)}" for row in schedule.solver)
        colours = tuple(_FORMULAS[row.form][1] for row in schedule.solver)
        rows.append(StripRow(name="solver", texts=texts, colours=colours))
    if schedule.compensation is not None:
        rows.append(_plain("rho", [f"{rho:.2f}" for rho in schedule.compensation]))
    if schedule.guidance is not None:
        cells = [_guidance(row) for row in schedule.guidance]
        texts, colours = tuple(cell[0] for cell in cells), tuple(cell[1] for cell in cells)
        rows.append(StripRow(name="guidance", texts=texts, colours=colours))
    return tuple(rows)


def strip_legend(schedule: Schedule) -> tuple[LegendEntry, ...]:
    """What the colours and letters of a schedule's strip mean: those that occur, in a fixed order."""
    entries: list[LegendEntry] = []
    forms = {row.form for row in schedule.solver or ()}
    entries += [
        LegendEntry(colour=colour, text=f"{letter}: {form}")
        for form, (letter, colour) in _FORMULAS.items()
        if form in forms
    ]
    marks = {mark for row in schedule.solver or () for mark in _marks(row)}
    if forms:
        meanings = ["digit: order"]
        meanings += [text for mark, text in (("c", "c: corrected"), ("'", "': from an earlier call")) if mark in marks]
        entries.append(LegendEntry(colour=None, text=", ".join(meanings)))
    used = {_guidance(row) for row in schedule.guidance or ()}
    entries += [
        LegendEntry(colour=colour, text=f"{letter}: {meaning}")
        for letter, colour, meaning in (*_GUIDANCE.values(), _FITTED)
        if (letter, colour, meaning) in used
    ]
    return tuple(entries)


def draw_strip(axes: Axes, strip: Sequence[StripRow], columns: int, narrow: bool) -> None:
    """The rows below each other, one cell per call; an empty strip says that the pipeline's own ways are kept."""
    axes.set_xlim(0, columns)
    axes.set_ylim(max(1, len(strip)), 0)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="both", length=0)
    axes.set_yticks([i + 0.5 for i in range(len(strip))], [row.name for row in strip], fontsize=8)
    if not strip:
        axes.text(columns / 2, 0.5, "the pipeline's own times, solver and guidance", ha="center", va="center",
                  color=palette.light("soft"), fontsize=8)  # fmt: skip
    for i, row in enumerate(strip):
        for colour in sorted(set(row.colours)):
            path = runs(np.array([[c == colour for c in row.colours]]))
            if path is not None:
                path = Path(path.vertices + np.array([0.0, i]), path.codes)
                axes.add_patch(PathPatch(path, fc=palette.light(colour), lw=0))
        _write(axes, row, i, narrow)
    axes.vlines(range(1, columns), 0, max(1, len(strip)), color=palette.light("paper"), lw=0.8 if strip else 0)
    axes.hlines(range(1, len(strip)), 0, columns, color=palette.light("paper"), lw=1.8)


def _write(axes: Axes, row: StripRow, i: int, narrow: bool) -> None:
    """The texts of a row, as far as they fit: of numbers every second one or so, of codes the digit or nothing."""
    texts, coloured = row.texts, set(row.colours) != {"panel"}
    every = _every(texts, narrow)
    if coloured and every > 1:
        texts = tuple(text[1:2] or text for text in texts)
        if _every(texts, narrow) > 1:
            return
        every = 1
    for j in range(0, len(texts), every):
        # A text that runs into the next cells starts in its own.
        x, side = (j + 0.5, "center") if every == 1 else (j + 0.15, "left")
        ink = "paper" if row.colours[j] == "guidance-both" else "ink"
        text = axes.text(x, i + 0.5, texts[j], ha=side, va="center", fontsize=7, color=palette.light(ink))
        text.set_in_layout(False)  # it lies inside, and measuring hundreds of texts takes seconds


def _every(texts: Sequence[str], narrow: bool) -> int:
    """1 if texts of this length all fit side by side, 2 if every second one does, and so on."""
    longest = max((len(text) for text in texts), default=0)
    room = max(1, int((48 if narrow else 108) / (longest + 0.8)))
    return -(-len(texts) // room)


def _marks(row: SolverRow) -> str:
    return "c" * row.corrector + "'" * (row.origin > 0)


def _guidance(row: GuidanceRow) -> tuple[str, str, str]:
    return _FITTED if isinstance(row, tuple) else _GUIDANCE[row]


def _plain(name: str, texts: Sequence[str]) -> StripRow:
    return StripRow(name=name, texts=tuple(texts), colours=("panel",) * len(texts))
