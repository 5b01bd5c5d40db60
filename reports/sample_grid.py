"""Samples of the default run beside those of the picks: one row per prompt, same seed, the worst prompt first."""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from autotune.reports import palette
from autotune.reports.figure_text import number_text
from autotune.spaces.error_scale import ErrorScale, error_scale
from autotune.spaces.study_record import Candidate, StudyRecord
from autotune.spaces.worst_prompts import INDICES_CHUNK, worst_first

SMALL_HEIGHT = 64
LARGE_WIDTH = 1600
WIDTH_INCHES = 8.6
LINE, GAP = 0.16, 0.06
"""Inches of a line of text, and between images."""
MAX_CAPTION = 90
"""Characters of a prompt in the figure; the page shows all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A contact sheet, and the places of its images' prompts among the held-out ones; () if they are the first."""

    picture: Image.Image
    indices: tuple[int, ...] = ()

    def tiles(self, aspect: float) -> dict[int, Image.Image]:
        """Its images by prompt; `aspect` is the width of one over its height."""
        images = cut_sheet(self.picture, aspect)
        return dict(zip(self.indices or range(len(images)), images, strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleColumn:
    """A schedule of the grid: its contact sheet, None where it was not kept or can't be read.

    `errors` holds a value per held-out prompt in their order, and is empty where they were not measured. `compared`
    says that the schedule is a pick, whose worst prompts come first.
    """

    title: str
    sheet: Sheet | None
    errors: tuple[float, ...]
    compared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image and its error; None where there is none."""

    image: Image.Image | None
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """One prompt and seed: a sample per column. `rank` counts from 1, the worst, among all held-out prompts."""

    prompt: str | None
    rank: int | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGrid:
    """The rows to show, and how many held-out prompts there are; the sheets hold some of them."""

    titles: tuple[str, ...]
    rows: tuple[PromptRow, ...]
    n_prompts: int


def sample_columns(
    baseline: Candidate | None, picks: Mapping[str, Candidate], sheets: Mapping[str, Sheet | None]
) -> tuple[SampleColumn, ...]:
    """The default run's column, then one per distinct pick; `sheets` are by schedule hash."""
    titles: dict[str, str] = {}
    chosen = {c.schedule_hash: c for c in (*([baseline] if baseline else []), *picks.values())}
    if baseline is not None:
        titles[baseline.schedule_hash] = "default run"
    for name, candidate in picks.items():
        key = candidate.schedule_hash
        titles[key] = f"{titles[key]} = {name}" if key in titles else name
    picked = {candidate.schedule_hash for candidate in picks.values()}
    columns = []
    for key, title in titles.items():
        evaluation = chosen[key].held_out
        measurement = None if evaluation is None else evaluation.measurement
        errors = () if measurement is None else measurement.errors
        columns.append(SampleColumn(title=title, sheet=sheets.get(key), errors=errors, compared=key in picked))
    return tuple(columns)


def make_grid(columns: Sequence[SampleColumn], record: StudyRecord) -> SampleGrid:
    """The sheets cut into images, as rows of prompts; of all picks the largest error decides which is worst."""
    alike = error_scale(record).is_share  # what fails fails, so that there is a first episode, but no worst one
    aspect = 1.0 if alike else record.condition.width / record.condition.height  # pictures of episodes are square
    tiles = [{} if c.sheet is None else c.sheet.tiles(aspect) for c in columns]
    order = worst_first([c.errors for c in columns if c.compared and c.errors])
    ranks = {prompt: rank for rank, prompt in enumerate(order, 1)}
    named = record.settings.get("held_out")
    prompts = [str(prompt) for prompt in named] if isinstance(named, list | tuple) else []
    shown = {prompt for images in tiles for prompt in images}
    rows = [
        PromptRow(
            prompt=prompts[i] if i < len(prompts) else None,
            rank=None if alike else ranks.get(i),
            samples=tuple(
                Sample(
                    image=images.get(i),
                    error=column.errors[i] if i < len(column.errors) else None,
                )
                for column, images in zip(columns, tiles, strict=True)
            ),
        )
        for i in sorted(shown, key=lambda i: (ranks.get(i, len(ranks) + 1), i))
    ]
    titles = tuple(column.title for column in columns)
    return SampleGrid(titles=titles, rows=tuple(rows), n_prompts=max(len(order), len(prompts), len(shown)))


def read_sheet(data: bytes | None) -> Sheet | None:
    """The contact sheet of PNG bytes, or None if unreadable; small ones are enlarged fourfold, huge ones reduced."""
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as file:
            picture, named = file.convert("RGB"), str(file.info.get(INDICES_CHUNK, ""))
        indices = tuple(int(index) for index in named.split(",")) if named else ()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # Pillow reports a broken PNG by any of these
    if picture.height <= SMALL_HEIGHT:
        picture = picture.resize((picture.width * 4, picture.height * 4), Image.Resampling.NEAREST)
    elif picture.width > LARGE_WIDTH:
        height = max(1, round(picture.height * LARGE_WIDTH / picture.width))
        picture = picture.resize((LARGE_WIDTH, height), Image.Resampling.LANCZOS)
    return Sheet(picture=picture, indices=indices)


def cut_sheet(sheet: Image.Image, aspect: float) -> list[Image.Image]:
    """The images of a sheet side by side; `aspect` is the width of one over its height."""
    n_images = max(1, round(sheet.width / (sheet.height * aspect)))
    edges = [round(i * sheet.width / n_images) for i in range(n_images + 1)]
    return [sheet.crop((left, 0, right, sheet.height)) for left, right in itertools.pairwise(edges)]


def data_uri(image: Image.Image) -> str:
    """The image as a PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_samples(grid: SampleGrid, scale: ErrorScale) -> Figure:
    """The grid as a figure: prompts in two columns if there is room, each a row of images under its text."""
    if not grid.rows:
        figure = Figure(figsize=(8.6, 0.6))
        figure.text(0.5, 0.5, "No samples were kept.", ha="center", va="center")
        return figure
    across = 2 if len(grid.titles) <= 4 and len(grid.rows) > 1 else 1
    first = next(s.image for row in grid.rows for s in row.samples if s.image is not None)
    width = WIDTH_INCHES / across
    tile = (width - GAP) / len(grid.titles)
    tall = (tile - GAP) * first.height / first.width
    height = tall + 2 * LINE + GAP
    figure = Figure(figsize=(WIDTH_INCHES, height * -(-len(grid.rows) // across)))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches, from the top left
    axes.set_axis_off()
    for i, row in enumerate(grid.rows):
        left, top = i % across * width + GAP, i // across * height + GAP / 2
        text = caption(row, grid.n_prompts, MAX_CAPTION // across)
        axes.text(left, top + LINE / 2, text, fontsize=7.5, va="center")
        for j, (title, sample) in enumerate(zip(grid.titles, row.samples, strict=True)):
            x, y = left + j * tile, top + 2 * LINE
            text = f"{title}  {sample_text(sample, scale)}".rstrip()
            axes.text(x, y - LINE / 2, text, fontsize=6.5, va="center", color=palette.light("soft"))
            _draw_sample(axes, sample, (x, x + tile - GAP, y + tall, y))
    axes.set_xlim(0, WIDTH_INCHES)
    axes.set_ylim(height * -(-len(grid.rows) // across), 0)
    axes.set_aspect("auto")
    return figure


def sample_text(sample: Sample, scale: ErrorScale) -> str:
    """An image's error in a word: its deviation, or how its episode ended; "" where there is none."""
    if sample.error is None:
        return ""
    if scale.is_share:
        return "fails" if sample.error > 0.5 else "succeeds"
    return number_text(scale.metric, sample.error)


def caption(row: PromptRow, n_prompts: int, most: int = 10_000) -> str:
    """A prompt's text, cut after `most` characters, and its rank."""
    text = row.prompt or "prompt unknown"
    text = text if len(text) <= most else text[: most - 1].rstrip() + "…"
    return text if row.rank is None else f"{text} ({rank_text(row.rank, n_prompts)})"


def rank_text(rank: int, n_prompts: int) -> str:
    """`worst of 16`, `3rd worst of 16`."""
    if rank == 1:
        return f"worst of {n_prompts}"
    ending = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending} worst of {n_prompts}"


def _draw_sample(axes: Axes, sample: Sample, extent: tuple[float, float, float, float]) -> None:
    """An image, or that there is none, between left, right, bottom and top."""
    left, right, bottom, top = extent
    if sample.image is None:
        axes.text((left + right) / 2, (bottom + top) / 2, "not available", ha="center", va="center",
                  color=palette.light("soft"), fontsize=7)  # fmt: skip
    else:
        axes.imshow(np.asarray(sample.image), interpolation="nearest", extent=extent)
