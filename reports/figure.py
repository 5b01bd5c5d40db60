"""Figures to bytes: the same drawing gives the same PNG and SVG, whatever the reader's matplotlib settings are."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from autotune.reports import palette

_RC: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,  # a label with two dollar signs is not a formula
    "text.color": palette.light("ink"),
    "axes.labelcolor": palette.light("ink"),
    "axes.edgecolor": palette.light("soft"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "xtick.color": palette.light("soft"),
    "ytick.color": palette.light("soft"),
    "xtick.labelcolor": palette.light("ink"),
    "ytick.labelcolor": palette.light("ink"),
    "grid.color": palette.light("grid"),
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "figure.dpi": 100.0,
}

Draw = Callable[[bool], Figure]
"""Draws a figure; the argument says whether it is for a narrow page (a phone)."""

Places = tuple[tuple[float, float] | None, ...]
"""Where things lie in a figure, in percent from the left and from the top; None outside the frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One drawing in three forms: SVG text for wide and for narrow pages, and a PNG on white.

    The places are those of the data points that `render` was given, in their order.
    """

    wide: str
    narrow: str
    png: bytes
    wide_places: Places = ()
    narrow_places: Places = ()


def render(name: str, draw: Draw, marked: Sequence[tuple[float, float]] = ()) -> Rendered:
    """The figure that `draw` makes; `name` keeps the ids of several SVGs on one page apart.

    `marked` are data points of the figure's first axes that the page wants to know the places of.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        mpl.rcParams["svg.hashsalt"] = name
        figure = draw(False)
        wide = _svg(figure, f"{name}-w")
        figure.set_layout_engine("none")  # it is laid out now, and laying it out again takes as long as drawing it
        small = draw(True)
        narrow = _svg(small, f"{name}-n")
        return Rendered(
            wide=wide, narrow=narrow, png=_png(figure),
            wide_places=_places(figure, marked), narrow_places=_places(small, marked),
        )  # fmt: skip


def _places(figure: Figure, points: Sequence[tuple[float, float]]) -> Places:
    """Of a figure that was drawn."""
    found: list[tuple[float, float] | None] = []
    for point in points:
        axes = figure.axes[0]
        inside = axes.transAxes.inverted().transform(axes.transData.transform(point))
        x, y = figure.transFigure.inverted().transform(axes.transData.transform(point))
        shown = all(-0.001 <= part <= 1.001 for part in inside)
        found.append((round(100.0 * float(x), 2), round(100.0 * (1.0 - float(y)), 2)) if shown else None)
    return tuple(found)


def render_png(draw: Callable[[], Figure]) -> bytes:
    """PNG bytes of the figure that `draw` makes."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        return _png(draw())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor=palette.light("paper"), metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure, prefix: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Matplotlib writes every string that it draws into a comment, and these strings are not ours.
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'(<svg\b[^>]*?) xmlns:xlink="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r"\n\s*", "\n", text)
    return palette.with_page_colours(text)
