"""Files that belong to a database: reference latents, traces, contact sheets."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, select, update

from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.errors import StorageError
from autotune.storage.insert import insert_missing
from autotune.storage.sessions import Sessions
from autotune.storage.tables import ArtifactRow

STALE_S = 24 * 3600.0
"""What nothing refers to is left alone for so long: it may be in the making."""

_HASH = re.compile("[0-9a-f]{64}")


class ArtifactStore:
    """Named files, stored once per content as `ab/cdef...`, the SHA-256 of their bytes.

    A file appears under its hash only when it is whole, and its name points to it only then. What is not as it was
    saved counts as not there: whoever needs it makes it again.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.folder = sessions.location.artifacts
        self._sessions = sessions
        self._swept = False

    def save(self, name: str, data: bytes, kind: str) -> None:
        """Store `data` under `name`, in place of what the name stood for; `kind` says what it is ("reference").

        Raises:
            StorageError: the file can't be written; the name stands for what it did before.
        """
        digest = hashlib.sha256(data).hexdigest()
        self.put(digest, data)
        values = {"sha256": digest, "kind": kind, "n_bytes": len(data), "created": datetime.now(UTC)}

        def note(connection: Connection) -> None:
            if insert_missing(connection, ArtifactRow, [{"name": name, **values}]) == 0:
                connection.execute(update(ArtifactRow).where(ArtifactRow.name == name).values(values))

        self._sessions.write(note)

    def put(self, digest: str, data: bytes) -> Path | None:
        """Write the file of this content, without a name; its path if it was not there.

        Raises:
            StorageError: the file can't be written.
        """
        path = self._path(digest)
        if self.read(digest) is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # what is young is not removed before it has its name
            return None
        self._make_folder(path.parent)
        write_atomically(path, data)
        return path

    def load(self, name: str) -> bytes | None:
        """The bytes saved under `name`; None if there are none, or the file is gone or damaged.

        Raises:
            StorageError: the file is there and can't be read.
        """
        query = select(ArtifactRow.sha256).where(ArtifactRow.name == name)
        digest = self._sessions.read(lambda connection: connection.execute(query).scalar_one_or_none())
        return None if digest is None else self.read(digest)

    def read(self, digest: str) -> bytes | None:
        """The content of this hash; None if its file is gone or damaged.

        Raises:
            StorageError: the file is there and can't be read.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(
                f"the artifact {path} must be a readable file: {error.strerror or error}; "
                "check its permissions, or delete it"
            ) from error
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest[2:]

    def remove_unnamed(self, digests: Collection[str]) -> list[int]:
        """Remove the files whose content is none of these, and which are older than a day; their sizes in bytes."""
        sizes = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            name = path.parent.name + path.name
            if path.name.startswith(".") or (_HASH.fullmatch(name) and name not in digests):
                sizes += self._remove_stale(path)
        return sizes

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder {folder} of the artifacts must be writable: {error.strerror or error}; "
                "change its permissions, or choose another place with --storage"
            ) from error
        if not self._swept:
            self._swept = True
            self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        # A process killed while it wrote leaves a temporary file; younger ones may still be in the making.
        for path in self.folder.glob("??/.*"):
            self._remove_stale(path)

    def _remove_stale(self, path: Path) -> list[int]:
        """Remove a file unless it is young; its size, or nothing where it stays."""
        with contextlib.suppress(OSError):
            found = path.stat()
            if time.time() - found.st_mtime > STALE_S:
                path.unlink()
                return [found.st_size]
        return []
