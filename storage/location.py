"""Where a database lies: its URL, the folder of its artifacts, and how it is named in messages."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from autotune.spaces.errors import StorageError

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",  # what several hosting services hand out
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A database's URL and the folder of its artifacts. `path` is the file of an SQLite database, else None.

    `is_shared` says that other databases of this user, and none on other machines, keep their artifacts in the folder.
    """

    url: URL
    artifacts: Path
    path: Path | None
    is_shared: bool = False

    @property
    def shown(self) -> str:
        """The location for messages: a path, or the URL without its password and options."""
        if self.path is not None:
            return str(self.path)
        return self.url.set(query={}).render_as_string(hide_password=True)


def parse_location(url: str | None) -> Location:
    """The location that a user wrote: a path, a `sqlite:///` or `postgresql://` URL, or None for the default.

    Raises:
        StorageError: neither a path nor a URL of a database that is known; no password is shown.
    """
    if url is None:
        return _sqlite(URL.create("sqlite+pysqlite"), str(user_data_folder() / "autotune.db"))
    if "://" not in url:
        return _sqlite(URL.create("sqlite+pysqlite"), url)
    scheme = url.partition("://")[0]
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The cause is cut off: it would print the URL with its password.
        raise StorageError(
            f"a storage URL must read sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME; got one that starts "
            f"with {scheme}:// and can't be parsed: check the port, and escape special characters of the password"
        ) from None
    if parsed.drivername not in _DRIVERS:
        raise StorageError(
            f"storage must be SQLite or PostgreSQL; got {scheme!r}: write sqlite:///PATH or postgresql://..."
        )
    parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
    artifacts = _artifacts_folder(url)
    parsed = parsed.difference_update_query(["artifacts"])
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, parsed.database or "", artifacts)
    folder = artifacts or user_data_folder() / "artifacts"
    return Location(url=parsed, artifacts=folder, path=None, is_shared=artifacts is None)


def _artifacts_folder(url: str) -> Path | None:
    """The folder that the option `artifacts` names, None if it is left out."""
    # SQLAlchemy drops an option without a value, which would be taken for the default.
    chosen = parse_qs(url.partition("?")[2], keep_blank_values=True).get("artifacts", [])
    if not chosen:
        return None
    if len(chosen) > 1 or not chosen[0].strip():
        raise StorageError(f"?artifacts= must name one folder; got {chosen}: write ?artifacts=/shared/folder")
    return _absolute(chosen[0])


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))  # the working folder may change later


def _sqlite(url: URL, path: str, artifacts: Path | None = None) -> Location:
    if set(url.query) - {"timeout"} or url.host or not _is_duration(url.query.get("timeout", "0")):
        raise StorageError(
            "an SQLite URL must read sqlite:///relative/path.db or sqlite:////absolute/path.db, with no option but "
            f"?timeout=SECONDS and ?artifacts=FOLDER; got {url.render_as_string()}"
        )
    if path.strip() in ("", ":memory:") or path.startswith("file:"):
        raise StorageError(
            f"SQLite storage must be a file, so that nothing is lost when the process ends; got {path!r}: "
            "give a path such as autotune.db"
        )
    file = _absolute(path)
    artifacts = artifacts or file.with_name(file.name + ".artifacts")
    return Location(url=url.set(database=str(file)), artifacts=artifacts, path=file)


def _is_duration(text: str | tuple[str, ...]) -> bool:
    try:
        return isinstance(text, str) and 0 <= float(text) < 2_000_000  # SQLite counts milliseconds in 31 bits
    except ValueError:
        return False


def user_data_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The folder for this user's data: `$XDG_DATA_HOME/autotune`, or the platform's own place; it need not exist.

    Raises:
        StorageError: the user has no home folder.
    """
    chosen = environment.get("XDG_DATA_HOME", "")
    if os.path.isabs(chosen):  # the XDG specification says to ignore a relative one
        return Path(chosen) / "autotune"
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"]) / "autotune"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise StorageError(
            "the default database needs a home folder, and there is none; say where it shall lie: --storage PATH"
        ) from error
    parts = {"darwin": ("Library", "Application Support"), "win32": ("AppData", "Local")}
    return home.joinpath(*parts.get(platform, (".local", "share")), "autotune")


def make_folder(location: Location) -> None:
    """Make the folder of an SQLite file.

    Raises:
        StorageError: the path is a folder itself, or lies where no folder can be made.
    """
    path = location.path
    if path is None:
        return
    if path.is_dir():
        raise StorageError(
            f"an SQLite database must be a file; {path} is a folder: give a file in it, {path / 'autotune.db'}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the database {path} must lie in a folder that can be written: {error.strerror or error}; "
            "choose another place with --storage"
        ) from error
