"""Writing a file so that a reader sees the old one or the new one, never half of one."""

import contextlib
import os
import tempfile
from pathlib import Path

from autotune.spaces.errors import StorageError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to disk, and rename it over `path`.

    Raises:
        StorageError: the file can't be written (read-only folder, full disk); `path` is as it was before.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; an export is an ordinary one
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        there = path.parent.is_dir()
        remedy = "free some space or choose another place" if there else f"make the folder {path.parent} first"
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; nothing was changed: {remedy}"
        ) from error
