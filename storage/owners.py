"""Who works with a database at the moment."""

import time

from sqlalchemy import Connection, select, union

from autotune.storage.database import Database
from autotune.storage.leases import LEASE_S
from autotune.storage.tables import EvaluationRow, LeaseRow, StudyRow

_WATCH_EVERY_S = 1.0


def find_owners(database: Database) -> tuple[set[str], set[str]]:
    """The other owners of a database that live, and those that are dead.

    Owners on other machines are watched until it is known, for `LEASE_S` seconds at most.

    Raises:
        StorageError: the database can't be used.
    """
    leases = database.leases
    columns = (LeaseRow.owner, EvaluationRow.owner, StudyRow.owner)
    query = union(*[select(column).where(column.is_not(None)) for column in columns])

    def look(connection: Connection) -> tuple[set[str], set[str]]:
        owners = {str(owner) for owner in connection.scalars(query)} - {leases.owner}
        dead = set(leases.deaths(connection, owners))
        return owners - dead, dead

    deadline = leases.now() + LEASE_S + 2 * _WATCH_EVERY_S
    while True:
        alive, dead = database.sessions.read(look)
        if all(map(leases.is_alive, alive)) or leases.now() > deadline:
            return alive, dead
        time.sleep(_WATCH_EVERY_S)
