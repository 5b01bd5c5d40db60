"""The kinds of rows that a solver column is made of."""

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.solver_step import SolverStep

SolverRow = SolverStep | MomentumStep | BdiaStep
"""Every kind has `order`, `n_points`, `origin`, `corrector` and `form`."""
