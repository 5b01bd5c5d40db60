"""The schedules that the caching benchmark compares: presets of the literature, adaptive policies, plans."""

import dataclasses
from collections.abc import Iterator

from autotune.evaluators.worker import Worker
from autotune.search.cache_masks import STAGE, even_mask, fora_mask, gate_mask, stage_mask, step_mask
from autotune.search.families import make_searcher
from autotune.search.searcher import SearchContext
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

PLANNED = "planned"
ESTIMATES = (GuidanceAction.STORED, GuidanceAction.LINEAR, GuidanceAction.QUADRATIC)
ADAPTIVE, N_ADAPTIVE = ("sada", "teacache", "first-block", "magcache", "diffusers-caches"), 30
"""Families of policies, and how many of each: the whole grid of thresholds, with the calibrated numbers."""


def candidates(
    worker: Worker, context: SearchContext, plans: list[tuple[str, Schedule]], n_steps: int
) -> Iterator[tuple[str, str, Schedule]]:
    """Kind, label and schedule of all that is compared."""
    inventory, n_calls, condition = context.inventory, context.n_calls, worker.condition
    noise = condition.noise_schedule
    for n in sorted({max(3, round(n_steps * share)) for share in (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)}):
        if n < n_steps:
            yield "fewer steps", f"own sampler, {n} steps", Schedule(n_steps=n)
        time_grid = uniform_lambda(noise, n, t_start=condition.start_timestep)
        solver = make_solver("unipc-2", n, noise)
        yield "fewer steps", f"unipc-2, {n} steps", Schedule(n_steps=n, time=time_grid, solver=solver)
    masks = [("FORA", fora_mask(inventory, n_calls, every)) for every in (2, 3, 4, 5)]
    masks += [("evenly spread", even_mask(inventory, n_calls, round(n_calls / every))) for every in (1.5, 2, 3, 4, 5)]
    masks += [("T-GATE", gate_mask(inventory, n_calls, round(n_calls * share))) for share in (0.25, 0.5, 0.75)]
    masks += [("cache-dit", step_mask(inventory, n_calls, preset)) for preset in ("slow", "medium", "fast", "ultra")]
    if sum(site.component == STAGE for site in inventory.sites) >= 3:
        masks += [("DeepCache", stage_mask(inventory, n_calls, every)) for every in (2, 3, 5)]
    for kind, mask in masks:
        yield kind, mask.label, mask.schedule(n_steps)
    for family in ADAPTIVE:
        for proposal in make_searcher(family, context).ask(N_ADAPTIVE):
            yield "adaptive", proposal.schedule.policy.text if proposal.schedule.policy else "", proposal.schedule
    for label, schedule in plans:
        yield PLANNED, label, schedule
    if worker.condition.guidance_scale > 1.0 and inventory.denoiser_class != "FluxTransformer2DModel":
        for every in (2, 3, 4):
            for action in ESTIMATES:
                column = tuple(GuidanceAction.BOTH if i % every == 0 else action for i in range(n_calls))
                yield "guidance", f"{action}, both in every {every}", Schedule(n_steps=n_steps, guidance=column)
        for label, schedule in plans:
            if "hidden state" in label:
                column = tuple(GuidanceAction.BOTH if i % 2 == 0 else GuidanceAction.QUADRATIC for i in range(n_calls))
                yield "planned + guidance", label, dataclasses.replace(schedule, guidance=column)
