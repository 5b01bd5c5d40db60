"""The cost model of a study, for those that rank or limit what only such a model tells of a schedule."""

import dataclasses
from collections.abc import Iterable, Iterator

from autotune.spaces.cost_model import CostModel, cost_model_from_bytes, default_completed
from autotune.spaces.evaluation import Evaluation, Measurement
from autotune.spaces.front import BASELINE
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
    """The candidates, their measurements completed by the model; without one only those of the default run."""
    for candidate in candidates:
        if model is None and candidate.family != BASELINE:
            yield candidate
            continue
        held_out = candidate.held_out
        yield dataclasses.replace(
            candidate,
            calibration=_completed(candidate.calibration, candidate, model),
            held_out=None if held_out is None else _completed(held_out, candidate, model),
        )


def _name(study: str) -> str:
    return f"study-costs/{study}"


def _completed(evaluation: Evaluation, candidate: Candidate, model: CostModel | None) -> Evaluation:
    outcome = evaluation.outcome
    if not isinstance(outcome, Measurement):
        return evaluation
    complete = default_completed(outcome) if model is None else model.completed(candidate.schedule, outcome)
    return dataclasses.replace(evaluation, outcome=complete)
