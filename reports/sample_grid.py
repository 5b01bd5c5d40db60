"""The sample grid: the default run's images above those of the picks, same prompts and seeds in every column."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from autotune.reports import palette

SMALL_HEIGHT = 64
LARGE_WIDTH = 1600


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One row of the grid; `image` is None where the images were not kept or can't be read."""

    title: str
    image: Image.Image | None


def read_sheet(data: bytes | None) -> Image.Image | None:
    """The contact sheet of PNG bytes, or None if unreadable; small ones are enlarged fourfold, huge ones reduced."""
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as file:
            sheet = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # Pillow reports a broken PNG by any of these
    if sheet.height <= SMALL_HEIGHT:
        return sheet.resize((sheet.width * 4, sheet.height * 4), Image.Resampling.NEAREST)
    if sheet.width > LARGE_WIDTH:
        height = max(1, round(sheet.height * LARGE_WIDTH / sheet.width))
        return sheet.resize((LARGE_WIDTH, height), Image.Resampling.LANCZOS)
    return sheet


def data_uri(image: Image.Image) -> str:
    """The image as a PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_samples(rows: Sequence[SampleRow]) -> Figure:
    """All rows below each other, each under its title; a row without images says so."""
    figure = Figure(figsize=(8.6, max(0.6, sum(_inches(row) for row in rows))), layout="constrained")
    if not rows:
        figure.text(0.5, 0.5, "No samples: no candidate was measured.", ha="center", va="center")
        return figure
    all_axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[_inches(row) for row in rows])[:, 0]
    for axes, row in zip(all_axes, rows, strict=True):
        axes.set_axis_off()
        axes.set_title(row.title, loc="left", fontsize=9)
        if row.image is None:
            axes.text(0, 0.5, "not available", va="center", color=palette.light("soft"), transform=axes.transAxes)
        else:
            axes.imshow(np.asarray(row.image), interpolation="nearest", aspect="equal")
    return figure


def _inches(row: SampleRow) -> float:
    return 0.6 if row.image is None else 8.3 * row.image.height / row.image.width + 0.35
