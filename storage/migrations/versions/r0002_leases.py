"""Who measures an evaluation, who drives a study, and whether they live."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add leases, owners and the time of workers; what runs belongs to nobody yet."""
    op.create_table(
        "lease",
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_lease"),
    )
    op.add_column("evaluation", sa.Column("owner", sa.Text, nullable=True))
    op.add_column("evaluation", sa.Column("n_lost", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("evaluation", sa.Column("lost_reason", sa.Text, nullable=True))
    owned = sa.text("owner IS NOT NULL")
    op.create_index("ix_evaluation_owner", "evaluation", ["owner"], sqlite_where=owned, postgresql_where=owned)
    op.add_column("study", sa.Column("owner", sa.Text, nullable=True))
    op.add_column("study", sa.Column("device_s", sa.Double, nullable=False, server_default=sa.text("0")))
