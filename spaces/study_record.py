"""A study as it stands in the database: what `storage` returns and what `reports` draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Evaluation
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

DEFAULT_TIMESTEPS = "default_timesteps"
"""What the provenance of a study calls the timesteps of the network calls of its default run."""


class StudyState(StrEnum):
    """Life of a study."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One schedule that a study tried.

    `number` counts from 0 in the order of asking, `family` is the searcher that proposed it (`baseline` for the
    pipeline's default run), `label` says what it is in a few words ("dpmpp-2m 10 steps"). `calibration` is what the
    search saw, `held_out` the re-measurement of a front member, if there is one.
    """

    number: int
    family: str
    label: str
    schedule: Schedule
    schedule_hash: str
    calibration: Evaluation
    held_out: Evaluation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """One search with one budget.

    `settings` holds what the user chose (model, family, objectives, constraints, seed, budget), JSON types only.
    `created` is ISO 8601, UTC. `wall_s` is the wall time used so far, over all sessions of the study; `device_s` the
    seconds of workers, which is more where several measured at once.
    `provenance` holds hardware, versions and the default run's timesteps. `images` maps a schedule hash to the artifact
    key of its PNG contact sheet (held-out prompts in order, one row).
    """

    name: str
    state: StudyState
    created: str
    wall_s: float
    settings: Mapping[str, object]
    provenance: Mapping[str, object]
    condition: Condition
    inventory: Inventory
    candidates: tuple[Candidate, ...]
    images: Mapping[str, str]
    device_s: float = 0.0

    @property
    def default_timesteps(self) -> tuple[float, ...] | None:
        """At which timesteps the pipeline's default run calls the network; None where the study did not note it."""
        times = self.provenance.get(DEFAULT_TIMESTEPS)
        return tuple(map(float, times)) if isinstance(times, list | tuple) and times else None

    @property
    def whole(self) -> tuple[Candidate, ...]:
        """The candidates that were measured on all calibration prompts.

        Left out are those that failed, and those that were stopped on fewer prompts, which no other values can be
        compared with. The default run, which every study begins with, is always measured in full.
        """
        counts = [0 if (m := c.calibration.measurement) is None else m.n_prompts for c in self.candidates]
        most = max(counts, default=0)
        return tuple(c for c, count in zip(self.candidates, counts, strict=True) if count == most > 0)
