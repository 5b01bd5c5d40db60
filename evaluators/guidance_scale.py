"""The guidance scale of a run, told from its first step where the pipeline does not say what it was called with."""

import torch

from autotune.evaluators.branch_store import first_half, second_half


def measured_scale(output: torch.Tensor, combined: torch.Tensor) -> float | None:
    """The s of combined = u + s (c - u), by least squares; None where the branches u and c are equal.

    Args:
        output: of the network, [u; c] (2 n, channels, ...), or (n, channels, ...) without guidance, where s is 1.
        combined: what the pipeline makes of it, (n, channels or fewer, ...).
    """
    if output.shape[0] == combined.shape[0]:
        return 1.0
    u, c = (half[:, : combined.shape[1]].double() for half in (first_half(output), second_half(output)))
    difference = c - u
    power = float(difference.square().sum())
    return float(((combined.double() - u) * difference).sum()) / power if power else None
