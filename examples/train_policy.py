"""Records demonstrations, trains the robot policy `mini-policy` and saves it; about an hour on two cores.

pip install 'diffusion-autotune[policy]'
python examples/train_policy.py my-policy
autotune --model my-policy --budget 10m
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from autotune.evaluators.policy.demonstrations import record_demonstrations
from autotune.evaluators.policy.pipeline import PolicyPipeline
from autotune.evaluators.policy.simulator import TASKS
from autotune.evaluators.policy.training import noise_scheduler, train_policy, training_windows
from autotune.evaluators.policy.transformer import PolicyTransformer


def main() -> None:
    """Record, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pipeline is saved")
    parser.add_argument("--episodes", type=int, default=400, help="demonstrations per task")
    parser.add_argument("--steps", type=int, default=9000, help="training steps")
    parser.add_argument("--processes", type=int, default=2, help="processes that record")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    demonstrations = record_demonstrations(TASKS, given.episodes, n_processes=given.processes)
    network, scheduler = PolicyTransformer(), noise_scheduler()
    observations, actions = training_windows(demonstrations, network.config.horizon, network.config.n_observations)
    print(f"{len(demonstrations)} episodes, {len(actions)} windows, {time.monotonic() - began:.0f} s", flush=True)

    def report(step: int, loss: float) -> None:
        print(f"step {step}: loss {loss:.4f}, {time.monotonic() - began:.0f} s", flush=True)

    trained = train_policy(
        network,
        scheduler,
        observations,
        actions,
        n_steps=given.steps,
        device=given.device,
        seed=given.seed,
        report=report,
    )
    half: Any = trained.cpu()
    PolicyPipeline(transformer=half.to(torch.float16), scheduler=scheduler).save_pretrained(given.folder)


if __name__ == "__main__":
    main()
