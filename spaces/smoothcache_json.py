"""SmoothCache's schedules (Liu et al. 2025, arXiv 2411.10510): one list of 0 and 1 per type of component.

A file is one JSON object such as `{"attn1": [1, 0, 1], "ff": [1, 1, 0]}`; all blocks follow the list of their
component. Polarity: 1 is *compute*, 0 is reuse. A component that the file does not name is computed in every step.
"""

import numpy as np

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.imported_plan import ImportedPlan
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.step_list import check_mask
from autotune.spaces.strict_json import as_object, check_keys, parse_strict


def parse_smoothcache(text: str, inventory: Inventory) -> ImportedPlan:
    """The schedule of a file's text over the sites of an inventory.

    Raises:
        ScheduleError: a component is not one of the inventory's, or a list is not a mask as long as the others.
    """
    lists = as_object(parse_strict(text, remedy='write {"attn1": [1, 0, 1]}'), "a file of SmoothCache")
    components = [site.component for site in inventory.sites]
    known = dict.fromkeys(components[i] for i in inventory.leaves)
    check_keys(lists, "", list(known), required=())
    if not lists:
        raise ScheduleError(f"a file of SmoothCache must name a component; known: {', '.join(known)}")
    n_steps: int | None = None
    reused: dict[str, list[bool]] = {}
    for name, mask in lists.items():
        if not isinstance(mask, list):
            raise ScheduleError(f"{name} must be a list with one number per step; got {type(mask).__name__}")
        check_mask(mask, name)
        n_steps = len(mask) if n_steps is None else n_steps
        if len(mask) != n_steps:
            raise ScheduleError(f"the lists must have one number per step each; {name} has {len(mask)} of {n_steps}")
        reused[name] = [value == 0 for value in mask]
    assert n_steps is not None
    table = np.array([reused.get(component, [False] * n_steps) for component in components]).T
    schedule = Schedule(n_steps=n_steps, cache=CachePlan.from_array(table))
    return ImportedPlan(schedule=canonical_schedule(schedule, inventory))
