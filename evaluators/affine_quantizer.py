"""Uniform affine grids: values to codes and back, and the search for the range that loses least."""

import torch

EXPONENT = 2.4
"""Errors are weighed by this power when a range is searched (CacheQuant's L2.4)."""

SHRINKS = tuple(1.0 - 0.01 * i for i in range(0, 80, 2))
"""Parts of the full range that are tried."""


def grid_of(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of the grid over [low, high], widened to hold 0; a range of 0 alone has scale 1, zero 0."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    span = high - low
    scale = torch.where(span > 0.0, span / (2**bits - 1), torch.ones_like(span))
    return scale, (-low / scale).round()


def to_codes(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes, still in floating point; scale and zero point broadcast against the values."""
    return (values / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def on_grid(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """Values as their codes stand for them."""
    return to_codes(values, scale, zero, bits).sub_(zero).mul_(scale)


def search_grid(
    values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The grid of each row whose range, a part of the full one, has the least sum of |x - Q(x)|^2.4.

    Args:
        values: floating point (n_rows, n).
        low: the least of each row (n_rows,).
        high: the greatest.
        bits: of a code.
        weights: how often each value counts (n_rows, n), by default once.

    Returns:
        Scales and zero points, both (n_rows,).
    """
    least = torch.full_like(low, torch.inf)
    scale, zero = grid_of(low, high, bits)
    for shrink in SHRINKS:
        tried = grid_of(shrink * low, shrink * high, bits)
        lost = on_grid(values, tried[0][:, None], tried[1][:, None], bits).sub_(values).abs_().pow_(EXPONENT)
        error = (lost if weights is None else lost.mul_(weights)).sum(dim=1)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero = torch.where(better, tried[0], scale), torch.where(better, tried[1], zero)
    return scale, zero
