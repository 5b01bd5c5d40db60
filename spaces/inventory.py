"""The cacheable sites of a denoiser, in the order in which a cache plan's columns stand."""

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from autotune.spaces.errors import ScheduleError
from autotune.spaces.site_tree import SiteTree

FINAL = "final"
"""Component of the site that stands for the hidden state after the last block or stage, as it is."""

STACK = "stack"
"""Component of the site that stands for what all blocks together add to the hidden state."""

BLOCK = "block"
"""Component of a site that stands for what one block adds."""


class Relation(StrEnum):
    """How a site's value reaches the rest of the network when another site, its `parent`, is reused."""

    FEEDS = "feeds"
    """The parent alone consumes this site's output: with the parent reused, this site may run but changes nothing."""
    INSIDE = "inside"
    """This site is part of the parent module: with the parent reused, this site is not called at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One cacheable module: a leaf of a block, or a whole UNet stage.

    `name` is the module path inside the denoiser, `block` the heat map's row group, `component` the leaf's role.
    `macs` are multiply-accumulates of one call for one image of one guidance branch, sites inside included.
    """

    name: str
    block: str
    component: str
    macs: int
    parent: int | None = None
    relation: Relation | None = None


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All sites of one denoiser class, and the multiply-accumulates of one whole call for one image of one branch.

    With `ungated`, a block adds exactly the sum of its leaves' values that feed no other, whatever the timestep.
    """

    denoiser_class: str
    sites: tuple[Site, ...]
    total_macs: int = field(default=0)
    ungated: bool = False

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ScheduleError("site names of an inventory must be unique")
        for site in self.sites:
            if (site.parent is None) != (site.relation is None):
                raise ScheduleError(f"site {site.name}: parent and relation go together")
            parent, n_ancestors = site.parent, 0
            while parent is not None:
                if not 0 <= parent < len(self.sites) or n_ancestors > len(self.sites):
                    raise ScheduleError(f"site {site.name}: a chain of parents must end at a site of this inventory")
                parent, n_ancestors = self.sites[parent].parent, n_ancestors + 1

    def __len__(self) -> int:
        return len(self.sites)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the structure (class, names, relations); MACs, which depend on the resolution, are left out."""
        rows = [[s.name, s.component, s.parent, s.relation] for s in self.sites]
        text = json.dumps([self.denoiser_class, rows], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def tree(self) -> SiteTree:
        """Which site hangs on which."""
        inside = [site.relation is Relation.INSIDE for site in self.sites]
        return SiteTree.of([site.parent for site in self.sites], inside, [site.macs for site in self.sites])

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Columns of the sites that hold no other."""
        hold = {site.parent for site in self.sites if site.relation is Relation.INSIDE}
        return tuple(i for i in range(len(self.sites)) if i not in hold)

    @cached_property
    def outermost(self) -> tuple[int, ...]:
        """Columns of the sites that are inside no other: with all of them reused, nothing that is a site runs."""
        found = []
        for i, site in enumerate(self.sites):
            while site.parent is not None and site.relation is Relation.FEEDS:
                site = self.sites[site.parent]
            if site.parent is None:
                found.append(i)
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """A JSON object that `inventory_from_json` reads back."""
        rows = [[s.name, s.block, s.component, s.macs, s.parent, s.relation] for s in self.sites]
        data = {"denoiser_class": self.denoiser_class, "sites": rows, "total_macs": self.total_macs}
        return data | ({"ungated": True} if self.ungated else {})


def inventory_from_json(data: dict[str, object]) -> Inventory:
    """The inventory that `Inventory.to_json` wrote."""
    rows = data["sites"]
    if not isinstance(rows, list):
        raise ScheduleError(f"inventory sites must be a list; got {type(rows).__name__}")
    sites = tuple(
        Site(name=n, block=b, component=c, macs=m, parent=p, relation=None if r is None else Relation(r))
        for n, b, c, m, p, r in rows
    )
    return Inventory(
        denoiser_class=str(data["denoiser_class"]),
        sites=sites,
        total_macs=int(str(data["total_macs"])),
        ungated=data.get("ungated") is True,
    )
