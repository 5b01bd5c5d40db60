"""BAC (Ji et al. 2026, arXiv 2506.13456): every residual branch is refreshed in calls of its own."""

import functools
from collections.abc import Iterator, Sequence

from autotune.search.planned import PlannedSearcher
from autotune.search.searcher import SearchContext
from autotune.search.seed_queue import Seed
from autotune.spaces.adaptive_caching import ScoreForm, adaptive_refreshes
from autotune.spaces.blockwise_plan import blockwise_plan, refreshed_share, refreshes_to_fresh
from autotune.spaces.branch_tables import BranchTables, Metric
from autotune.spaces.bubbling_union import bubbling_union, most_volatile
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.schedule import Schedule

SHARES = (0.10, 0.07, 0.20, 0.05, 0.14, 0.03, 0.30, 0.40, 0.50)
"""Refreshes of a branch, before the union, over the network calls: 5 to 20 of 100 in the paper."""

FEWEST = 2
"""Refreshes, at least."""

UNIONS = (5, 3, 0)
"""Numbers of volatile branches: 5 in the paper's simulations, 3 on its robot, and no union."""

PLANNERS: tuple[tuple[ScoreForm, Metric], ...] = (
    ("anchored", "cosine"),
    ("adjacent", "cosine"),
    ("anchored", "l1"),
    ("anchored", "mse"),
    ("anchored", "l2"),
    ("anchored", "wasserstein"),
)


class BacSearcher(PlannedSearcher):
    """Goes through BAC's plans: scores and metrics, numbers of volatile branches, numbers of refreshes.

    Nothing where the context has no branch tables.
    """

    family = "bac"

    def _candidates(self) -> Iterator[Seed]:
        return bac_seeds(self._context)


def bac_seeds(context: SearchContext) -> Iterator[Seed]:
    """The plans of `bac_schedules` by tables that are measured when the first is asked for; none without tables."""
    if context.branch_tables is not None and context.n_calls >= 3:
        yield from bac_schedules(context, context.branch_tables())


def bac_schedules(
    context: SearchContext, tables: BranchTables, *, counts: Sequence[int] | None = None, force_last: bool = False
) -> Iterator[Seed]:
    """Label and schedule of each plan, the paper's settings first: anchored cosine, five volatile branches.

    Args:
        context: of a study with three network calls or more.
        tables: of the model's branches.
        counts: numbers of refreshes of a branch before the union, each in 1 .. n_calls - 1; by default of `SHARES`.
        force_last: refresh every branch in the last call too.
    """
    units, n_calls = cache_units(context.inventory), context.n_calls
    if counts is None:
        usual = (min(max(FEWEST, round(share * n_calls)), n_calls - 1) for share in SHARES)
        counts = tuple(dict.fromkeys(usual))

    @functools.cache
    def refreshes(form: ScoreForm, metric: Metric, count: int) -> tuple[tuple[int, ...], ...]:
        return tuple(
            adaptive_refreshes(table, count, metric=metric, form=form, force_last=force_last)
            for table in tables.mean[metric]
        )

    for form, metric in PLANNERS:
        for n_volatile in UNIONS:
            volatile = most_volatile(tables.volatility, n_volatile)
            for count in counts:
                united = bubbling_union(refreshes(form, metric, count), units, volatile)
                plan = blockwise_plan(refreshes_to_fresh(united, n_calls), context.inventory)
                share = refreshed_share(plan, context.inventory).branches
                label = (
                    f"BAC, {count} of {n_calls} calls refreshed, union of {n_volatile}, {form} {metric}, "
                    f"{share:.1%} of the branches' MACs"
                )
                yield label, Schedule(n_steps=context.condition.n_steps, cache=plan)
