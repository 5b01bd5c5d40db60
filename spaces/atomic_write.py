"""Writing a file so that a reader sees the old one or the new one, never half of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from autotune.spaces.errors import StorageError


@contextlib.contextmanager
def writing_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path`, which is flushed to disk and renamed over `path` when the block ends without an error.

    Raises:
        StorageError: the file can't be written (read-only folder, full disk); `path` is as it was before.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # a temporary file is private; an export is an ordinary one
        temporary.replace(path)
        temporary = None
    except OSError as error:
        there = path.parent.is_dir()
        remedy = "free some space or choose another place" if there else f"make the folder {path.parent} first"
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; nothing was changed: {remedy}"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` as a whole; see `writing_atomically`."""
    with writing_atomically(path) as file:
        file.write(data)
