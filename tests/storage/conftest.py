"""Values that the storage tests put in and expect back."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.solver_step import SolverStep
from autotune.storage.connection import make_engine
from autotune.storage.database import CandidateEntry, Database
from autotune.storage.location import parse_location
from autotune.storage.sessions import Sessions

from .postgres import KINDS, PostgresServer, make_database


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.delete()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database of each kind, with its artifacts in `tmp_path`."""
    yield from make_database(request, tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database.open(url) as database:
        yield database


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(str(tmp_path / "autotune.db")) as database:
        yield database


@pytest.fixture
def query(url: str) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
    """Run one statement of plain SQL on the database; its rows, if it has any."""
    location = parse_location(url)
    engine = make_engine(location)

    def run(statement: str, **values: object) -> list[tuple[object, ...]]:
        with Sessions(engine, location).writing() as connection:
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    engine.dispose()


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(
        denoiser_class="Toy",
        sites=(
            Site(name="blocks.0", block="0", component="block", macs=50),
            Site(name="blocks.0.attn", block="0", component="attn", macs=20, parent=0, relation=Relation.INSIDE),
        ),
        total_macs=60,
    )


@pytest.fixture
def condition(inventory: Inventory) -> Condition:
    return Condition(
        model="toy/model",
        revision="abc",
        pipeline_class="ToyPipeline",
        inventory_hash=inventory.hash,
        noise_schedule=Flow(mu=0.1 + 0.2, dynamic=True),
        prediction="velocity",
        scheduler_class="FlowMatchEulerDiscreteScheduler",
        start_timestep=1000.0,
        height=64,
        width=96,
        batch_size=1,
        dtype="float32",
        guidance_scale=3.5,
        n_steps=2,
        device="cpu",
        versions=(("numpy", "2"), ("torch", "2.13")),
    )


@pytest.fixture
def fidelity() -> Fidelity:
    return Fidelity(name="calibration", prompts=("a red 'apple'", "ein Bär\n"), seeds=(7, 2**63 - 1))


@pytest.fixture
def make_schedule() -> Callable[[int], Schedule]:
    """Schedule number i, which uses every column."""

    def make(i: int) -> Schedule:
        return Schedule(
            n_steps=2,
            time=(999.0, 1 / (i + 3)),
            solver=(
                SolverStep(view="data", domain="lambda", order=1, corrector=True),
                SolverStep(view="noise", domain="sigma", order=2),
            ),
            compensation=(1.0, 0.9),
            cache=CachePlan(2, 2, bytes([0, 0, 1, 0])),
            guidance=(GuidanceAction.BOTH, GuidanceAction.STORED),
        )

    return make


@pytest.fixture
def make_measurement() -> Callable[[float], Measurement]:
    """A measurement of the two prompts of `fidelity`, all of whose values depend on x."""

    def make(x: float) -> Measurement:
        return Measurement(
            quality={"deviation": (0.1 * x, 0.3), "psnr": (30.0 + x, 31.0)},
            latency_ms=(10.0 + x, 11.0, 9.0),
            baseline_latency_ms=(20.0, 21.0 + x),
            macs=6 * 10**15,
            baseline_macs=12 * 10**15,
            network_calls=28,
            peak_memory_bytes=0,
            wall_s=1.5 + x,
        )

    return make


@pytest.fixture
def start(
    database: Database, condition: Condition, fidelity: Fidelity, make_schedule: Callable[[int], Schedule]
) -> Callable[..., str]:
    """Start evaluation `key` of schedule number i; returns the schedule's hash."""

    def start_evaluation(key: str, i: int = 0, fidelity: Fidelity = fidelity) -> str:
        schedule = make_schedule(i)
        digest = schedule_hash(schedule)
        database.start_evaluations(
            [
                EvaluationRequest(
                    key=key, schedule=schedule, schedule_hash=digest, condition=condition, fidelity=fidelity
                )
            ]
        )
        return digest

    return start_evaluation


@pytest.fixture
def study(database: Database, condition: Condition, inventory: Inventory) -> str:
    database.create_study(
        "flux",
        settings={"family": "ecad", "seed": 3},
        provenance={"cpu": "x"},
        condition=condition,
        inventory=inventory,
    )
    return "flux"


@pytest.fixture
def add(database: Database, study: str, make_schedule: Callable[[int], Schedule]) -> Callable[[int, str], str]:
    """Add candidate number i with schedule number i; returns the schedule's hash."""

    def add_candidate(i: int, key: str) -> str:
        schedule = make_schedule(i)
        digest = schedule_hash(schedule)
        entry = CandidateEntry(
            number=i, family="ecad", label=f"plan {i}", schedule=schedule, schedule_hash=digest, key=key
        )
        database.add_candidates(study, [entry])
        return digest

    return add_candidate
