"""How far evolution of cache schedules gets per evaluation: ours against ECAD's published settings.

For each reference model and seed, both search with one evaluator, on the same calibration prompts and for as many
evaluations; after each one the hypervolume of modelled latency and deviation is noted. The final fronts are measured on
held-out prompts and fresh seeds, each latency in turn with the default run's. Fewer steps of the best known solver
stand in the table, measured in the same way.

Prints a table and takes `--quick` (fewer evaluations and prompts, one seed), `--seed`, `--device`, `--json FILE`;
`--models`, `--seeds`, `--evaluations` and `--prompts` measure a part, `--batch` times on fewer images.
"""

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.ecad import EcadSearcher, PublishedEcadSearcher
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.objective import objective_value
from autotune.spaces.pareto import BoxVolume, front_hypervolume, non_dominated
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
COST = "modelled-latency"
SEARCHES: dict[str, Callable[[SearchContext, int], Searcher]] = {
    "published": PublishedEcadSearcher,
    "ours": EcadSearcher,
}
HELD_OUT_SEED = 2_000_000
N_MEASURED = 16
"""Members of a front that are measured on held-out prompts, evenly spread over it."""


@dataclass(kw_only=True)
class Course:
    """One search: its hypervolume after each evaluation, and what it measured."""

    curve: list[float] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def first_at(self, hypervolume: float) -> float:
        """Evaluations until this hypervolume, over all; more than 1 if it is not reached."""
        reached = (i + 1 for i, value in enumerate(self.curve) if value >= hypervolume)
        return next(reached, 2 * len(self.curve)) / len(self.curve)


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("cache_evolution", arguments)
    for name in arguments.models:
        compare(bench, name)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --seed on")
    parser.add_argument("--batch", type=int, default=16, help="images of a pipeline call, which are those timed")
    parser.add_argument("--prompts", type=int, default=12, help="calibration prompts; twice as many are held out")


def compare(bench: Benchmark, name: str) -> None:
    """Both searches on one model, over the seeds."""
    quick, first_seed = bench.arguments.quick, bench.arguments.seed
    n, n_prompts = (60, 4) if quick else (bench.arguments.evaluations, bench.arguments.prompts)
    model = load_model(name, device=bench.arguments.device)
    preset = dataclasses.replace(model.preset, batch_size=bench.arguments.batch)
    worker = Worker(dataclasses.replace(model, preset=preset))
    calibration = fidelity("calibration", read_prompts(model.preset.calibration_prompts)[:n_prompts], 0)
    prompts = read_prompts(model.preset.held_out_prompts)[: 2 * n_prompts]
    held_out = fidelity("held_out", prompts, HELD_OUT_SEED + 1000 * first_seed)
    costs = worker.cost_model(calibration)
    known: dict[str, Measurement | Failure] = {}

    def score(schedule: Schedule) -> Measurement | Failure:
        digest = schedule_hash(schedule)
        if digest not in known:
            outcome = worker.score(schedule, calibration)
            known[digest] = costs.completed(schedule, outcome) if isinstance(outcome, Measurement) else outcome
        return known[digest]

    context = SearchContext(
        condition=worker.condition,
        inventory=worker.inventory,
        own_timesteps=worker.own_timesteps,
        objectives=(COST, "deviation"),
        edge_costs=functools.cache(lambda: worker.edge_costs(calibration, 4)),
        cost_model=lambda: costs,
        guided=worker.guided,
    )
    shares, ratios, ends = [], [], []
    for seed in range(first_seed, first_seed + (1 if quick else bench.arguments.seeds)):
        courses = {kind: search(make(context, seed), context, score, n) for kind, make in SEARCHES.items()}
        final = {}
        for kind, course in courses.items():
            final[kind] = held_out_hypervolume(worker, course.results, held_out)
            bench.row("hypervolume on calibration prompts", course.curve[-1], model=name, search=kind, seed=seed)
            bench.row("hypervolume on held-out prompts", final[kind], model=name, search=kind, seed=seed)
            curve = {"figure": "curve", "value": course.curve, "interval": None}
            bench.rows.append({"model": name, "search": kind, "seed": seed, **curve})
        shares.append(courses["ours"].first_at(courses["published"].curve[-1]))
        ratios.append(final["ours"] / final["published"])
        ends.append(final["ours"])
        bench.row("share of evaluations to the published end", shares[-1], model=name, seed=seed)
    rival = front_of(worker, fewer_steps(worker), held_out)
    bench.row("hypervolume on held-out prompts", rival, model=name, search="fewer steps")
    bench.target(
        f"{name}: share of evaluations to the published end", statistics.median(shares), spread(shares), at_most=1 / 3
    )
    bench.target(
        f"{name}: held-out hypervolume over the published",
        statistics.median(ratios),
        spread(ratios),
        at_least=1.1,
        above=1.0,
    )
    bench.target(f"{name}: held-out hypervolume over fewer steps", statistics.median(ends) / rival, None, at_least=1.0)


def fidelity(name: str, prompts: tuple[str, ...], first_seed: int) -> Fidelity:
    """Prompts with a seed each."""
    return Fidelity(name=name, prompts=prompts, seeds=tuple(range(first_seed, first_seed + len(prompts))))


def search(
    searcher: Searcher, context: SearchContext, score: Callable[[Schedule], Measurement | Failure], n: int
) -> Course:
    """The course of `n` evaluations, the default run among them."""
    course, volume = Course(), BoxVolume()
    default = canonical_schedule(Schedule(n_steps=context.condition.n_steps), context.inventory)
    proposals = [Proposal(schedule=default, family="baseline", label="default")]
    while len(course.results) < n and proposals:
        result = Result(proposal=proposals[0], outcome=score(proposals[0].schedule))
        searcher.tell([result])
        course.results.append(result)
        if result.measurement is not None:
            volume.add(cost(result.measurement), result.measurement.mean("deviation"))
        course.curve.append(volume.fraction)
        proposals = searcher.ask(1)
    return course


def cost(measurement: Measurement) -> float:
    """What the searches minimise besides the deviation."""
    return objective_value(COST, measurement)


def held_out_hypervolume(worker: Worker, results: list[Result], held_out: Fidelity) -> float:
    """Of the members of a front, at most `N_MEASURED` of them, on held-out prompts and with measured latency."""
    measured = [(r.proposal.schedule, r.measurement) for r in results if r.measurement is not None]
    points = [(cost(m), m.mean("deviation")) for _, m in measured]
    front = sorted(np.flatnonzero(non_dominated(points)).tolist(), key=lambda i: points[i])
    stride = max(1, (len(front) + N_MEASURED - 1) // N_MEASURED)
    return front_of(worker, [measured[i][0] for i in front[::stride]], held_out)


def front_of(worker: Worker, schedules: Iterable[Schedule], held_out: Fidelity) -> float:
    """Hypervolume of schedules on held-out prompts, each latency a median of three in turn with the default run's."""
    outcomes = [worker.score(schedule, held_out, repeats=3) for schedule in schedules]
    measured = [outcome for outcome in outcomes if isinstance(outcome, Measurement)]
    return front_hypervolume([m.relative_latency for m in measured], [m.mean("deviation") for m in measured])


def fewer_steps(worker: Worker) -> list[Schedule]:
    """UniPC-2 on a grid uniform in lambda, and the pipeline's own sampler, from 4 calls to the default number."""
    noise, start, default = worker.condition.noise_schedule, worker.condition.start_timestep, worker.condition.n_steps
    schedules = []
    for n in range(4, default + 1, 2):
        time = uniform_lambda(noise, n, t_start=start)
        schedules.append(Schedule(n_steps=n, time=time, solver=make_solver("unipc-2", n, noise)))
        schedules.append(Schedule(n_steps=n))
    return schedules


if __name__ == "__main__":
    main()
