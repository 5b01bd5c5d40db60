"""A folder of results: made if it is missing, each file written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.errors import StorageError


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files by name into `folder`.

    Raises:
        StorageError: a file can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"a report needs a folder that can be written; {folder}: {error.strerror or error}; choose another"
        ) from error
    for name, data in files.items():
        write_atomically(folder / name, data)
