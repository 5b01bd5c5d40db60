"""The traced run: it is the reference, the program reproduces it, and it leaves no trace on the pipeline."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators import image_workload
from autotune.evaluators.load import load_model
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.evaluators.trace import StepRecorder
from autotune.evaluators.worker import Worker
from autotune.spaces.condition import Condition
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.reference_schedule import reference_schedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.traced_grid import gits
from autotune.storage.artifacts import ArtifactStore

N_LEVELS = 8
PROMPTS = Fidelity(
    name="calibration", prompts=("a photo of a cat", "a photo of a ship", "a photo of a dog"), seeds=(3, 4, 5)
)


def program_of(condition: Condition, n_levels: int) -> SolverProgram:
    prediction: Prediction = condition.prediction
    return compile_program(reference_schedule(condition, n_levels), condition.noise_schedule, prediction)


def relative_gap(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.ravel(a - b)) / np.linalg.norm(np.ravel(b)))


@pytest.mark.parametrize("model", ["flux", "pixart"])
def test_the_program_steps_the_recorded_outputs_to_the_recorded_states(
    model: str, request: pytest.FixtureRequest
) -> None:
    worker: Worker = request.getfixturevalue(model)
    trace = worker.trace(PROMPTS, 2, N_LEVELS)
    assert trace.n_samples == 2  # of a guided pair one output, after guidance
    program = program_of(worker.condition, N_LEVELS)
    np.testing.assert_array_equal(trace.timesteps, program.timesteps)
    stepped = np.einsum("ij,j...->i...", program.state_coefs, trace.states[:-1])
    stepped += np.einsum("ij,j...->i...", program.output_coefs, trace.outputs)
    assert max(relative_gap(a, b) for a, b in zip(stepped, trace.states[1:], strict=True)) < 1e-5


def test_the_last_state_is_the_sample_that_the_pipeline_decodes(pixart: Worker) -> None:
    trace = pixart.trace(PROMPTS, 3, N_LEVELS)
    sample = pixart._run(reference_schedule(pixart.condition, N_LEVELS), PROMPTS, None).latents
    assert relative_gap(trace.states[-1], sample.numpy()) < 1e-6


def test_samples_do_not_depend_on_the_batches_that_they_are_drawn_in(
    pixart: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = pixart.trace(PROMPTS, 3, 4)
    monkeypatch.setattr(pixart, "_preset", dataclasses.replace(pixart._preset, batch_size=2))
    apart = pixart.trace(PROMPTS, 3, 4)
    assert relative_gap(apart.states, together.states) < 1e-4
    assert relative_gap(apart.outputs, together.outputs) < 1e-4


def test_tracing_leaves_the_pipeline_as_it_was(pixart: Worker) -> None:
    pipe = pixart._pipe
    scheduler, step = pipe.scheduler, vars(pipe.scheduler).get("step")
    before = pixart._run(Schedule(n_steps=4), PROMPTS, None)
    pixart.trace(PROMPTS, 1, 3)
    after = pixart._run(Schedule(n_steps=4), PROMPTS, None)
    assert torch.equal(before.latents, after.latents)
    assert torch.equal(before.images, after.images)
    assert pipe.scheduler is scheduler
    assert vars(scheduler).get("step") is step


def test_a_watched_run_computes_what_an_unwatched_one_does(pixart: Worker) -> None:
    schedule, recorder = reference_schedule(pixart.condition, 3), StepRecorder(3)
    watched = pixart._run(schedule, PROMPTS, None, recorder)
    assert torch.equal(watched.latents, pixart._run(schedule, PROMPTS, None).latents)


def test_a_trace_is_read_back_by_the_next_process(
    flux: Worker, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = flux.trace(PROMPTS, 2, N_LEVELS)
    second = Worker(load_model("mini-flux"), artifacts=artifacts)
    monkeypatch.setattr(image_workload, "run_pipeline", None)  # nothing may be drawn
    again = second.trace(PROMPTS, 2, N_LEVELS)
    for name in ("timesteps", "states", "outputs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_a_trace_needs_the_prompts(flux: Worker) -> None:
    with pytest.raises(UsageError, match=r"1 \.\. 3 for calibration; got 4"):
        flux.trace(PROMPTS, 4, N_LEVELS)


def test_the_tabulated_trace_is_a_trajectory_of_the_ode() -> None:
    evaluator = TabulatedEvaluator()
    trace = evaluator.trace(PROMPTS, 2, 100)
    assert trace.states.shape == (101, 2, 16)
    program = program_of(evaluator.condition, 100)
    stepped = np.einsum("ij,j...->i...", program.state_coefs, trace.states[:-1])
    stepped += np.einsum("ij,j...->i...", program.output_coefs, trace.outputs)
    # One step of third order from exact states, from the fourth on.
    assert max(relative_gap(a, b) for a, b in zip(stepped[4:], trace.states[5:], strict=True)) < 1e-4
    assert len(gits(trace, evaluator.condition.noise_schedule, "velocity", 6)) == 6
