"""What the fits of tables share: prompts to fit on and to hold out, batches, and who runs a schedule."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.trace import Watcher
from autotune.spaces.cache_correction import PairMoments
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule

Run = Callable[[Schedule, Fidelity, Watcher | None, AppliedTables | None], torch.Tensor]
"""Executes a schedule on a fidelity and gives the final latents (n, ...); somebody may look on, tables may be given."""


MIN_SPLIT = 4
"""Fewer prompts are all fitted on, and held out as well."""


def split(fidelity: Fidelity) -> tuple[Fidelity, Fidelity]:
    """Prompts to fit on, and the last quarter, held out; fewer than `MIN_SPLIT` are both."""
    n, n_held_out = len(fidelity.prompts), len(fidelity.prompts) // MIN_SPLIT
    return (fidelity.first(n - n_held_out), fidelity.after(n - n_held_out)) if n_held_out else (fidelity, fidelity)


def batches(fidelity: Fidelity, batch_size: int, stop: Callable[[], bool]) -> Iterator[Fidelity]:
    """A fidelity in parts of at most a batch.

    Raises:
        ScheduleError: `stop` says that the time is over.
    """
    for first in range(0, len(fidelity.prompts), batch_size):
        if stop():
            raise ScheduleError("the time does not suffice to fit a table; give it more")
        rest = fidelity.after(first)
        yield rest.first(min(batch_size, len(rest.prompts)))


def mean_deviation(latents: torch.Tensor, target: torch.Tensor) -> float:
    """The deviation of final latents from the reference's, averaged over prompts."""
    return float(np.mean(score_deviation(latents, target)))


def pair_moments(x: torch.Tensor, y: torch.Tensor) -> PairMoments:
    """The sums over pairs of rows (n, channels), in float64."""
    x, y = x.double(), y.double()
    sums = torch.stack([x, y, x * x, x * y, y * y]).sum(dim=1).cpu().numpy()
    return PairMoments(float(len(x)), *sums)
