import io

import numpy as np
import pytest
from PIL import Image

from autotune.reports.sample_grid import LARGE_WIDTH, SampleRow, draw_samples, read_sheet


def png(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_small_sheets_are_enlarged_pixel_by_pixel() -> None:
    data = png(64, 32)
    sheet = read_sheet(data)
    assert sheet is not None
    assert sheet.size == (256, 128)
    original = np.asarray(Image.open(io.BytesIO(data)))
    assert (np.asarray(sheet)[2::4, 2::4] == original).all()


def test_large_sheets_are_reduced_in_proportion() -> None:
    sheet = read_sheet(png(3200, 400))
    assert sheet is not None
    assert sheet.size == (LARGE_WIDTH, 200)


@pytest.mark.parametrize("data", [None, b"", b"no image", png(64, 32)[:200], png(64, 32)[:40] + b"\0" * 500])
def test_a_missing_or_broken_sheet_is_none(data: bytes | None) -> None:
    assert read_sheet(data) is None


def test_rows_without_images_say_so() -> None:
    figure = draw_samples(
        [SampleRow(title="default run", image=None), SampleRow(title="fast", image=read_sheet(png(64, 32)))]
    )
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["not available"]
