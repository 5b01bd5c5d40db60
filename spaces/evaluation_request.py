"""An evaluation that is to be made."""

from dataclasses import dataclass

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """One schedule to score at one fidelity under one condition; `key` covers everything that decides its value.

    `schedule` is in canonical form and `schedule_hash` the hash of that form.
    """

    key: str
    schedule: Schedule
    schedule_hash: str
    condition: Condition
    fidelity: Fidelity
