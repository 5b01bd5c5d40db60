import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from autotune.evaluators.contact_sheet import make_contact_sheet
from autotune.reports.sample_grid import (
    LARGE_WIDTH,
    SampleColumn,
    Sheet,
    caption,
    cut_sheet,
    draw_samples,
    make_grid,
    rank_text,
    read_sheet,
)
from autotune.spaces.error_scale import DEVIATIONS
from autotune.spaces.study_record import StudyRecord


def png(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_small_sheets_are_enlarged_pixel_by_pixel() -> None:
    data = png(64, 32)
    sheet = read_sheet(data)
    assert sheet is not None
    assert sheet.picture.size == (256, 128)
    original = np.asarray(Image.open(io.BytesIO(data)))
    assert (np.asarray(sheet.picture)[2::4, 2::4] == original).all()


def test_large_sheets_are_reduced_in_proportion() -> None:
    sheet = read_sheet(png(3200, 400))
    assert sheet is not None
    assert sheet.picture.size == (LARGE_WIDTH, 200)


@pytest.mark.parametrize("data", [None, b"", b"no image", png(64, 32)[:200], png(64, 32)[:40] + b"\0" * 500])
def test_a_missing_or_broken_sheet_is_none(data: bytes | None) -> None:
    assert read_sheet(data) is None


def sheet_of(*levels: int) -> Image.Image:
    """Images of 8 x 8 side by side, each of one grey level."""
    return Image.fromarray(np.repeat(np.repeat([levels], 8, axis=0), 8, axis=1).astype(np.uint8)).convert("RGB")


def column(
    title: str, picture: Image.Image | None, *errors: float, compared: bool = True, indices: tuple[int, ...] = ()
) -> SampleColumn:
    sheet = None if picture is None else Sheet(picture=picture, indices=indices)
    return SampleColumn(title=title, sheet=sheet, errors=errors, compared=compared)


@pytest.fixture
def square(record: StudyRecord) -> StudyRecord:
    return dataclasses.replace(record, settings={"held_out": ["a cat", "a dog", "a ship", "a frog"]})


def test_the_prompt_on_which_a_pick_deviates_most_comes_first_whatever_the_default_run_does(
    square: StudyRecord,
) -> None:
    columns = [
        column("default run", sheet_of(10, 20, 30), 9.0, 0.0, 0.0, 0.0, compared=False),
        column("quality", sheet_of(11, 21, 31), 0.1, 0.3, 0.1, 0.2),
        column("fast", sheet_of(12, 22, 32), 0.2, 0.1, 0.5, 0.9),
    ]
    grid = make_grid(columns, square)
    assert grid.titles == ("default run", "quality", "fast")
    assert [(row.prompt, row.rank) for row in grid.rows] == [("a ship", 2), ("a dog", 3), ("a cat", 4)]
    assert grid.n_prompts == 4  # the worst of all, a frog, has no image
    for row, level, deviation in zip(grid.rows, (30, 20, 10), (0.5, 0.1, 0.2), strict=True):
        shades = [s.image.getpixel((4, 4)) for s in row.samples if s.image is not None]
        assert shades == [(level + i,) * 3 for i in range(3)]
        assert row.samples[2].error == deviation


def test_sheets_say_which_prompts_they_are_of(square: StudyRecord) -> None:
    columns = [
        column("default run", sheet_of(10, 20), compared=False, indices=(1, 3)),
        column("fast", sheet_of(12, 22), 0.2, 0.1, 0.5, 0.9, indices=(2, 3)),
    ]
    grid = make_grid(columns, square)
    assert [(row.prompt, row.rank) for row in grid.rows] == [("a frog", 1), ("a ship", 2), ("a dog", 4)]
    shades = [[s.image and s.image.getpixel((4, 4)) for s in row.samples] for row in grid.rows]
    assert shades == [[(20,) * 3, (22,) * 3], [None, (12,) * 3], [(10,) * 3, None]]


def test_the_prompts_of_a_sheet_stand_in_its_file() -> None:
    sheet = read_sheet(make_contact_sheet(torch.rand(2, 3, 8, 8), (4, 17)))
    assert sheet is not None
    assert list(sheet.tiles(1.0)) == [4, 17]
    unnamed = read_sheet(make_contact_sheet(torch.rand(2, 3, 8, 8)))
    assert unnamed is not None
    assert list(unnamed.tiles(1.0)) == [0, 1]


def test_a_sheet_that_is_not_there_leaves_its_cells_empty(square: StudyRecord) -> None:
    grid = make_grid([column("default run", None, compared=False), column("fast", sheet_of(1, 2), 0.1, 0.2)], square)
    assert [row.samples[0].image for row in grid.rows] == [None, None]
    texts = [text.get_text() for axes in draw_samples(grid, DEVIATIONS).axes for text in axes.texts]
    assert texts.count("not available") == 2
    assert "a dog (worst of 4)" in texts


def test_without_held_out_values_the_prompts_keep_their_order_and_have_no_rank(square: StudyRecord) -> None:
    grid = make_grid([column("fast", sheet_of(1, 2, 3))], square)
    assert [(row.prompt, row.rank) for row in grid.rows] == [("a cat", None), ("a dog", None), ("a ship", None)]


def test_without_sheets_or_prompts_there_is_still_a_figure(square: StudyRecord) -> None:
    empty = make_grid([column("fast", None, 0.1, 0.2)], square)
    assert empty.rows == ()
    assert len(draw_samples(empty, DEVIATIONS).texts) == 1
    unnamed = make_grid([column("fast", sheet_of(1, 2), 0.1, 0.2)], dataclasses.replace(square, settings={}))
    assert caption(unnamed.rows[0], unnamed.n_prompts) == "prompt unknown (worst of 2)"


def test_sheets_are_cut_by_the_shape_of_the_images() -> None:
    wide = Image.new("RGB", (96, 16))
    assert [image.size for image in cut_sheet(wide, 2.0)] == [(32, 16)] * 3
    assert [image.width for image in cut_sheet(Image.new("RGB", (100, 33)), 1.0)] == [33, 34, 33]


def test_ranks_are_ordinals() -> None:
    assert [rank_text(n, 30).split()[0] for n in (1, 2, 3, 4, 11, 12, 13, 21, 22)] == [
        "worst", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd",
    ]  # fmt: skip
