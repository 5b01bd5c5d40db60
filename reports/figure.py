"""Figures to bytes: the same drawing gives the same PNG and SVG, whatever the reader's matplotlib settings are."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
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

PNG_DPI = 160

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
        wide, narrow = _laid_out(draw(False)), _laid_out(draw(True))
        return Rendered(
            wide=_svg(wide, f"{name}-w"), narrow=_svg(narrow, f"{name}-n"), png=_png(wide),
            wide_places=_places(wide, marked), narrow_places=_places(narrow, marked),
        )  # fmt: skip


def _laid_out(figure: Figure) -> Figure:
    """The figure with its layout made once and kept: saving it would make it twice each time."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    return figure


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
    figure.set_dpi(PNG_DPI)
    figure.set_facecolor(palette.light("paper"))
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _svg(figure: Figure, prefix: str) -> str:
    buffer = io.StringIO()
    empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # Not `savefig`, which draws everything once more before.
    FigureCanvasSVG(figure).print_svg(buffer, metadata=empty)  # type: ignore[no-untyped-call]
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
