"""The options of `autotune run`; `autotune resume` has some of them."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.spaces.granularity import Granularity

Model = Annotated[str, typer.Option("--model", help="A preset (`autotune list models`), a hub id, or a folder.")]
Budget = Annotated[str | None, typer.Option("--budget", help="Wall time, start-up included: 90s, 2m, 1h30m.")]
Evaluations = Annotated[int | None, typer.Option("--evaluations", help="Number of candidates to try.")]
NetworkCalls = Annotated[
    int | None, typer.Option("--network-calls", help="Network calls of the search, summed over images.")
]
Cost = Annotated[float | None, typer.Option("--cost", help="Money to spend, with --price.")]
Price = Annotated[float | None, typer.Option("--price", help="Price of an hour of one worker.")]
Workers = Annotated[int, typer.Option("--workers", help="Workers, each with a model of its own; needs Ray.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of a Ray cluster; without it workers run here.")
]
Start = Annotated[
    list[Path] | None,
    typer.Option("--start", help="Schedule file to try first, re-timed if it is of another condition; repeatable."),
]
Ladder = Annotated[
    bool, typer.Option("--ladder/--no-ladder", help="Stop hopeless candidates after a part of the prompts.")
]
Correct = Annotated[
    bool | None,
    typer.Option(
        "--correct/--no-correct",
        help="Try the best cache schedules with what they hand out corrected, too; by default the family decides.",
    ),
]
OfGenes = Annotated[
    Granularity,
    typer.Option("--granularity", help="What is cached at a time by ecad; steps are all cache-dit can say."),
]
Family = Annotated[str, typer.Option("--family", help="What to search, and how; see `autotune list families`.")]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        help="What to optimise, a cost first: latency, energy, macs...; deviation, psnr, clip-score...  "
        "[default: latency and deviation, of a policy latency and success; of ecad, from 10m on, cache-memory too]",
    ),
]
Constraints = Annotated[
    list[str] | None, typer.Option("--constraint", help='A limit such as "deviation<=0.1"; repeatable.')
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "--reward",
        help="Measure this too: clip-score, pick-score, hps (or NAME=FOLDER with its weights), energy; repeatable.",
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the default run.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Guidance scale.")]
Resolution = Annotated[int | None, typer.Option("--resolution", help="Pixels a side.")]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", help="Text file, a prompt per line, all used; every second one is held out.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the search.")]
Device = Annotated[str, typer.Option("--device", help="Torch device; auto is cuda where there is one, else cpu.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
NewStudy = Annotated[str | None, typer.Option("--study", help="Name of the new study; made up if left out.")]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for the report and the schedule files, one sub-folder per study.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file with these options by name; the command line wins.")
]
Quiet = Annotated[bool, typer.Option("--quiet/--no-quiet", help="Show no progress.")]
