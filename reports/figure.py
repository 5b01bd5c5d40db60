"""Figures to bytes: the same drawing gives the same PNG and SVG, whatever the reader's matplotlib settings are."""

import io
import re
from collections.abc import Callable
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One drawing in three forms: SVG text for wide and for narrow pages, and a PNG on white."""

    wide: str
    narrow: str
    png: bytes


def render(name: str, draw: Draw) -> Rendered:
    """The figure that `draw` makes; `name` keeps the ids of several SVGs on one page apart."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        mpl.rcParams["svg.hashsalt"] = name
        figure = draw(False)
        wide = _svg(figure, f"{name}-w")
        figure.set_layout_engine("none")  # it is laid out now, and laying it out again takes as long as drawing it
        return Rendered(wide=wide, narrow=_svg(draw(True), f"{name}-n"), png=_png(figure))


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
