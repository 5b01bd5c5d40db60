"""How many bytes the weights of a network take, which a quantization makes fewer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add both counts; nobody has told those of earlier evaluations."""
    for name in ("weight_bytes", "baseline_weight_bytes"):
        op.add_column("evaluation", sa.Column(name, sa.BigInteger, nullable=True))
