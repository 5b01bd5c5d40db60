"""The policy under schedules: the same programs and the same cache runtime as the image models."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.apply import attach, remove
from autotune.evaluators.inventory import list_inventory, measure_inventory
from autotune.evaluators.load import load_model
from autotune.evaluators.model_folder import check_model_folder
from autotune.evaluators.noise import noise_schedule_of, own_timesteps
from autotune.evaluators.policy.pipeline import PolicyOutput, PolicyPipeline
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ModelNotFoundError
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver

from .small_policy import generators, make_policy, observations

D: Any = diffusers


@pytest.fixture
def pipe() -> PolicyPipeline:
    return make_policy()


def act(pipe: PolicyPipeline, n_steps: int) -> torch.Tensor:
    made = pipe(observations(), num_inference_steps=n_steps, generator=generators())
    assert isinstance(made, PolicyOutput)
    return made.actions


@pytest.mark.parametrize("n_steps", [100, 10])
def test_ddpm_as_a_program_draws_what_the_sampler_of_diffusers_draws(pipe: PolicyPipeline, n_steps: int) -> None:
    own = act(pipe, n_steps)
    row = SolverStep(view="data", domain="lambda", order=1, stochastic=1.0)
    attach(pipe, Schedule(n_steps=n_steps, time=own_timesteps(pipe.scheduler, n_steps), solver=(row,) * n_steps))
    ours = act(pipe, n_steps)
    remove(pipe)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)
    assert (own - act(pipe, n_steps)).abs().max() == 0.0


@pytest.mark.parametrize("n_steps", [100, 10])
def test_ddim_as_a_program_equals_diffusers(pipe: PolicyPipeline, n_steps: int) -> None:
    time = own_timesteps(pipe.scheduler, n_steps)
    attach(pipe, Schedule(n_steps=n_steps, time=time, solver=make_solver("euler", n_steps, levels(pipe))))
    ours = act(pipe, n_steps)
    remove(pipe)
    pipe.scheduler = D.DDIMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(ours, act(pipe, n_steps), rtol=1e-4, atol=1e-4)


def levels(pipe: PolicyPipeline) -> Any:
    return noise_schedule_of(pipe.scheduler)


def test_the_levels_are_those_of_the_sampler(pipe: PolicyPipeline) -> None:
    alpha_bar = pipe.scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(levels(pipe).alpha(np.arange(100)) ** 2, alpha_bar, rtol=2e-5)


def test_a_reused_branch_is_the_one_of_the_call_before(pipe: PolicyPipeline) -> None:
    inventory = list_inventory(pipe)
    names = [site.name for site in inventory.sites]
    table = np.zeros((4, len(names)), np.uint8)
    table[1:3, names.index("blocks.1.cross_attn")] = CacheAction.REUSE
    expected, values = [], []
    branch: Any = pipe.transformer.get_submodule("blocks.1.cross_attn")

    def replay(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        values.append(output.clone())
        return values[0] if len(values) in (2, 3) else output

    hook = branch.register_forward_hook(replay)
    expected.append(act(pipe, 4))
    hook.remove()
    plain = act(pipe, 4)
    attach(pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
    assert torch.equal(act(pipe, 4), expected[0])
    remove(pipe)
    assert torch.equal(act(pipe, 4), plain)
    assert not torch.equal(plain, expected[0])


def test_macs_follow_from_the_sizes(pipe: PolicyPipeline) -> None:
    inventory = measure_inventory(pipe, 10, 4)
    macs = {site.name: site.macs for site in inventory.sites}
    n, m, d = 10, 3, 32
    assert macs["blocks.0.self_attn"] == 4 * n * d * d + 2 * n * n * d
    assert macs["blocks.0.cross_attn"] == 2 * n * d * d + 2 * m * d * d + 2 * n * m * d
    assert macs["blocks.0.ff"] == 8 * n * d * d
    assert macs["stack"] == 3 * sum(macs[f"blocks.0.{name}"] for name in ("self_attn", "cross_attn", "ff"))


def test_a_saved_policy_is_loaded_again_by_its_folder(pipe: PolicyPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "mine")
    model = load_model(str(tmp_path / "mine"), device="cpu")
    assert (model.preset.n_steps, model.preset.quality) == (100, "success")
    assert torch.equal(act(model.pipe, 3), act(pipe, 3))
    index = tmp_path / "mine" / "model_index.json"
    index.write_text(index.read_text().replace("PolicyTransformer", "OtherTransformer"))
    with pytest.raises(ModelNotFoundError, match="must come from diffusers"):
        check_model_folder(tmp_path / "mine")
