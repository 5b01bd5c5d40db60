"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_HASH = sa.String(64)
_WORD = sa.String(32)


def upgrade() -> None:
    """Create all tables."""
    _create_values()
    _create_evaluations()
    _create_studies()


def _create_values() -> None:
    op.create_table(
        "model",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("name", "revision", name="uq_model_name_revision"),
    )
    op.create_table(
        "condition",
        sa.Column("hash", _HASH, nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_condition"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_condition_model_id"),
    )
    op.create_index("ix_condition_model_id", "condition", ["model_id"])
    op.create_table(
        "prompt_set",
        sa.Column("hash", _HASH, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prompts", sa.JSON, nullable=False),
        sa.Column("seeds", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_prompt_set"),
    )
    op.create_table(
        "schedule",
        sa.Column("hash", _HASH, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_schedule"),
    )
    op.create_table(
        "artifact",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", _HASH, nullable=False),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_artifact"),
    )
    op.create_index("ix_artifact_sha256", "artifact", ["sha256"])


def _create_evaluations() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key", _HASH, nullable=False),
        sa.Column("state", _WORD, nullable=False),
        sa.Column("condition_hash", _HASH, nullable=False),
        sa.Column("schedule_hash", _HASH, nullable=False),
        sa.Column("prompt_set_hash", _HASH, nullable=False),
        sa.Column("started", sa.DateTime, nullable=False),
        sa.Column("finished", sa.DateTime, nullable=True),
        sa.Column("wall_s", sa.Double, nullable=True),
        sa.Column("failure_kind", _WORD, nullable=True),
        sa.Column("failure_reason", sa.Text, nullable=True),
        sa.Column("macs", sa.BigInteger, nullable=True),
        sa.Column("baseline_macs", sa.BigInteger, nullable=True),
        sa.Column("network_calls", sa.BigInteger, nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation"),
        sa.UniqueConstraint("key", name="uq_evaluation_key"),
        sa.ForeignKeyConstraint(["condition_hash"], ["condition.hash"], name="fk_evaluation_condition_hash"),
        sa.ForeignKeyConstraint(["schedule_hash"], ["schedule.hash"], name="fk_evaluation_schedule_hash"),
        sa.ForeignKeyConstraint(["prompt_set_hash"], ["prompt_set.hash"], name="fk_evaluation_prompt_set_hash"),
    )
    op.create_index("ix_evaluation_condition_hash", "evaluation", ["condition_hash"])
    op.create_index("ix_evaluation_schedule_hash", "evaluation", ["schedule_hash"])
    op.create_table(
        "measurement",
        sa.Column("evaluation_id", sa.Integer, nullable=False),
        sa.Column("metric", _WORD, nullable=False),
        sa.Column("prompt_index", sa.Integer, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("evaluation_id", "metric", "prompt_index", name="pk_measurement"),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluation.id"], name="fk_measurement_evaluation_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "timing",
        sa.Column("evaluation_id", sa.Integer, nullable=False),
        sa.Column("run", _WORD, nullable=False),
        sa.Column("repeat", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("evaluation_id", "run", "repeat", name="pk_timing"),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluation.id"], name="fk_timing_evaluation_id"),
        sqlite_with_rowid=False,
    )


def _create_studies() -> None:
    op.create_table(
        "study",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", _WORD, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("wall_s", sa.Double, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.Column("condition_hash", _HASH, nullable=False),
        sa.Column("inventory", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("name", name="uq_study_name"),
        sa.ForeignKeyConstraint(["condition_hash"], ["condition.hash"], name="fk_study_condition_hash"),
    )
    op.create_table(
        "candidate",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("schedule_hash", _HASH, nullable=False),
        sa.Column("evaluation_key", _HASH, nullable=False),
        sa.Column("held_out_key", _HASH, nullable=True),
        sa.Column("image", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_candidate"),
        sa.UniqueConstraint("study_id", "number", name="uq_candidate_study_id_number"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_candidate_study_id"),
        sa.ForeignKeyConstraint(["schedule_hash"], ["schedule.hash"], name="fk_candidate_schedule_hash"),
    )
    op.create_index("ix_candidate_schedule_hash", "candidate", ["schedule_hash"])
    op.create_index("ix_candidate_evaluation_key", "candidate", ["evaluation_key"])
