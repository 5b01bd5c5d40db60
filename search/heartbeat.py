"""Keeps this process's leases alive while it is busy with something else."""

import logging
import threading
from types import TracebackType
from typing import Self

from autotune.spaces.errors import StorageError
from autotune.storage.database import Database
from autotune.storage.leases import LEASE_S

RENEW_S = LEASE_S / 6.0

_LOG = logging.getLogger(__name__)


class Heartbeat:
    """While open, a thread renews the lease of a database; in the end what is held under it is given back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._database.renew_lease()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        try:
            self._database.release_leases()
        except StorageError as failure:
            if error is None:
                raise
            # The error that ends the study is the one to tell; others will find this process gone.
            _LOG.warning("the leases could not be given back: %s", failure)

    def _beat(self) -> None:
        while not self._end.wait(RENEW_S):
            try:
                self._database.renew_lease()
            except StorageError as failure:
                _LOG.warning("the lease could not be renewed: %s", failure)
