"""A synthetic but real study: a Flux-like inventory, three families, failures, held-out values and images."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from autotune.reports.report import report_files
from autotune.spaces.cache_plan import CachePlan, plan_macs
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Measurement
from autotune.spaces.front import calibration_front
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState

N_STEPS = 20


def make_inventory(n_double: int = 3, n_single: int = 5) -> Inventory:
    """Joint blocks of three leaves, then single blocks whose `proj_out` alone reads the two others."""
    sites: list[Site] = []
    for i in range(n_double):
        block = f"transformer_blocks.{i}"
        for component, macs in (("attn", 400), ("ff", 500), ("ff_context", 100)):
            sites.append(Site(name=f"{block}.{component}", block=block, component=component, macs=macs))
    for i in range(n_single):
        block, out = f"single_transformer_blocks.{i}", len(sites) + 2
        for component, macs in (("attn", 350), ("proj_mlp", 260)):
            sites.append(
                Site(name=f"{block}.{component}", block=block, component=component, macs=macs, parent=out,
                     relation=Relation.FEEDS)
            )  # fmt: skip
        sites.append(Site(name=f"{block}.proj_out", block=block, component="proj_out", macs=390))
    total = 150 + sum(site.macs for site in sites)
    return Inventory(denoiser_class="FluxTransformer2DModel", sites=tuple(sites), total_macs=total)


class StudyMaker:
    """Builds candidates whose figures follow a simple law, with noise from one generator."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.rng = np.random.default_rng(7)
        self.candidates: list[Candidate] = []
        self.cache_error = 0.025

    def measure(self, schedule: Schedule, n_prompts: int, shift: float = 1.0) -> Measurement:
        rng, calls = self.rng, schedule.n_steps
        macs = plan_macs(schedule.cache, self.inventory, calls)
        full = self.inventory.total_macs * calls
        order = 1.0 if schedule.solver is None else float(np.mean([s.order for s in schedule.solver]))
        error = 1.1 * calls**-1.25 / order**0.75 + self.cache_error * (1.0 - macs / full) ** 1.5
        if schedule.solver is None:
            error *= 1.45  # the pipeline's own grid is the worse one
        if schedule.guidance is not None:
            macs, error = int(0.8 * macs), error * 1.05
        baseline_macs = self.inventory.total_macs * N_STEPS
        deviation = shift * error * rng.lognormal(0.0, 0.18, n_prompts)
        latency = 4.0 + 46.0 * macs / baseline_macs + 1.2 * calls / N_STEPS
        return Measurement(
            quality={
                "deviation": tuple(deviation.tolist()),
                "psnr": tuple((14.0 - 14.0 * np.log10(deviation)).tolist()),
                "ssim": tuple((1.0 - 0.4 * deviation).tolist()),
                "alignment": tuple((0.56 - 0.5 * deviation**2 + 0.02 * rng.normal(size=n_prompts)).tolist()),
            },
            latency_ms=tuple((latency * rng.lognormal(0.0, 0.02, 7)).tolist()),
            baseline_latency_ms=tuple((51.2 * rng.lognormal(0.0, 0.02, 7)).tolist()),
            macs=macs,
            baseline_macs=baseline_macs,
            network_calls=calls,
            peak_memory_bytes=3_000_000 + 40_000 * len(self.inventory) * (schedule.cache is not None),
            wall_s=2.5,
        )

    def add(self, family: str, label: str, schedule: Schedule, failure: Failure | None = None) -> None:
        schedule = canonical_schedule(schedule, self.inventory)
        outcome = failure or self.measure(schedule, 8)
        number, digest = len(self.candidates), schedule_hash(schedule)
        evaluation = make_evaluation(f"c{number}", digest, "calibration", outcome)
        self.candidates.append(
            Candidate(number=number, family=family, label=label, schedule=schedule, schedule_hash=digest,
                      calibration=evaluation)
        )  # fmt: skip

    def solver_run(self, name: str, n: int, order: int) -> Schedule:
        view, domain = ("velocity", "sigma") if order == 1 else ("data", "lambda")
        steps = [
            SolverStep(view=view, domain=domain, order=min(order, i + 1), corrector=order == 3)  # type: ignore[arg-type]
            for i in range(n)
        ]
        grid = 1000.0 * (1.0 - np.arange(n) / n) ** (0.8 if name == "euler" else 1.1)
        return Schedule(n_steps=n, time=tuple(grid.tolist()), solver=tuple(steps))


def make_evaluation(key: str, digest: str, fidelity: str, outcome: Measurement | Failure) -> Evaluation:
    state = EvaluationState.FAILED if isinstance(outcome, Failure) else EvaluationState.COMPLETE
    return Evaluation(key=key, schedule_hash=digest, fidelity=fidelity, state=state, outcome=outcome)


def make_candidates(inventory: Inventory) -> list[Candidate]:
    maker = StudyMaker(inventory)
    rng = np.random.default_rng(3)
    maker.add("baseline", "default run, 20 steps", Schedule(n_steps=N_STEPS))
    for name, order in (("euler", 1), ("dpmpp-2m", 2), ("unipc-2", 3)):
        for n in (5, 6, 8, 10, 12, 16, 20):
            maker.add("fewer-steps", f"{name} {n} steps", maker.solver_run(name, n, order))
    maker.cache_error = 0.2
    for every in (2, 3, 4):
        table = np.ones((N_STEPS, len(inventory)), np.uint8)
        table[::every] = 0
        maker.add(
            "cache-masks", f"all sites, every {every}", Schedule(n_steps=N_STEPS, cache=CachePlan.from_array(table))
        )
    maker.cache_error = 0.025
    for i in range(26):
        n = int(rng.choice([10, 12, 14, 16, 20]))
        rate = rng.uniform(0.05, 0.6)
        mask = rng.random((n, len(inventory))) < rate * np.linspace(0.3, 1.7, n)[:, None]
        run = maker.solver_run("unipc-2", n, 3)
        guidance = None
        if i % 4 == 0:
            guidance = tuple(
                [GuidanceAction.BOTH] * (n // 2)
                + [GuidanceAction.STORED] * (n // 4)
                + [GuidanceAction.CONDITIONAL] * (n - n // 2 - n // 4)
            )
        maker.add(
            "ecad", f"generation {1 + i // 8}, number {i}",
            Schedule(n_steps=n, time=run.time, solver=run.solver, cache=CachePlan.from_array(mask), guidance=guidance),
        )  # fmt: skip
    failures = [
        (FailureKind.OUT_OF_MEMORY, "CUDA out of memory: 1.2 GiB asked for, 0.3 GiB free")] * 4 + [
        (FailureKind.NAN, "the latents hold NaN after call 7")] * 2 + [
        (FailureKind.TIMEOUT, "no result after 120 s"), (FailureKind.INVALID, "cache has 23 columns, not 24")
    ]  # fmt: skip
    for i, (kind, reason) in enumerate(failures):
        run = maker.solver_run("euler", 7 + i, 4)
        maker.add("ecad", f"broken {i}", run, Failure(kind=kind, reason=reason))
    return maker.candidates


def make_record(*, held_out: bool = True, inventory: Inventory | None = None) -> StudyRecord:
    """The study without images; with `held_out`, its front and the default run are measured again."""
    inventory = inventory or make_inventory()
    candidates = make_candidates(inventory)
    condition = Condition(
        model="mini-flux", revision="sha256:0123456789abcdef", pipeline_class="FluxPipeline",
        inventory_hash=inventory.hash, noise_schedule=Flow(mu=0.8, dynamic=True), prediction="velocity",
        scheduler_class="FlowMatchEulerDiscreteScheduler", start_timestep=1000.0, height=32, width=32, batch_size=1,
        dtype="float32", guidance_scale=1.0, n_steps=N_STEPS, device="cpu (2 cores)",
        versions=(("diffusers", "0.42.1"), ("torch", "2.13.0")),
    )  # fmt: skip
    record = StudyRecord(
        name="mini-flux-first", state=StudyState.DONE, created="2026-01-02T03:04:05Z", wall_s=431.6,
        settings={"model": "mini-flux", "family": "joint", "objectives": ["latency", "deviation"], "seed": 0,
                  "budget": {"wall_s": 600.0, "evaluations": None}, "constraints": [],
                  "held_out": [f"held-out prompt {i}" for i in range(24)]},
        provenance={"hardware": {"cpu": "a processor", "cores": 2}, "commit": "0123abc", "package": "0.1.0",
                    "default_timesteps": [1000.0 - 50.0 * i for i in range(N_STEPS)]},
        condition=condition, inventory=inventory, candidates=tuple(candidates), images={},
    )  # fmt: skip
    if not held_out:
        return record
    maker = StudyMaker(inventory)
    again = {c.number for c in calibration_front(record)} | {0}
    candidates = [
        dataclasses.replace(
            c,
            held_out=make_evaluation(f"h{c.number}", c.schedule_hash, "held_out", maker.measure(c.schedule, 24, 1.06)),
        )
        if c.number in again
        else c
        for c in candidates
    ]
    images = {c.schedule_hash: f"sheet-{c.number}" for c in candidates if c.number in again}
    return dataclasses.replace(record, candidates=tuple(candidates), images=images)


def contact_sheet(name: str) -> bytes:
    """PNG of eight 32 x 32 blobs in a row; the name decides the noise on them."""
    number = int(name.rsplit("-", 1)[1])
    rng, shapes = np.random.default_rng(number), np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32] / 31.0
    tiles = []
    for _ in range(8):
        centre, colour = shapes.uniform(0.3, 0.7, 2), shapes.uniform(40, 220, 3)
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.04)[..., None]
        tile = blob * colour + (1 - blob) * shapes.uniform(40, 220, 3) + rng.normal(0, 0.3 * number, (32, 32, 3))
        tiles.append(np.clip(tile, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def record() -> StudyRecord:
    """The study with its front and default run measured again on held-out prompts."""
    return make_record()


@pytest.fixture(scope="session")
def search_only() -> StudyRecord:
    """The study before its front was measured again."""
    return make_record(held_out=False)


@pytest.fixture(scope="session")
def deviation_only(record: StudyRecord) -> StudyRecord:
    """The study as if deviation had been its only metric."""

    def reduced(evaluation: Evaluation | None) -> Evaluation | None:
        if evaluation is None or evaluation.measurement is None:
            return evaluation
        quality = {"deviation": evaluation.measurement.quality["deviation"]}
        return dataclasses.replace(evaluation, outcome=dataclasses.replace(evaluation.measurement, quality=quality))

    candidates = []
    for c in record.candidates:
        calibration = reduced(c.calibration)
        assert calibration is not None
        candidates.append(dataclasses.replace(c, calibration=calibration, held_out=reduced(c.held_out)))
    return dataclasses.replace(record, candidates=tuple(candidates))


@pytest.fixture(scope="session")
def load_artifact() -> Callable[[str], bytes | None]:
    """Gives the PNG of every image of the study."""
    return contact_sheet


@pytest.fixture(scope="session")
def files(record: StudyRecord, load_artifact: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """The report of the study, made once."""
    return report_files(record, load_artifact)
