"""A row of samples as one picture."""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from autotune.spaces.worst_prompts import INDICES_CHUNK

MAX_HEIGHT = 256
"""Pixels; larger samples are scaled down."""


def make_contact_sheet(images: torch.Tensor, indices: Sequence[int] = ()) -> bytes:
    """PNG of images (n, 3, height, width) in [0, 1] side by side, at most `MAX_HEIGHT` pixels high.

    `indices` are noted in the file: which prompts of a fidelity the images belong to.
    """
    n, _, height, width = images.shape
    row = (images.clamp(0, 1) * 255).round().byte().permute(2, 0, 3, 1).reshape(height, n * width, 3)
    picture = Image.fromarray(row.numpy())
    if height > MAX_HEIGHT:
        picture = picture.resize((n * width * MAX_HEIGHT // height, MAX_HEIGHT), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    text = PngInfo()
    if indices:
        text.add_text(INDICES_CHUNK, ",".join(map(str, indices)))
    picture.save(out, "PNG", pnginfo=text)
    return out.getvalue()
