"""What Alembic runs to upgrade a database: on the connection, and inside the transaction, of `storage.migrate`."""

from alembic import context

from autotune.storage.migrate import VERSION_TABLE
from autotune.storage.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
