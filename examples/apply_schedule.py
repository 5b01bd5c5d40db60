"""Draw images with a schedule file on a plain diffusers pipeline, as production would.

    python examples/apply_schedule.py MODEL_FOLDER SCHEDULE_FILE --prompt "a photo of a cat" --seed 3 -o cat.png

Only torch, diffusers and the runtime are imported: no search, no database.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

import autotune
from autotune.evaluators.contact_sheet import make_contact_sheet
from autotune.spaces.schedule_file import load_schedule_file

SEARCH_ONLY = ("ray", "optuna", "deap", "sqlalchemy", "alembic", "typer", "matplotlib")

# The reference models differ from their big counterparts in these arguments.
MINI_ARGUMENTS = {
    "FluxPipeline": {"max_sequence_length": 16},
    "PixArtAlphaPipeline": {"max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False},
}


def main() -> None:
    """Parse, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a pipeline in diffusers format")
    parser.add_argument("schedule", type=Path, help="schedule file")
    parser.add_argument("--prompt", action="append", required=True, help="repeatable; all are drawn in one batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first prompt; the next ones count up")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".png for a picture, .safetensors for numbers")
    arguments = parser.parse_args()

    condition = load_schedule_file(arguments.schedule).condition
    load: Any = DiffusionPipeline.from_pretrained  # has no annotations
    pipe = load(arguments.model, dtype=getattr(torch, condition.dtype), use_safetensors=True)
    seeds = range(arguments.seed, arguments.seed + len(arguments.prompt))

    autotune.apply(pipe, arguments.schedule)  # the line that production needs
    images = pipe(
        arguments.prompt,
        num_inference_steps=load_schedule_file(arguments.schedule).schedule.n_steps,
        guidance_scale=condition.guidance_scale,
        height=condition.height,
        width=condition.width,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="pt",
        **(MINI_ARGUMENTS.get(type(pipe).__name__, {}) if condition.model.startswith("mini-") else {}),
    ).images
    autotune.remove(pipe)

    loaded = [name for name in SEARCH_ONLY if name in sys.modules]
    assert not loaded, f"production must not load {loaded}"
    if arguments.output.suffix == ".safetensors":
        save_file({"images": images}, arguments.output)
    else:
        arguments.output.write_bytes(make_contact_sheet(images))
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
