"""The guidance scale of a run, told from its first step where the pipeline does not say what it was called with."""

import torch

from autotune.evaluators.branch_store import first_half, second_half


def measured_scale(output: torch.Tensor, combined: torch.Tensor, *, rescaled: bool = False) -> float | None:
    """The s of combined = u + s (c - u), by least squares; None where the branches u and c are equal.

    Args:
        output: of the network, [u; c] (2 n, channels, ...), or (n, channels, ...) without guidance, where s is 1.
        combined: what the pipeline makes of it, (n, channels or fewer, ...).
        rescaled: whether every token, a vector along the last axis, is that times a number of its own.
    """
    if output.shape[0] == combined.shape[0]:
        return 1.0
    u, c = (half[:, : combined.shape[1]].double() for half in (first_half(output), second_half(output)))
    difference, made = c - u, combined.double()
    power = float(difference.square().sum())
    if not power:
        return None
    if not rescaled:
        return float(((made - u) * difference).sum()) / power
    # k u + k s (c - u), by least squares in each token.
    uu, ud, dd, gu, gd = (
        (a * b).sum(dim=-1)
        for a, b in ((u, u), (u, difference), (difference, difference), (made, u), (made, difference))
    )
    return float(((gd * uu - gu * ud) / (gu * dd - gd * ud)).nanmedian())
