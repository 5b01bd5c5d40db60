"""What a schedule's table was made for, and with what else it would compute something wrong."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.schedule import Schedule, schedule_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class TableIdentity:
    """The run that a table fits: all that its figures depend on (CacheQuant's tables are tied to the same).

    `column` is the one that names it, `weights` the revision of the model, `sampler` the pipeline's scheduler, or the
    hash of a schedule's own solver; `schedule` is the hash of the schedule that the table was fitted to.
    """

    column: str
    model: str
    weights: str
    sampler: str
    n_steps: int
    guidance_scale: float
    height: int
    width: int
    schedule: str

    @classmethod
    def of(cls, column: str, schedule: Schedule, condition: Condition) -> "TableIdentity":
        """The identity that the table of this column of a canonical schedule must have under a condition."""
        solver = Schedule(
            n_steps=schedule.n_steps,
            time=schedule.time,
            solver=schedule.solver,
            compensation=schedule.compensation,
            start=schedule.start,
            correction=schedule.correction,
        )
        return cls(
            column=column,
            model=condition.model,
            weights=condition.revision,
            sampler=condition.scheduler_class if schedule.time is None else schedule_hash(solver),
            n_steps=schedule.n_steps,
            guidance_scale=float(condition.guidance_scale),
            height=condition.height,
            width=condition.width,
            schedule=schedule_hash(schedule.before_table(column)),
        )

    def to_json(self) -> dict[str, object]:
        """A JSON object that `check` reads."""
        return asdict(self)

    def check(self, found: object) -> None:
        """Return if a table says that it was made for this.

        Raises:
            ScheduleError: it says nothing readable.
            ScheduleMismatchError: it was made for something else; the message names the first field that differs.
        """
        own = self.to_json()
        if not isinstance(found, Mapping) or set(found) != set(own):
            raise ScheduleError(f"the table of {self.column} must say what it was made for; export the schedule again")
        for field, value in own.items():
            if found[field] != value:
                raise ScheduleMismatchError(
                    f"the table of {self.column} fits one {field.replace('_', ' ')}; it was made for "
                    f"{_short(found[field])}, this is {_short(value)}: fit it again, or leave "
                    f"{self.column} out"
                )


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
