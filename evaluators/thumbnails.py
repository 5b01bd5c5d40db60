"""Small copies of the images that scored schedules gave, for contact sheets."""

import torch
from torch.nn.functional import interpolate

from autotune.evaluators.contact_sheet import MAX_HEIGHT
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule

N_KEPT = 16
"""Scored schedules whose thumbnails are kept: a few more than a verification measures."""


class Thumbnails:
    """The images of the last schedules, at most as high as a contact sheet, a byte per value."""

    def __init__(self) -> None:
        self._images: dict[tuple[Schedule, str], torch.Tensor] = {}

    def keep(self, schedule: Schedule, fidelity: Fidelity, images: torch.Tensor) -> None:
        """Keep small copies of images (n, 3, height, width) in [0, 1]."""
        height, width = images.shape[2:]
        if height > MAX_HEIGHT:
            size = (MAX_HEIGHT, max(1, round(width * MAX_HEIGHT / height)))
            images = interpolate(images, size=size, mode="bilinear", antialias=True)
        self._images.pop((schedule, fidelity.hash), None)
        self._images[schedule, fidelity.hash] = (images.clamp(0, 1) * 255).round().byte()
        if len(self._images) > N_KEPT:
            del self._images[next(iter(self._images))]

    def of(self, schedule: Schedule, fidelity: Fidelity) -> torch.Tensor | None:
        """What was kept, (n, 3, height, width) in [0, 1]; None if nothing was, or it is gone."""
        kept = self._images.get((schedule, fidelity.hash))
        return None if kept is None else kept / 255

    def __len__(self) -> int:
        return len(self._images)

    @property
    def n_bytes(self) -> int:
        """Bytes of what is kept."""
        return sum(kept.untyped_storage().nbytes() for kept in self._images.values())
