"""The file that carries studies from one database to another: JSON lines, compressed where its name ends in `.gz`.

The first line is `{"format": "diffusion-autotune-export", "version": 1, "revision": ...}`, the last one
`{"kind": "end", "n_lines": ...}` with the number of lines between, so that a file that was cut off is known. Each line
between is an object with its `kind`; what a line refers to stands before it. `autotune.storage.exporting` writes the
fields, `autotune.storage.importing` reads them.
"""

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from autotune.spaces.atomic_write import writing_atomically
from autotune.spaces.errors import UsageError
from autotune.storage.export_line import Line, shown

FORMAT, VERSION = "diffusion-autotune-export", 1

Write = Callable[[Mapping[str, object]], None]


@contextlib.contextmanager
def writing(path: Path, revision: str) -> Iterator[Write]:
    """Write an export line by line; it appears under its name when the block has ended without an error.

    Raises:
        StorageError: the file can't be written; one that was there is as it was.
    """
    with writing_atomically(path) as file, _compressed(file, path) as packed:
        n_lines = 0

        def write(line: Mapping[str, object]) -> None:
            nonlocal n_lines
            n_lines += 1
            packed.write(_encode(line))

        packed.write(_encode({"format": FORMAT, "version": VERSION, "revision": revision}))
        yield write
        packed.write(_encode({"kind": "end", "n_lines": n_lines}))


def _encode(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"


@contextlib.contextmanager
def _compressed(file: IO[bytes], path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    if path.suffix != ".gz":
        yield file
        return
    # Without name and time, so that the same content gives the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
        yield packed


def reading(path: Path) -> Iterator[tuple[str, Line]]:
    """The lines of an export between the first and the last, each with its kind.

    Raises:
        UsageError: the file is missing, is no export, has another version, was cut off, or a line is no JSON object.
    """
    lines = _objects(path)
    _check_header(path, next(lines, None))
    for n_lines, line in enumerate(lines):
        kind = line.text("kind")
        if kind == "end":
            if line.count("n_lines") != n_lines:
                raise line.error(f"n_lines must be the number of lines before, {n_lines}; lines were lost or added")
            line.end()
            if (extra := next(lines, None)) is not None:
                raise extra.error("the line of kind 'end' must be the last one")
            return
        yield kind, line
    raise UsageError(f"{path} must end with a line of kind 'end'; it was cut off: export it again")


def _check_header(path: Path, header: Line | None) -> None:
    if header is None or not header.has("format") or header.text("format") != FORMAT:
        raise UsageError(f"{path} must be a file that `autotune db export` wrote; its first line says something else")
    version = header.count("version")
    if version != VERSION:
        raise UsageError(
            f"{path} must have version {VERSION}; got {version}: pip install --upgrade diffusion-autotune, "
            "or export it with this version"
        )
    header.text("revision")
    header.end()


def _objects(path: Path) -> Iterator[Line]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                yield Line(path, number, _object(path, number, text))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path} must be an intact gzip file, as its name says; {error}: copy it again") from error
    except OSError as error:
        raise UsageError(f"{path} must be a file that can be read: {error.strerror or error}") from error


def _object(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        made = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {number}: a line must be JSON; {error}: export it again") from error
    if not isinstance(made, dict):
        raise UsageError(f"{path}, line {number}: a line must be a JSON object; got {shown(made)}: export it again")
    return made


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
