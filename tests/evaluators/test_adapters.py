"""Sites and inputs of the model families, against real modules and real pipeline calls."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from autotune.evaluators.adapters import ADAPTERS, find_adapter
from autotune.evaluators.inventory import default_prompt_tokens
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.inventory import Relation


def denoiser_of(pipe: Any) -> Any:
    return getattr(pipe, find_adapter(pipe).denoiser_attr)


def test_sites_stand_in_execution_order(pipe_case: tuple[Any, dict[str, Any]]) -> None:
    pipe, kwargs = pipe_case
    sites = [s for s in find_adapter(pipe).list_sites(denoiser_of(pipe)) if s.name not in ("final", "stack")]
    ran: list[str] = []
    hooks = [
        denoiser_of(pipe).get_submodule(s.name).register_forward_pre_hook(lambda *_, name=s.name: ran.append(name))
        for s in sites
    ]
    pipe(**kwargs)
    for hook in hooks:
        hook.remove()
    first_call = ran[: len(sites)]
    if type(pipe).__name__ == "FluxPipeline":  # a single block runs proj_mlp before attn; the paper lists attn first
        assert sorted(first_call) == sorted(s.name for s in sites)
    else:
        assert first_call == [s.name for s in sites]


def test_inputs_have_the_shapes_that_the_pipeline_passes(pipe_case: tuple[Any, dict[str, Any]]) -> None:
    pipe, kwargs = pipe_case
    adapter = find_adapter(pipe)
    seen: list[tuple[Any, Any]] = []
    hook = denoiser_of(pipe).register_forward_pre_hook(lambda m, a, k: seen.append((a, k)), with_kwargs=True)
    pipe(**{**kwargs, "height": 48, "guidance_scale": 1.0})
    hook.remove()
    args, passed = seen[0]
    shape = adapter.latent_shape(pipe, 48, 32)
    made = adapter.make_inputs(pipe, shape, default_prompt_tokens(pipe))
    assert shape == tuple((args[0] if args else passed["hidden_states"]).shape)
    for name, value in passed.items():
        if isinstance(value, torch.Tensor) and name in made and value.ndim:
            assert made[name].shape == value.shape, name
    denoiser_of(pipe)(**made)


def test_flux_has_three_sites_per_block_and_projections_that_are_fed(flux_pipe: Any) -> None:
    sites = find_adapter(flux_pipe).list_sites(flux_pipe.transformer)
    assert len(sites) == 2 + 4 * (4 + 8)
    assert [s.component for s in sites[:6]] == ["final", "stack", "block", "attn", "ff", "ff_context"]
    assert [sites[s.parent or 0].component for s in sites[1:6]] == ["final", "stack", "block", "block", "block"]
    for s in sites[18:]:
        if s.relation is Relation.FEEDS:
            assert s.parent is not None
            assert sites[s.parent].name == f"{s.block}.proj_out"
    assert sum(s.relation is Relation.FEEDS for s in sites) == 16


def test_unet_leaves_are_inside_their_stage(sd_pipe: Any) -> None:
    sites = find_adapter(sd_pipe).list_sites(sd_pipe.unet)
    stages = [s.name for s in sites if s.component == "stage"]
    assert stages == ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    for s in sites:
        if s.parent is not None:
            assert s.relation is Relation.INSIDE
            assert sites[s.parent].name == "final" or s.name.startswith(sites[s.parent].name + ".")
    leaves = {n for n, m in sd_pipe.unet.named_modules() if type(m).__name__ in ("ResnetBlock2D", "Attention")}
    assert leaves <= {s.name for s in sites}


def test_sdxl_unet_has_stages_without_attention_and_deeper_transformers() -> None:
    make: Any = diffusers.UNet2DConditionModel
    unet = make(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 10,
        use_linear_projection=True,
    )
    pipe = SimpleNamespace(unet=unet, vae_scale_factor=8, config=SimpleNamespace())
    adapter = find_adapter(pipe)
    names = [s.name for s in adapter.list_sites(unet)]
    blocks = "down_blocks.1.attentions.0.transformer_blocks"
    assert names[:3] == ["final", "down_blocks.0", "down_blocks.0.resnets.0"]
    assert names[4:11] == [
        "down_blocks.1.resnets.0",
        *(f"{blocks}.{i}.{leaf}" for i in (0, 1) for leaf in ("attn1", "attn2", "ff")),
    ]
    inputs = adapter.make_inputs(pipe, adapter.latent_shape(pipe, 64, 64), 7)
    assert inputs["added_cond_kwargs"]["text_embeds"].shape == (1, 10)
    with torch.no_grad():
        assert unet(**inputs).sample.shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("pipe", "got"),
    [
        (SimpleNamespace(transformer=torch.nn.Linear(1, 1)), "got Linear in SimpleNamespace"),
        (SimpleNamespace(unet=None), "got none in SimpleNamespace"),
    ],
)
def test_unknown_denoiser_is_refused_with_the_known_ones(pipe: Any, got: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"must be one of {', '.join(sorted(ADAPTERS))}; ") as info:
        find_adapter(pipe)
    assert got in str(info.value)
