"""Inner products of the branches' differences, recorded in runs of unmodified pipelines."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.guidance_recording import DifferenceRecorder
from autotune.spaces.errors import EvaluatorError

from .mini_pipelines import attributes, denoiser_of, run
from .random_pipelines import random_args


@pytest.mark.parametrize("name", ["mini-pixart", "sd3", "qwen-image", "wan"])
def test_all_pairs_of_calls_and_runs_count_and_a_learned_variance_does_not(
    name: str, pixart_pipe: Any, random_pipes: Any, small_args: Any
) -> None:
    pipe = pixart_pipe if name == "mini-pixart" else random_pipes[name]
    kwargs = small_args(name) if name == "mini-pixart" else random_args(name)
    first, second = {"prompt": ["a red circle", "a cat"]}, {"prompt": ["a dog", "a blue square"]}
    if "prompt_embeds" in kwargs:
        first, second = {}, {"prompt_embeds": 0.5 * kwargs["prompt_embeds"]}
    kwargs = {**kwargs, **first}
    steps = kwargs["num_inference_steps"]
    plain, before = run(pipe, kwargs), attributes(pipe)
    halves: list[torch.Tensor] = []  # of a batch the unconditional one first, of two calls the conditional one
    n_halves = 2 if find_adapter(pipe).guidance == "batch" else 1
    hook = denoiser_of(pipe).register_forward_hook(lambda m, a, out: halves.extend(out[0].double().chunk(n_halves)))
    recorder = DifferenceRecorder(pipe, 3, steps)  # as if the fourth channel were a variance
    with recorder.watching():
        assert torch.equal(run(pipe, kwargs), plain)
        run(pipe, {**kwargs, **second})
    hook.remove()
    pairs = zip(halves[::2], halves[1::2], strict=True)
    d = torch.stack([(second - first)[:, :3].flatten() for first, second in pairs]).reshape(2, steps, -1)
    expected = (d @ d.transpose(1, 2)).sum(dim=0).numpy()
    np.testing.assert_allclose(recorder.gram(), expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert attributes(pipe) == before


def test_an_incomplete_run_is_refused(pixart_pipe: Any, small_args: Any) -> None:
    recorder = DifferenceRecorder(pixart_pipe, 4, 6)
    with pytest.raises(EvaluatorError, match="complete guided runs of 6 calls; got 0"):
        recorder.gram()
    with recorder.watching():
        run(pixart_pipe, small_args("mini-pixart"))
    with pytest.raises(EvaluatorError, match="got 4 of the last"):
        recorder.gram()
