"""What a cache schedule loses when it is re-timed for another step count, and what refinement wins back.

On mini-flux: for several budgets the best of the plans at 20 steps, re-timed to 12 and 30 steps by noise level and by
index, beside the best plan made afresh there at no more multiply-accumulates; then the same step count at another time
shift (64 pixels, which the model was not trained for: mechanics and deviation only). That of the middle budget is
refined as `autotune transfer` does, by 60 candidates of a joint search for MACs and deviation. Deviation from the
target's converged run on held-out prompts and seeds; plans and refinement see the calibration prompts alone.

Prints a table and takes `--quick` (fewer prompts and budgets, 12 candidates), `--seed`, `--device`, `--json FILE`.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import Benchmark, parse_arguments

from autotune.api import tune
from autotune.cli.transfer import REFINEMENT
from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import planned_schedules
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_plan import plan_macs
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.retiming import RunLevels, retime
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile

SOURCE_STEPS = 20


class Side:
    """A run of the model: its worker, prompts, and the deviations that were measured."""

    def __init__(self, model: LoadedModel, n_steps: int, resolution: int, arguments: argparse.Namespace) -> None:
        quick, seed = arguments.quick, arguments.seed
        preset = dataclasses.replace(model.preset, n_steps=n_steps, height=resolution, width=resolution)
        self.worker = Worker(dataclasses.replace(model, preset=preset))
        self.n_steps, self.inventory = n_steps, self.worker.inventory
        held_out = read_prompts(preset.held_out_prompts)[: 4 if quick else 24]
        seeds = tuple(range(10_000 + 1000 * seed, 10_000 + 1000 * seed + len(held_out)))
        self.held_out = Fidelity(name="held_out", prompts=held_out, seeds=seeds)
        chosen = read_prompts(preset.calibration_prompts)[: 2 if quick else 4]
        self.n_budgets = 3 if quick else 8
        self.calibration = Fidelity(name="calibration", prompts=chosen, seeds=tuple(range(len(chosen))))
        self.context = SearchContext(
            condition=self.worker.condition,
            inventory=self.inventory,
            own_timesteps=self.worker.own_timesteps,
            edge_costs=lambda: self.worker.edge_costs(self.calibration, len(chosen)),
            objectives=("macs", "deviation"),
        )

    def levels(self, *, by_index: bool = False) -> RunLevels:
        """The own calls; by index they are taken to lie at equal distances."""
        condition = self.worker.condition
        times = self.worker.own_timesteps(self.n_steps)
        if by_index:
            times = tuple(1000.0 * (1.0 - i / len(times)) for i in range(len(times)))
        return RunLevels(noise=condition.noise_schedule, start=times[0], times=times)

    def plans(self) -> list[Schedule]:
        """All plans made here."""
        return [canonical_schedule(plan, self.inventory) for _, plan in planned_schedules(self.context, self.n_budgets)]

    def macs(self, schedule: Schedule) -> int:
        """Multiply-accumulates of one branch of one image."""
        return plan_macs(schedule.cache, self.inventory, self.context.n_calls)

    def deviation(self, schedule: Schedule, fidelity: Fidelity) -> float:
        """Mean deviation on some prompts."""
        samples = self.worker._run(schedule, fidelity, None).latents
        reference = self.worker.reference(fidelity).latents
        return float(((samples - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)).mean())

    def best(self, schedules: Sequence[Schedule], most_macs: float) -> Schedule | None:
        """The one with the lowest deviation on the calibration prompts, of the ten next below a cost."""
        fitting = sorted((s for s in schedules if self.macs(s) <= 1.001 * most_macs), key=self.macs)[-10:]
        return min(fitting, key=lambda s: self.deviation(s, self.calibration), default=None)


def main() -> None:
    arguments = parse_arguments(__doc__)
    bench = Benchmark("transfer", arguments)
    quick = arguments.quick
    model = load_model("mini-flux", device=arguments.device)
    source = Side(model, SOURCE_STEPS, 32, arguments)
    plans, full = source.plans(), source.macs(Schedule(n_steps=SOURCE_STEPS))
    chosen = {}
    for share in (0.4,) if quick else (0.25, 0.4, 0.55):
        best = source.best(plans, share * full)
        if best is not None:
            chosen[share] = best
            bench.row("deviation at the source", source.deviation(best, source.held_out), budget=f"{share:.0%}")
    for n_steps, resolution in ((12, 32), (30, 32)) if quick else ((12, 32), (30, 32), (20, 64)):
        target = Side(model, n_steps, resolution, arguments)
        with tempfile.TemporaryDirectory() as folder:
            compare(bench, source, target, chosen, Path(folder) / "transfer.db")
    bench.finish()


def compare(bench: Benchmark, source: Side, target: Side, chosen: dict[float, Schedule], storage: Path) -> None:
    """The schedules of the source at the target: re-timed in two ways, beside fresh plans, and refined."""
    height = target.worker.condition.height
    where = f"{target.n_steps} steps, {height} px"
    bench.row("deviation uncached", target.deviation(Schedule(n_steps=target.n_steps), target.held_out), target=where)
    fresh = target.plans()
    for share, schedule in chosen.items():
        budget = f"{share:.0%}"
        by_level, by_index = (
            retime(schedule, source.inventory, source.levels(by_index=b), target.levels(by_index=b), target.n_steps)
            for b in (False, True)
        )
        limit = target.macs(by_level.schedule)
        bench.row("share of MACs", limit / target.macs(Schedule(n_steps=target.n_steps)), target=where, budget=budget)
        values = {}
        rivals = {"by index": by_index.schedule, "planned afresh": target.best(fresh, limit)}
        for name, candidate in {"re-timed": by_level.schedule, **rivals}.items():
            if candidate is not None:
                values[name] = target.deviation(candidate, target.held_out)
                bench.row(f"deviation {name}", values[name], target=where, budget=budget)
        if "planned afresh" in values:
            ratio = values["re-timed"] / values["planned afresh"]
            bench.target(f"{where}, {share:.0%}: re-timed over planned afresh", ratio, None, at_most=1.25)
    middle = sorted(chosen)[len(chosen) // 2]
    refine(bench, source, target, f"{middle:.0%}", chosen[middle], storage)


def refine(bench: Benchmark, source: Side, target: Side, budget: str, schedule: Schedule, storage: Path) -> None:
    """What `autotune transfer` makes of a schedule: re-timed, refined, and fewer steps at no more MACs."""
    condition = target.worker.condition
    study = tune(
        "mini-flux",
        storage=str(storage),
        start=[ScheduleFile(schedule=schedule, condition=source.worker.condition)],
        objectives="macs,deviation",
        evaluations=12 if bench.arguments.quick else REFINEMENT,
        steps=target.n_steps,
        resolution=condition.height,
        seed=bench.arguments.seed,
        device=bench.arguments.device,
    )
    where = f"{target.n_steps} steps, {condition.height} px"
    deviations = {str(row["role"]): float(str(row["deviation"])) for row in study.given if row["role"] != "source"}
    for role, deviation in deviations.items():
        bench.row(f"deviation {role}, `autotune transfer`", deviation, target=where, budget=budget)
    gain = deviations["refined"] / deviations["given"]
    bench.target(f"{where}, {budget}: refined over re-timed", gain, None, at_most=1.0)


if __name__ == "__main__":
    main()
