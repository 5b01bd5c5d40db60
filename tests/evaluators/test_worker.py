from collections.abc import Callable

import numpy as np
import pytest
import torch

from autotune.evaluators import image_workload, sampling
from autotune.evaluators.load import load_model
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.sampling import RunCost, Samples
from autotune.evaluators.thumbnails import N_KEPT, Thumbnails
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_plan import CachePlan, plan_macs
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.reference_schedule import reference_schedule
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.storage.artifacts import ArtifactStore

PROMPTS = Fidelity(name="calibration", prompts=("a photo of a cat", "a photo of a ship"), seeds=(3, 4))


def measured(outcome: Measurement | Failure) -> Measurement:
    assert isinstance(outcome, Measurement), outcome
    return outcome


def test_a_measurement_holds_every_figure_per_prompt(flux: Worker) -> None:
    m = measured(flux.score(Schedule(n_steps=4), PROMPTS, repeats=2))
    assert {name: len(values) for name, values in m.quality.items()} == {
        "deviation": 2, "psnr": 2, "ssim": 2, "alignment": 2,
    }  # fmt: skip
    assert (len(m.latency_ms), len(m.baseline_latency_ms)) == (2, 2)
    assert m.network_calls == 4
    assert m.macs == 4 * flux.inventory.total_macs
    assert m.relative_macs == pytest.approx(4 / 20)
    assert m.peak_memory_bytes > 50e6  # the resident model alone
    assert 0 < m.relative_latency < 0.8  # a fifth of the steps


def test_the_run_that_is_scored_is_not_among_the_timed_ones(flux: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first of its kind, which allocates and picks kernels."""
    order: list[str] = []

    def timed(name: str) -> Callable[..., RunCost]:
        def run(*_: object) -> RunCost:
            order.append(name)
            return RunCost(float(len(order)), None)

        return run

    flux.timing.recent(PROMPTS)
    monkeypatch.setattr(flux, "_time", timed("own"))
    monkeypatch.setattr(flux.timing, "refresh", timed("default"))
    m = measured(flux.score(Schedule(n_steps=2), PROMPTS, repeats=3))
    assert order == ["default", "own"] * 3
    assert (m.baseline_latency_ms, m.latency_ms) == ((1.0, 3.0, 5.0), (2.0, 4.0, 6.0))


def test_the_default_runs_time_is_that_which_latencies_are_held_against(flux: Worker) -> None:
    default_ms = flux.default_ms(PROMPTS)
    m = measured(flux.score(Schedule(n_steps=4), PROMPTS))
    assert default_ms in m.baseline_latency_ms  # not timed again so soon
    assert 0.02 < m.latency_ms[0] / default_ms < 0.8  # a fifth of the steps


def test_the_reference_is_the_limit_that_more_steps_approach(flux: Worker) -> None:
    errors = [
        measured(flux.score(reference_schedule(flux.condition, n), PROMPTS)).mean("deviation") for n in (10, 20, 40)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


def test_the_reference_starts_from_the_noise_level_of_the_default_run(pixart: Worker) -> None:
    time = reference_schedule(pixart.condition).time
    assert time is not None
    assert time[0] == pixart.own_timesteps(20)[0] == pixart.condition.start_timestep


def test_a_schedule_equal_to_the_reference_deviates_by_nothing(flux: Worker) -> None:
    m = measured(flux.score(reference_schedule(flux.condition), PROMPTS))
    assert m.mean("deviation") == 0.0
    assert m.mean("psnr") == 100.0


def test_the_reference_is_read_back_by_the_next_process(
    flux: Worker, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = flux.reference(PROMPTS)
    second = Worker(load_model("mini-flux"), artifacts=artifacts)
    monkeypatch.setattr(image_workload, "run_pipeline", None)  # nothing may be drawn
    assert torch.equal(second.reference(PROMPTS).latents, first.latents)
    last = PROMPTS.after(len(PROMPTS.prompts) - 1)
    assert torch.equal(second.reference(last).images, first.images[-1:])


def test_a_reference_is_made_once_per_prompt_and_seed(
    flux: Worker, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, ...]] = []
    run = sampling.run_pipeline

    def counting(pipe: object, embeddings: object, fidelity: Fidelity, **options: object) -> Samples:
        drawn.append(fidelity.prompts)
        return run(pipe, embeddings, fidelity, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(image_workload, "run_pipeline", counting)
    known = Fidelity(name="calibration", prompts=("a frog", "a horse"), seeds=(31, 32))
    flux.reference(known)
    flux.reference(Fidelity(name="held_out", prompts=("a horse", "a truck", "a frog"), seeds=(32, 33, 31)))
    flux.reference(Fidelity(name="held_out", prompts=("a frog",), seeds=(99,)))  # another seed, another sample
    assert drawn == [("a frog", "a horse"), ("a truck",), ("a frog",)]


def test_scoring_leaves_the_pipeline_as_it_was(flux: Worker) -> None:
    pipe = flux._pipe
    scheduler, decode = pipe.scheduler, vars(pipe.vae).get("decode")
    plan = CachePlan.from_array(np.r_[np.zeros((1, len(flux.inventory))), np.ones((19, len(flux.inventory)))])
    before = measured(flux.score(Schedule(n_steps=20), PROMPTS)).quality
    measured(flux.score(Schedule(n_steps=20, cache=plan), PROMPTS))
    assert pipe.scheduler is scheduler
    assert vars(pipe.vae).get("decode") is decode
    assert measured(flux.score(Schedule(n_steps=20), PROMPTS)).quality == before


def test_macs_follow_the_plan_and_the_branches(pixart: Worker) -> None:
    n_sites = len(pixart.inventory)
    table = np.zeros((20, n_sites), int)
    table[1::2] = 1
    schedule = Schedule(n_steps=20, cache=CachePlan.from_array(table))
    m = measured(pixart.score(canonical_schedule(schedule, pixart.inventory), PROMPTS))
    assert m.macs == 2 * plan_macs(schedule.cache, pixart.inventory, 20)
    guided = Schedule(n_steps=20, guidance=(GuidanceAction.BOTH,) * 10 + (GuidanceAction.CONDITIONAL,) * 10)
    assert measured(pixart.score(guided, PROMPTS)).macs == 30 * pixart.inventory.total_macs


def test_a_plan_for_another_model_is_an_invalid_candidate(flux: Worker) -> None:
    outcome = flux.score(Schedule(n_steps=20, cache=CachePlan.from_array(np.eye(20, 3, dtype=int))), PROMPTS)
    assert isinstance(outcome, Failure)
    assert outcome.kind is FailureKind.INVALID
    assert "50 sites" in outcome.reason


def test_a_slow_candidate_times_out(flux: Worker) -> None:
    flux.reference(PROMPTS)
    flux._timeout_s = 0.01
    try:
        outcome = flux.score(Schedule(n_steps=20), PROMPTS)
    finally:
        flux._timeout_s = None
    assert isinstance(outcome, Failure)
    assert outcome.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError("no"), "out_of_memory"),
        (None, "nan"),
    ],
)
def test_failures_of_the_network_have_a_kind(flux: Worker, error: Exception | None, kind: str) -> None:
    def spoil(module: torch.nn.Module, args: object, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if error is not None:
            raise error
        return (output[0] * float("nan"), *output[1:])

    flux.reference(PROMPTS)
    flux.score(Schedule(n_steps=2), PROMPTS)
    hook = flux._pipe.transformer.proj_out.register_forward_hook(lambda m, a, out: spoil(m, a, (out,))[0])
    try:
        outcome = flux.score(Schedule(n_steps=2), PROMPTS)
    finally:
        hook.remove()
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind


def test_a_bug_is_an_error_and_not_a_result(flux: Worker) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    flux.reference(PROMPTS)
    hook = flux._pipe.transformer.proj_out.register_forward_hook(fail)
    try:
        with pytest.raises(EvaluatorError, match="shapes do not match"):
            flux.score(Schedule(n_steps=3), PROMPTS)
    finally:
        hook.remove()


def test_images_do_not_depend_on_the_batch_that_they_are_drawn_in(flux: Worker) -> None:
    alone = Fidelity(name="calibration", prompts=PROMPTS.prompts[1:], seeds=PROMPTS.seeds[1:])
    together = flux._run(Schedule(n_steps=5), PROMPTS, None).latents[1:]
    deviation = score_deviation(flux._run(Schedule(n_steps=5), alone, None).latents, together)
    assert max(deviation) < 1e-4


def test_thumbnails_are_small_and_few() -> None:
    thumbnails, images = Thumbnails(), torch.rand(10, 3, 32, 32)
    for n in range(1, 40):
        thumbnails.keep(Schedule(n_steps=n), PROMPTS, images)
    assert len(thumbnails) == N_KEPT
    assert thumbnails.n_bytes == N_KEPT * 10 * 3 * 32 * 32
    assert thumbnails.of(Schedule(n_steps=1), PROMPTS) is None
    kept = thumbnails.of(Schedule(n_steps=39), PROMPTS)
    assert kept is not None
    assert (kept - images).abs().max() < 1 / 500
    thumbnails.keep(Schedule(n_steps=1), PROMPTS, torch.full((2, 3, 1024, 512), 0.5))
    large = thumbnails.of(Schedule(n_steps=1), PROMPTS)
    assert large is not None
    assert large.shape == (2, 3, 256, 128)
    assert (large - 0.5).abs().max() < 1 / 500


def test_a_contact_sheet_is_one_row_of_the_samples(flux: Worker) -> None:
    import io

    from PIL import Image

    def sheet(indices: tuple[int, ...]) -> Image.Image:
        return Image.open(io.BytesIO(flux.contact_sheet(Schedule(n_steps=2), PROMPTS, indices)))

    again = sheet((1,))  # run for the sheet alone
    measured(flux.score(Schedule(n_steps=2), PROMPTS))
    both = sheet((0, 1))
    assert both.size == (64, 32)
    of_second = np.asarray(both, int)[:, 32:]
    assert np.abs(of_second - np.asarray(sheet((1,)), int)).max() == 0
    assert np.abs(of_second - np.asarray(again, int)).max() <= 2
    assert np.abs(of_second - np.asarray(both, int)[:, :32]).max() > 20
