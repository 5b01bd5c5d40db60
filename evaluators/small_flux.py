"""The sites and the condition of a small FLUX, for evaluators that run no network."""

from autotune.spaces.condition import Condition
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.noise_schedule import Flow


def small_flux_inventory(n_double: int = 4, n_single: int = 8) -> Inventory:
    """The sites of a small Flux: attn, ff, ff_context per double block; attn, proj_mlp, proj_out per single block."""
    sites: list[Site] = []
    for i in range(n_double):
        for component, macs in (("attn", 9_000_000), ("ff", 12_000_000), ("ff_context", 3_000_000)):
            name = f"transformer_blocks.{i}.{component}"
            sites.append(Site(name=name, block=f"transformer_blocks.{i}", component=component, macs=macs))
    for i in range(n_single):
        block = f"single_transformer_blocks.{i}"
        parent = len(sites) + 2
        for component, macs in (("attn", 7_000_000), ("proj_mlp", 6_000_000)):
            name = f"{block}.{component}"
            sites.append(
                Site(name=name, block=block, component=component, macs=macs, parent=parent, relation=Relation.FEEDS)
            )
        sites.append(Site(name=f"{block}.proj_out", block=block, component="proj_out", macs=8_000_000))
    total = sum(site.macs for site in sites) + 6_000_000
    return Inventory(denoiser_class="FluxTransformer2DModel", sites=tuple(sites), total_macs=total)


def small_flux_condition(inventory: Inventory, n_steps: int = 20) -> Condition:
    """A condition for `small_flux_inventory`."""
    return Condition(
        model="tabulated",
        revision="1",
        pipeline_class="FluxPipeline",
        inventory_hash=inventory.hash,
        noise_schedule=Flow(mu=0.5, dynamic=True),
        prediction="velocity",
        scheduler_class="FlowMatchEulerDiscreteScheduler",
        start_timestep=1000.0,
        height=32,
        width=32,
        batch_size=1,
        dtype="float32",
        guidance_scale=1.0,
        n_steps=n_steps,
        device="none",
    )
