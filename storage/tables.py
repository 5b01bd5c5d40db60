"""The tables. Rows never leave `storage`: its functions take and return the values of `autotune.spaces`.

    model 1--* condition 1--* evaluation *--1 schedule
                              evaluation *--1 prompt_set
                              evaluation 1--* measurement, timing
    study 1--* candidate *--1 schedule
    candidate *..1 evaluation       by key: a candidate may be noted before its evaluation is started
    artifact                        a name, and the content hash of a file
    lease                           a process that shows it is alive; `owner` of study and evaluation names one

A change here needs a new revision in `migrations/versions` and a new `HEAD` in `migrate.py`.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

HASH = String(64)
WORD = String(32)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite has no time zones, so none is stored."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC and drop the zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Put the zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Registry of the tables; constraints are named, so that a later revision can drop one by its name."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ModelRow(Base):
    """A model at one revision."""

    __tablename__ = "model"
    __table_args__ = (UniqueConstraint("name", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(Text)


class ConditionRow(Base):
    """A condition by hash."""

    __tablename__ = "condition"

    hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class PromptSetRow(Base):
    """A fidelity by hash: prompt i is drawn from the noise of seed i. `name` is the one it was first used under."""

    __tablename__ = "prompt_set"

    hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    prompts: Mapped[list[str]] = mapped_column(JSON)
    seeds: Mapped[list[int]] = mapped_column(JSON)


class ScheduleRow(Base):
    """A schedule by hash."""

    __tablename__ = "schedule"

    hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class EvaluationRow(Base):
    """One schedule at one fidelity under one condition; it leaves `running` once.

    `wall_s` is what it cost. The fields from `macs` on belong to a complete evaluation, `failure_*` to a failed one.
    `owner` is whoever measures a running one, NULL where it waits for somebody. `n_lost` counts the owners that were
    lost over it, `lost_reason` says how, a line each.
    """

    __tablename__ = "evaluation"
    __table_args__ = (
        Index(
            "ix_evaluation_owner",
            "owner",
            sqlite_where=text("owner IS NOT NULL"),
            postgresql_where=text("owner IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(HASH, unique=True)
    state: Mapped[str] = mapped_column(WORD)
    condition_hash: Mapped[str] = mapped_column(ForeignKey("condition.hash"), index=True)
    schedule_hash: Mapped[str] = mapped_column(ForeignKey("schedule.hash"), index=True)
    prompt_set_hash: Mapped[str] = mapped_column(ForeignKey("prompt_set.hash"))
    started: Mapped[datetime] = mapped_column(UtcDateTime)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)
    wall_s: Mapped[float | None] = mapped_column(Double)
    failure_kind: Mapped[str | None] = mapped_column(WORD)
    failure_reason: Mapped[str | None] = mapped_column(Text)
    macs: Mapped[int | None] = mapped_column(BigInteger)
    baseline_macs: Mapped[int | None] = mapped_column(BigInteger)
    network_calls: Mapped[int | None] = mapped_column(BigInteger)
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    weight_bytes: Mapped[int | None] = mapped_column(BigInteger)
    baseline_weight_bytes: Mapped[int | None] = mapped_column(BigInteger)
    bit_operations: Mapped[int | None] = mapped_column(BigInteger)
    baseline_bit_operations: Mapped[int | None] = mapped_column(BigInteger)
    owner: Mapped[str | None] = mapped_column(Text)
    n_lost: Mapped[int] = mapped_column(server_default=text("0"))
    lost_reason: Mapped[str | None] = mapped_column(Text)


class MeasurementRow(Base):
    """One quality metric of one prompt."""

    __tablename__ = "measurement"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's form

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(WORD, primary_key=True)
    prompt_index: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float] = mapped_column(Double)


class TimingRow(Base):
    """One timed run; `run` says of what: `schedule` or `baseline`.

    `latency_ms` is in milliseconds per image. Where energy was metered too, rows of the runs `schedule_energy` and
    `baseline_energy` hold joules per image in its place.
    """

    __tablename__ = "timing"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's form

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation.id"), primary_key=True)
    run: Mapped[str] = mapped_column(WORD, primary_key=True)
    repeat: Mapped[int] = mapped_column(primary_key=True)
    latency_ms: Mapped[float] = mapped_column(Double)


class StudyRow(Base):
    """One search with one budget; `inventory` holds the sites with their cost at the study's resolution.

    `owner` is the process that drives it, NULL if none does. `device_s` counts the seconds of workers used so far.
    """

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    state: Mapped[str] = mapped_column(WORD)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    wall_s: Mapped[float] = mapped_column(Double)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    provenance: Mapped[dict[str, Any]] = mapped_column(JSON)
    condition_hash: Mapped[str] = mapped_column(ForeignKey("condition.hash"))
    inventory: Mapped[dict[str, Any]] = mapped_column(JSON)
    owner: Mapped[str | None] = mapped_column(Text)
    device_s: Mapped[float] = mapped_column(Double, server_default=text("0"))


class CandidateRow(Base):
    """One schedule that a study tried. `image` names the artifact of its contact sheet."""

    __tablename__ = "candidate"
    __table_args__ = (UniqueConstraint("study_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    number: Mapped[int]
    family: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text)
    schedule_hash: Mapped[str] = mapped_column(ForeignKey("schedule.hash"), index=True)
    evaluation_key: Mapped[str] = mapped_column(HASH, index=True)
    held_out_key: Mapped[str | None] = mapped_column(HASH)
    image: Mapped[str | None] = mapped_column(Text)


class ArtifactRow(Base):
    """A file of the artifact store; many names may share one content."""

    __tablename__ = "artifact"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    sha256: Mapped[str] = mapped_column(HASH, index=True)
    kind: Mapped[str] = mapped_column(WORD)
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class LeaseRow(Base):
    """A process that holds something, and the count of its signs of life; see `autotune.storage.leases`."""

    __tablename__ = "lease"

    owner: Mapped[str] = mapped_column(Text, primary_key=True)
    beat: Mapped[int] = mapped_column(BigInteger)
