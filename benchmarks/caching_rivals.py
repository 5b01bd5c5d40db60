"""The schedules that the caching benchmark compares: presets of the literature, adaptive policies, plans."""

from collections.abc import Iterator, Sequence

from autotune.evaluators.policy_runtime import PolicyUsage
from autotune.evaluators.worker import Worker
from autotune.search.cache_masks import (
    STAGE,
    even_mask,
    fora_mask,
    gate_mask,
    power_law_stage_mask,
    smooth_cache_masks,
    stage_mask,
    step_mask,
    t_gate_mask,
)
from autotune.search.families import make_searcher
from autotune.search.guidance_plans import guidance_column, guided_plans
from autotune.search.searcher import SearchContext
from autotune.spaces.guidance_column import GuidanceAction, dropped_rows
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

PLANNED, GUIDANCE, FEWER_STEPS = "planned", "guidance", "fewer steps"
ADAPTIVE = ("sada", "teacache", "first-block", "magcache", "diffusers-caches")
GUIDED_STEPS = (6, 8, 10, 12, 14, 16)
N_ADAPTIVE, STRIDE = 30, 3
"""Every third policy of each family's grid of thresholds, with the calibrated numbers."""


def candidates(
    worker: Worker, context: SearchContext, plans: list[tuple[str, Schedule]], n_steps: int
) -> Iterator[tuple[str, str, Schedule]]:
    """Kind, label and schedule of all that is compared."""
    inventory, n_calls, condition = context.inventory, context.n_calls, worker.condition
    noise = condition.noise_schedule
    guided = list(guidance_candidates(worker, context, n_steps))
    # A rival of equally many branch calls for all that leaves branches out and nothing else.
    pairs = {(branch_calls(s, worker) + 1) // 2 for kind, _, s in guided if kind == GUIDANCE}
    for n in sorted({*range(4, n_steps + 1, max(1, n_steps // 20)), *pairs}):
        if n < n_steps:
            yield FEWER_STEPS, f"own sampler, {n} steps", Schedule(n_steps=n)
        time_grid = uniform_lambda(noise, n, t_start=condition.start_timestep)
        solver = make_solver("unipc-2", n, noise)
        yield FEWER_STEPS, f"unipc-2, {n} steps", Schedule(n_steps=n, time=time_grid, solver=solver)
    masks = [("FORA", fora_mask(inventory, n_calls, every)) for every in (2, 3, 4, 5)]
    masks += [("evenly spread", even_mask(inventory, n_calls, round(n_calls / every))) for every in (1.5, 2, 3, 4, 5)]
    gates = [round(n_calls * share) for share in (0.25, 0.5, 0.75)]
    masks += [("frozen text attention", gate_mask(inventory, n_calls, gate)) for gate in gates]
    if context.guided:
        masks += [("T-GATE", t_gate_mask(inventory, n_calls, gate, every)) for gate in gates for every in (1, 2)]
    masks += [("cache-dit", step_mask(inventory, n_calls, preset)) for preset in ("slow", "medium", "fast", "ultra")]
    if sum(site.component == STAGE for site in inventory.sites) >= 3:
        masks += [("DeepCache", stage_mask(inventory, n_calls, every)) for every in (2, 3, 5)]
        laws = [
            power_law_stage_mask(inventory, n_calls, round(n_calls / k), centre=n_calls // 3, power=1.3)
            for k in (2, 3, 5)
        ]
        masks += [("DeepCache", mask) for mask in laws]
    if context.edge_costs is not None:
        masks += [("SmoothCache", mask) for mask in smooth_cache_masks(inventory, context.edge_costs().leaf_errors)]
    for kind, mask in masks:
        yield kind, mask.label, mask.schedule(n_steps)
    for family in ADAPTIVE:
        for proposal in make_searcher(family, context).ask(N_ADAPTIVE)[::STRIDE]:
            if proposal.schedule.policy is not None:
                yield proposal.schedule.policy.kind, proposal.schedule.policy.text, proposal.schedule
    for label, schedule in plans:
        yield PLANNED, label, schedule
    yield from guided


def guidance_candidates(worker: Worker, context: SearchContext, n_steps: int) -> Iterator[tuple[str, str, Schedule]]:
    """Kind, label and schedule of those with a guidance column: planned with a cache, and without one."""
    n_calls = context.n_calls
    for label, schedule in guided_plans(context):
        yield GUIDANCE if schedule.cache is None else "planned + guidance", label, schedule
    if context.guided:
        for every in (2, 3, 4):
            for estimate in (GuidanceAction.STORED, GuidanceAction.LINEAR):
                column = guidance_column(range(n_calls), n_calls, every, estimate)
                yield GUIDANCE, f"{estimate}, both in every {every}", Schedule(n_steps=n_steps, guidance=column)
        yield from fewer_guided(worker, [n for n in GUIDED_STEPS if n < n_steps])


def branch_calls(schedule: Schedule, worker: Worker, usage: PolicyUsage | None = None) -> int:
    """Guidance branches that run, over all network calls; of a policy, over those that it computes."""
    n_calls = len(schedule.time or worker.own_timesteps(schedule.n_steps))
    n_branches = 2 if worker.guided else 1
    if usage is not None:
        return round(n_branches * usage.computed_calls)
    return n_branches * n_calls - sum(dropped_rows(schedule.guidance, n_calls))


def fewer_guided(worker: Worker, counts: Sequence[int]) -> Iterator[tuple[str, str, Schedule]]:
    """The guidance column on fewer steps of the pipeline's own sampler, which are cheaper to begin with."""
    for n in counts:
        for every in (2, 3):
            for estimate in (GuidanceAction.STORED, GuidanceAction.LINEAR, GuidanceAction.QUADRATIC):
                n_calls = len(worker.own_timesteps(n))
                column = guidance_column(range(n_calls), n_calls, every, estimate)
                yield GUIDANCE, f"{n} steps, {estimate}, both in every {every}", Schedule(n_steps=n, guidance=column)
