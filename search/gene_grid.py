"""A schedule's cache and guidance columns as evolution sees them: a table of actions, network call x gene."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.branch_plans import canonical_branch_plans
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.granularity import Granularity
from autotune.spaces.guidance_column import (
    GuidanceAction,
    GuidanceRow,
    canonical_guidance,
    dropped_rows,
    fitted_guidance,
)
from autotune.spaces.inventory import FINAL, STACK, Inventory
from autotune.spaces.schedule import Schedule

Genome = NDArray[np.uint8]
"""A table of `CacheAction`s (n_calls, n_genes)."""

Columns = NDArray[np.intp]

GUIDANCE = MappingProxyType(
    {
        CacheAction.RECOMPUTE: GuidanceAction.BOTH,
        CacheAction.REUSE: GuidanceAction.STORED,
        CacheAction.TAYLOR_1: GuidanceAction.LINEAR,
        CacheAction.TAYLOR_2: GuidanceAction.QUADRATIC,
        CacheAction.HERMITE_1: GuidanceAction.CONDITIONAL,
        CacheAction.HERMITE_2: GuidanceAction.CONDITIONAL,
        CacheAction.NEWTON_2: GuidanceAction.QUADRATIC,
    }
)
"""What the guidance gene means by an action. What reads drops the unconditional branch."""

FITTED = CacheAction.NEWTON_2
"""Of the actions that mean a parabola, the one with fitted weights in its place where the grid can fit some."""

N_GROUPS = 8
"""Runs of blocks at granularity `groups`, at most."""


@dataclass(frozen=True, kw_only=True)
class GeneGrid:
    """The genes of one model's schedules, and their groups.

    `sites` are the inventory's columns that each gene stands for, and with `branches` those of the unconditional branch
    as well, which are numbered on after them; the guidance gene, which is the last one where
    `guided`, has none. `blocks` (in order of first appearance, which is depth) and `components` are groups of genes.
    `leaves` are genes that hold no other. `ancestry` is 1 where the column's gene is around the row's: float32
    (n_genes, n_genes). `reads` are the actions that genes may take besides recompute. `guidance_gram` gives what
    `fitted_guidance` reads, or None; it is asked when a gene means fitted weights, since recording it takes runs.
    """

    inventory: Inventory
    n_calls: int
    sites: tuple[Columns, ...]
    blocks: tuple[Columns, ...]
    components: tuple[Columns, ...]
    leaves: Columns
    ancestry: NDArray[np.float32]
    reads: tuple[CacheAction, ...]
    guided: bool
    branches: bool = False
    guidance_gram: Callable[[], NDArray[np.float64] | None] = lambda: None

    @classmethod
    def of(
        cls,
        inventory: Inventory,
        n_calls: int,
        reads: Sequence[CacheAction] = (CacheAction.REUSE,),
        *,
        granularity: Granularity = Granularity.COMPONENTS,
        guided: bool = False,
        guidance_gram: Callable[[], NDArray[np.float64] | None] = lambda: None,
    ) -> "GeneGrid":
        """The grid of an inventory for a run of `n_calls` network calls.

        Raises:
            ScheduleError: each branch shall have genes of its own, and the run is not guided.
        """
        branches = granularity is Granularity.BRANCHES
        if branches and not guided:
            raise ScheduleError("genes of each branch need classifier-free guidance; choose another granularity")
        sites = _genes(inventory, granularity)
        names = [(inventory.sites[gene[0]].block, inventory.sites[gene[0]].component) for gene in sites]
        above = _ancestry(inventory)
        around = np.array([[above[np.ix_(inner, outer)].max() for outer in sites] for inner in sites], np.float32)
        leaves = np.array([i for i, gene in enumerate(sites) if set(gene) <= set(inventory.leaves)], np.intp)
        if branches:
            sites, names = (*sites, *(gene + len(inventory) for gene in sites)), 2 * names
            around, leaves = np.kron(np.eye(2, dtype=np.float32), around), np.append(leaves, leaves + len(inventory))
        if not len(leaves):
            leaves = np.flatnonzero(around.sum(axis=0) == 0.0)
        if guided:
            sites = (*sites, np.array([], np.intp))
            names.append(("guidance", "guidance"))
            around = np.pad(around, (0, 1))
        return cls(
            inventory=inventory,
            n_calls=n_calls,
            sites=sites,
            blocks=_grouped([block for block, _ in names]),
            components=_grouped([component for _, component in names]),
            leaves=leaves,
            ancestry=around,
            reads=tuple(reads),
            guided=guided,
            branches=branches,
            guidance_gram=guidance_gram,
        )

    @property
    def n_genes(self) -> int:
        """Genes per call."""
        return len(self.sites)

    def schedule(self, genome: Genome, n_steps: int) -> Schedule:
        """What a genome stands for, not yet in canonical form.

        Raises:
            ScheduleError: the guidance gene drops a branch before both have run.
        """
        table = np.zeros((self.n_calls, len(self.inventory) * (1 + self.branches)), np.uint8)
        for gene, sites in enumerate(self.sites):
            table[:, sites] = genome[:, gene, None]
        plans = [CachePlan.from_array(part) for part in np.split(table, 1 + self.branches, axis=1)]
        guidance = self._guidance(genome[:, -1]) if self.guided else None
        other = plans[1] if plans[-1] != plans[0] else None
        return Schedule(n_steps=n_steps, cache=plans[0], unconditional_cache=other, guidance=guidance)

    def _guidance(self, genes: NDArray[np.uint8]) -> tuple[GuidanceRow, ...]:
        column = tuple(GUIDANCE[CacheAction(gene)] for gene in genes)
        fitted = np.flatnonzero(genes == FITTED).tolist()
        gram = self.guidance_gram() if fitted else None
        return column if gram is None else fitted_guidance(column, gram, fitted)

    def genome(self, schedule: Schedule) -> Genome | None:
        """The genome of a canonical schedule's cache and guidance columns; None where no genome stands for them."""
        plan, other, guidance = schedule.cache, schedule.unconditional_cache, schedule.guidance
        if schedule.policy is not None or schedule.tables or (other is not None and not self.branches):
            return None
        if plan is not None and plan.table.shape != (self.n_calls, len(self.inventory)):
            return None
        genome = np.zeros((self.n_calls, self.n_genes), np.uint8)
        if plan is not None:
            table = np.hstack([plan.table, (other or plan).table])
            for gene, sites in enumerate(self.sites):
                if len(sites):  # dead cells of the canonical form are plain reuses, which any other read outranks
                    part = table[:, sites]
                    genome[:, gene] = np.where((part == CacheAction.RECOMPUTE).any(axis=1), 0, part.max(axis=1))
        cells = genome[:, : self.n_genes - self.guided]
        if not np.isin(cells, (CacheAction.RECOMPUTE, *self.reads)).all():
            return None
        for call, row in enumerate(guidance or ()):
            if not self.guided:
                return None
            weighted = isinstance(row, tuple)
            genome[call, -1] = FITTED if weighted else next(gene for gene, meant in GUIDANCE.items() if meant == row)
        meant = self.schedule(genome, schedule.n_steps)
        assert meant.cache is not None
        dropped = np.array(dropped_rows(meant.guidance, self.n_calls))
        caches = canonical_branch_plans(meant.cache, meant.unconditional_cache, dropped, self.inventory)
        column = None if meant.guidance is None else canonical_guidance(meant.guidance)
        return genome if caches == (plan, other) and column == guidance else None


def _genes(inventory: Inventory, granularity: Granularity) -> tuple[Columns, ...]:
    """The sites of each gene, from the outside in and in order of depth."""
    if granularity is Granularity.STEPS:
        return (np.array(inventory.outermost, np.intp),)
    if granularity in (Granularity.COMPONENTS, Granularity.BRANCHES):
        return tuple(np.array([i], np.intp) for i in range(len(inventory)))
    if granularity is Granularity.LEAVES:
        return tuple(np.array([i], np.intp) for i in inventory.leaves)
    around = [i for i, site in enumerate(inventory.sites) if site.component in (FINAL, STACK)]
    names = dict.fromkeys(site.block for i, site in enumerate(inventory.sites) if i not in around)
    blocks = [_outermost_of(name, inventory) for name in names]
    if granularity is Granularity.GROUPS:
        runs = np.array_split(np.arange(len(blocks)), min(N_GROUPS, len(blocks)))
        blocks = [np.concatenate([blocks[i] for i in run]) for run in runs]
    return (*(np.array([i], np.intp) for i in around), *blocks)


def _outermost_of(block: str, inventory: Inventory) -> Columns:
    """The sites of a block that no other site of it is around."""
    sites = inventory.sites
    mine = {i for i, site in enumerate(sites) if site.block == block and site.component not in (FINAL, STACK)}
    return np.array([i for i in sorted(mine) if sites[i].parent not in mine], np.intp)


def _ancestry(inventory: Inventory) -> NDArray[np.float32]:
    """1 where the column's site is an ancestor of the row's (its parent, the parent's parent and so on)."""
    ancestry = np.zeros((len(inventory), len(inventory)), np.float32)
    for i, site in enumerate(inventory.sites):
        parent = site.parent
        while parent is not None:
            ancestry[i, parent] = 1.0
            parent = inventory.sites[parent].parent
    return ancestry


def _grouped(names: list[str]) -> tuple[Columns, ...]:
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return tuple(np.array(columns, np.intp) for columns in groups.values())
