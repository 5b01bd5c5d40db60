"""The folder for results, tried before the search and not left behind by a study that never began."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from autotune.spaces.errors import StorageError


@contextlib.contextmanager
def out_folder(path: Path) -> Iterator[None]:
    """Make a folder; if the block raises, remove what was made, unless something lies in it by then.

    Raises:
        StorageError: it can't be made, or no file can be written in it.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        _remove(missing)
        raise StorageError(
            f"--out must be a folder that can be written; {path}: {error.strerror or error}: choose another"
        ) from error
    try:
        yield
    except BaseException:
        _remove(missing)
        raise


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()
