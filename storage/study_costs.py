"""The cost model of a study, for those that rank or limit what only such a model tells of a schedule."""

import dataclasses
from collections.abc import Iterable, Iterator

from autotune.spaces.cost_model import CostModel, cost_model_from_bytes
from autotune.spaces.evaluation import Evaluation, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import Candidate
from autotune.storage.artifacts import ArtifactStore


def save_costs(artifacts: ArtifactStore, study: str, model: CostModel) -> None:
    """Keep a study's cost model among the artifacts."""
    artifacts.save(_name(study), model.to_bytes(), "costs")


def load_costs(artifacts: ArtifactStore, study: str) -> CostModel | None:
    """The study's cost model, if it has one."""
    data = artifacts.load(_name(study))
    return None if data is None else cost_model_from_bytes(data)


def with_costs(candidates: Iterable[Candidate], model: CostModel | None) -> Iterator[Candidate]:
    """The candidates, their measurements completed by the model."""
    for candidate in candidates:
        if model is None:
            yield candidate
            continue
        held_out = candidate.held_out
        yield dataclasses.replace(
            candidate,
            calibration=_completed(candidate.calibration, candidate.schedule, model),
            held_out=None if held_out is None else _completed(held_out, candidate.schedule, model),
        )


def _name(study: str) -> str:
    return f"study-costs/{study}"


def _completed(evaluation: Evaluation, schedule: Schedule, model: CostModel) -> Evaluation:
    outcome = evaluation.outcome
    if isinstance(outcome, Measurement):
        return dataclasses.replace(evaluation, outcome=model.completed(schedule, outcome))
    return evaluation
