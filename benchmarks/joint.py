"""What the joint search finds that no single family does: studies of all of them, at an equal budget.

For each reference model and seed, a study per family and one of the joint search, each with the same budget of network
calls, as `autotune run --network-calls N` makes it: the default run and the rival are in each, the ladder runs, and the
front is measured again on held-out prompts in turn with the default run. Hypervolumes are of those held-out values. The
union is that of the families' fronts, each found with an equal share of the budget; the union of the families that had
the whole budget each stands in a row of its own. A front's members that have no held-out values don't count.

At the end the joint fronts are measured again without one column at a time. Prints a table and takes `--quick` (a small
budget, two families, few prompts, one seed), `--seed`, `--device`, `--json FILE`; `--models`, `--families`, `--calls`,
`--seeds` and `--storage` (a database to go on from) measure a part.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import Benchmark, parse_arguments, spread

from autotune.api import Study, ablate, load_study, resume, tune
from autotune.evaluators.presets import PRESETS, read_prompts
from autotune.reports.contender import point_resamples, study_contenders
from autotune.reports.point import Point, lower_front, volume
from autotune.search.families import FAMILIES
from autotune.spaces.errors import StorageError
from autotune.spaces.front import RIVAL
from autotune.spaces.hypervolume_interval import difference_interval
from autotune.spaces.statistics import percentile_interval
from autotune.spaces.study_record import StudyState

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
GUIDED = ("mini-pixart", "mini-sd")
SINGLE = ("ecad", "cache-plan", "s3", "solver-distill")
"""The families that reach furthest in their columns, of those that search: two for caches, two for solvers."""

JOINT, CALLS = "joint", 20_000
QUICK_CALLS, QUICK_FAMILIES, QUICK_PROMPTS = 4_000, ("ecad", "s3"), 16
PSNR_DB = 30.0
N_ABLATED = 8


class Studies:
    """Makes the studies of one model and seed, or reads them back, and goes on with those that were cut off."""

    def __init__(self, bench: Benchmark, storage: str, model: str, seed: int, prompts: Path | None) -> None:
        self._bench, self._storage, self._model, self._seed = bench, storage, model, seed
        self._prompts = prompts

    def name(self, family: str, calls: int) -> str:
        """Of a study."""
        return f"{self._model}-{family}-{calls}-{self._seed}"

    def front(self, family: str, calls: int) -> tuple[Point, ...]:
        """The front of a study at held-out values, the fastest first."""
        name = self.name(family, calls)
        try:
            study = load_study(name, storage=self._storage)
            if study.record.state is not StudyState.DONE:
                study = resume(name, storage=self._storage)
        except StorageError:
            study = tune(
                self._model,
                study=name,
                storage=self._storage,
                family=family,
                objectives="latency,deviation",
                network_calls=calls,
                prompts=self._prompts,
                seed=self._seed,
                device=self._bench.arguments.device,
            )
        self._note(study, family, calls)
        return study_contenders([study.record])[0].points

    def _note(self, study: Study, family: str, calls: int) -> None:
        for figure, value in (
            ("schedules tried", len(study.record.candidates)),
            ("seconds of the study", study.record.wall_s),
        ):
            self._bench.row(figure, value, model=self._model, family=family, calls=calls, seed=self._seed)


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("joint", arguments)
    with tempfile.TemporaryDirectory() as folder:
        storage = str(arguments.storage or Path(folder) / "joint.db")
        for model in arguments.models:
            compare(bench, storage, model, few_prompts(model, Path(folder)) if arguments.quick else None)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), help=f"by default {', '.join(SINGLE)}")
    parser.add_argument("--calls", type=int, help=f"of each study; by default {CALLS}, 5 to 15 minutes on a core")
    parser.add_argument("--seeds", type=int, help="by default 3")
    parser.add_argument("--storage", type=Path, help="a database to keep the studies in, or to go on from")


def few_prompts(model: str, folder: Path) -> Path:
    """A file of some of the model's prompts, which studies halve into calibration and held-out ones."""
    path = folder / f"{model}.txt"
    path.write_text("\n".join(read_prompts(PRESETS[model].held_out_prompts)[:QUICK_PROMPTS]) + "\n")
    return path


def compare(bench: Benchmark, storage: str, model: str, prompts: Path | None) -> None:
    """All contenders on one model, over the seeds."""
    arguments = bench.arguments
    calls = arguments.calls or (QUICK_CALLS if arguments.quick else CALLS)
    families = arguments.families or (QUICK_FAMILIES if arguments.quick else SINGLE)
    seeds = range(arguments.seed, arguments.seed + (arguments.seeds or (1 if arguments.quick else 3)))
    over_best, over_union, speedups = [], [], []
    for seed in seeds:
        studies = Studies(bench, storage, model, seed, prompts)
        fronts = {family: studies.front(family, calls) for family in (JOINT, RIVAL, *families)}
        shares = [studies.front(family, calls // len(families)) for family in families]
        union = lower_front([point for front in shares for point in front])
        whole = lower_front([point for family in families for point in fronts[family]])
        rows = {**fronts, "union, equal budget": union, "union, whole budgets": whole}
        for family, points in rows.items():
            interval = percentile_interval(point_resamples(points)) if points else None
            bench.row("held-out hypervolume", hypervolume(points), interval, model=model, family=family, seed=seed)
            bench.row("the same by MACs", macs_hypervolume(points), model=model, family=family, seed=seed)
        best = max(families, key=lambda family: hypervolume(fronts[family]))
        for name, points in (("the best family", fronts[best]), ("the union", union)):
            gain = difference_interval(point_resamples(fronts[JOINT]), point_resamples(points))
            figure = f"hypervolume of joint less {name}"
            bench.row(figure, hypervolume(fronts[JOINT]) - hypervolume(points), gain, model=model, seed=seed)
        over_best.append(hypervolume(fronts[JOINT]) / hypervolume(fronts[best]) - 1.0)
        over_union.append(hypervolume(fronts[JOINT]) / hypervolume(union) - 1.0)
        fast = [latency_at(points, PSNR_DB) for points in (fronts[RIVAL], fronts[JOINT])]
        for family, value in zip((RIVAL, JOINT), fast, strict=True):
            bench.row(f"relative latency at {PSNR_DB:g} dB", value, model=model, family=family, seed=seed)
        speedups.append(fast[0] / fast[1])
        columns(bench, storage, studies.name(JOINT, calls), model, seed)
    bench.target(f"{model}: joint over the best family", statistics.median(over_best), spread(over_best), at_least=0.15)
    bench.target(f"{model}: joint over the union", statistics.median(over_union), spread(over_union), at_least=0.05)
    if model in GUIDED:
        name = f"{model}: speed at {PSNR_DB:g} dB over fewer steps"
        bench.target(name, statistics.median(speedups), spread(speedups), at_least=1.5, above=1.0)


def hypervolume(points: Sequence[Point]) -> float:
    """Of points at their own values."""
    return volume([(point.cost, point.error) for point in points])


def macs_hypervolume(points: Sequence[Point]) -> float:
    """The same with MACs in place of latencies: a machine that others use too does not move it."""
    return volume([(point.measurement.relative_macs, point.error) for point in points])


def latency_at(points: Sequence[Point], psnr_db: float) -> float:
    """Relative latency of the fastest point whose mean PSNR reaches this; that of the default run if none does."""
    reached = [point.cost for point in points if float(np.mean(point.measurement.quality["psnr"])) >= psnr_db]
    return min(reached, default=1.0)


def columns(bench: Benchmark, storage: str, study: str, model: str, seed: int) -> None:
    """What each column of the joint front is worth: the same members without it."""
    for row in ablate(study, members=N_ABLATED, storage=storage):
        what = {"model": model, "family": JOINT, "seed": seed, "column": row["column"], "used": row["used"]}
        interval = row["intervals"].get("worth")  # type: ignore[attr-defined]
        bench.row("hypervolume that a column is worth", float(str(row["worth"])), interval, **what)


if __name__ == "__main__":
    main()
