"""An episode as a small picture: the table from above, the ways of hand and object, and the goal."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from autotune.evaluators.policy.simulator import GOAL, HAND, OBJECT

SIZE = 128
"""Pixels of a side."""

_LEFT, _NEAR, _SPAN = -0.45, 0.3, 0.9
"""The part of the table that is shown, in metres: x from `_LEFT` to the right, y from `_NEAR` upwards."""


def draw_path(observed: NDArray[np.float32], success: float) -> torch.Tensor:
    """Picture (3, SIZE, SIZE) in [0, 1] of what was observed (n, OBSERVATION_DIM); framed in red if the episode failed.

    The hand is blue, the object orange, the goal a black cross; where they end is a dot.
    """
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    goal_x, goal_y = _pixels(observed[-1:, GOAL])[0]
    draw.line((goal_x - 4, goal_y, goal_x + 4, goal_y), fill="black")
    draw.line((goal_x, goal_y - 4, goal_x, goal_y + 4), fill="black")
    for part, colour in ((OBJECT, "#d9822b"), (HAND, "#2b6cb0")):
        points = _pixels(observed[:, part])
        draw.line(points, fill=colour, width=2)
        x, y = points[-1]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    draw.rectangle((0, 0, SIZE - 1, SIZE - 1), outline="#2f855a" if success else "#c53030", width=2)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _pixels(positions: NDArray[np.float32]) -> list[tuple[float, float]]:
    scale = SIZE / _SPAN
    return [((x - _LEFT) * scale, SIZE - (y - _NEAR) * scale) for x, y in positions[:, :2].tolist()]
