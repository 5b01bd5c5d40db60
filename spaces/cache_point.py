"""CacheQuant's cache point (Liu et al. 2025, arXiv 2503.01323): a feature that stands for nearly the whole network."""

from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import BLOCK, STACK, Inventory

_STAGE, _RESNET = "stage", "resnet"


def cache_point(inventory: Inventory) -> tuple[int, ...]:
    """Columns of a cache plan that reuse the network up to its cache point, if they all do.

    Of a UNet the point is the hidden state that enters the last residual block of the last stage, before the skip
    connection joins it: all stages but the last are reused, and in the last one the leaves before that block. The
    projections of its transformers, which are no sites, run again and give what they gave. Of a stack of blocks the
    point is what all blocks but the first and the last add; they are reused block by block, which sums to it. With
    fewer than three blocks it is what the stack adds.

    Behind a UNet's point a group norm reads the feature and the skip connection; that no group has channels of both is
    asserted where the modules are at hand, before costs are recorded (`evaluators/segment_recording.py`). Splits of
    quantized layers need no such rule: their recorder zeroes the skip connection's part behind the norm.

    Raises:
        ScheduleError: the sites are neither.
    """
    sites = inventory.sites
    blocks = [i for i, site in enumerate(sites) if site.component == BLOCK]
    if len(blocks) >= 3:
        return tuple(blocks[1:-1])
    if stack := [i for i, site in enumerate(sites) if site.component == STACK]:
        return tuple(stack)
    stages = [i for i, site in enumerate(sites) if site.component == _STAGE]
    inside = [i for i, site in enumerate(sites) if stages and site.parent == stages[-1]]
    resnets = [i for i in inside if sites[i].component == _RESNET]
    if len(stages) < 2 or len(resnets) < 2:
        raise ScheduleError(
            f"a cache point needs blocks, or stages of which the last has two residual blocks; got {len(stages)} "
            f"stages of {inventory.denoiser_class}; plan on the hidden state"
        )
    return (*stages[:-1], *(i for i in inside if i < resnets[-1]))
