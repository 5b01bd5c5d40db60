"""How many bit operations a run takes, which a quantization makes fewer."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add both counts; nobody has told those of earlier evaluations."""
    for name in ("bit_operations", "baseline_bit_operations"):
        op.add_column("evaluation", sa.Column(name, sa.BigInteger, nullable=True))
