"""The list of a denoiser's sites as a value."""

import dataclasses
import json

import pytest

from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory, Relation, Site, inventory_from_json


def site(name: str, **changes: object) -> Site:
    return dataclasses.replace(Site(name=name, block="b", component="c", macs=5), **changes)  # type: ignore[arg-type]


INVENTORY = Inventory(
    denoiser_class="X", sites=(site("a", parent=1, relation=Relation.FEEDS), site("b")), total_macs=12
)


def test_json_round_trip_keeps_everything() -> None:
    again = inventory_from_json(json.loads(json.dumps(INVENTORY.to_json())))
    assert again == INVENTORY
    assert again.sites[0].relation is Relation.FEEDS


def test_hash_says_structure_and_leaves_out_macs() -> None:
    other_macs = dataclasses.replace(INVENTORY, sites=tuple(site(s.name, macs=9, parent=s.parent, relation=s.relation)
                                                            for s in INVENTORY.sites), total_macs=99)  # fmt: skip
    assert other_macs.hash == INVENTORY.hash
    inside = (site("a", parent=1, relation=Relation.INSIDE), site("b"))
    assert dataclasses.replace(INVENTORY, sites=inside).hash != INVENTORY.hash
    assert dataclasses.replace(INVENTORY, denoiser_class="Y").hash != INVENTORY.hash


@pytest.mark.parametrize(
    ("sites", "says"),
    [
        ((site("a"), site("a")), "unique"),
        ((site("a", parent=0),), "go together"),
        ((site("a", parent=5, relation=Relation.FEEDS),), "chain of parents"),
        ((site("a", parent=-1, relation=Relation.FEEDS),), "chain of parents"),
        ((site("a", parent=0, relation=Relation.FEEDS),), "chain of parents"),
    ],
    ids=["twice", "no relation", "beyond", "negative", "itself"],
)
def test_broken_inventories_are_refused(sites: tuple[Site, ...], says: str) -> None:
    with pytest.raises(ScheduleError, match=says):
        Inventory(denoiser_class="X", sites=sites)
