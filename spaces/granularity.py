"""What one gene of a cache schedule decides."""

from enum import StrEnum


class Granularity(StrEnum):
    """What one gene of a call decides."""

    STEPS = "steps"
    """Whether the network runs: a gene stands for the outermost sites."""
    GROUPS = "groups"
    """A run of neighbouring blocks or UNet stages, eight runs in all; the hidden state and the stack besides."""
    BLOCKS = "blocks"
    """One block or stage."""
    LEAVES = "leaves"
    """One leaf, as in ECAD."""
    COMPONENTS = "components"
    """One site: every leaf, and each block, stack and hidden state around them."""
    BRANCHES = "branches"
    """One site of one guidance branch: the conditional branch's genes come first.

    On mini-pixart in 20 calls, with leaves refreshed evenly in 4, 6, 8 or 11, leaving a refresh out of the
    unconditional branch alone brings plain reuses up to 40 % closer. Forecasts are far closer, and those it takes
    farther off than leaving it out of both branches, at 23 of 25 places: guidance multiplies what is wrong with one
    branch alone. Evolution with it came to a held-out hypervolume of .306, .303 and .313 there, with genes of both
    branches to .294, .294 and .316 (120 evaluations on 4 prompts), and hardly any member of its fronts had two plans.
    """
