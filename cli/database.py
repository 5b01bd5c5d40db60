"""Commands that look after a database: db upgrade, export, import, vacuum."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.studies import StorageOption
from autotune.spaces.errors import UsageError

_UNITS = ("B", "kB", "MB", "GB", "TB")


def register(app: typer.Typer) -> None:
    """Add the commands of this file, as a group of their own."""
    group = typer.Typer(help="Upgrade, export, import or vacuum the database.", rich_markup_mode=None)
    group.command()(upgrade)
    group.command("export")(export)
    group.command("import")(import_file)
    group.command()(vacuum)
    app.add_typer(group, name="db", no_args_is_help=True)


def upgrade(storage: StorageOption = None) -> None:
    """Bring the tables to this version, as every other command does when it opens the database.

    In Python: autotune.storage.sessions.open_sessions(URL).
    """
    from autotune.storage.migrate import HEAD
    from autotune.storage.sessions import open_sessions

    sessions, before = open_sessions(storage, must_exist=True)
    sessions.engine.dispose()
    shown = sessions.location.shown
    if before == HEAD:
        print(f"{shown} is at revision {HEAD} already")
    elif before is None:
        print(f"{shown} was empty; its tables are made, at revision {HEAD}")
    else:
        print(f"{shown} was upgraded from revision {before} to {HEAD}")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; compressed if it ends in .gz.")],
    study: Annotated[
        list[str] | None, typer.Option("--study", help="A study to export; repeatable. All, if left out.")
    ] = None,
    artifacts: Annotated[
        bool,
        typer.Option(
            "--artifacts/--no-artifacts", help="Also write the contents of artifacts, such as contact sheets."
        ),
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Write studies with all their measurements as one file, for `autotune db import` here or elsewhere.

    In Python: autotune.storage.exporting.export(database, Path(FILE)).
    """
    from autotune.storage.database import Database
    from autotune.storage.exporting import export as write

    with Database.open(storage, must_exist=True) as database:
        n_lines = write(database, file, study or None, artifacts=artifacts)
    print(f"wrote {file}: {_counts(n_lines)}")


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that `autotune db export` wrote.")],
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Import a study under another name; repeatable."),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Take in the studies of an exported file, all of them or, where a line is wrong, none.

    What is in the database stays as it is; importing a file twice changes nothing. An SQLite database is refused while
    a study runs there.

    In Python: autotune.storage.importing.import_file(database, Path(FILE)).
    """
    from autotune.storage.database import Database
    from autotune.storage.importing import import_file as read

    names = _parse_renames(rename or [])
    with Database.open(storage) as database:
        n_new = read(database, file, rename=names)
        print(f"imported {file} into {database.url}; new: {_counts(n_new)}")


def vacuum(storage: StorageOption = None) -> None:
    """Remove what nothing needs any more: files without a name, names without a file, and what dead processes left.

    Studies and measurements stay. It may be run while studies run.

    In Python: autotune.storage.vacuum.vacuum(database).
    """
    from autotune.storage.database import Database
    from autotune.storage.vacuum import vacuum as clean

    with Database.open(storage, must_exist=True) as database:
        freed = clean(database)
    print(
        f"removed: unused files {freed.n_files} ({_size(freed.file_bytes)}), names of lost files {freed.n_artifacts}, "
        f"evaluations that were given up {freed.n_evaluations}, leases of dead processes {freed.n_leases}; "
        f"the database shrank by {_size(freed.database_bytes)}"
    )
    for note in freed.notes:
        print(note)


def _parse_renames(rename: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for text in rename:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--rename must read OLD=NEW; got {text!r}")
        if old in names:
            raise UsageError(f"--rename must name a study once; got {old!r} twice")
        names[old] = new
    return names


def _counts(n_by_kind: dict[str, int]) -> str:
    kinds = {kind.replace("_", " "): n for kind, n in n_by_kind.items() if n}
    plural = {"study": "studies"}
    words = [f"{n} {kind if n == 1 else plural.get(kind, kind + 's')}" for kind, n in kinds.items()]
    return ", ".join(words) or "nothing"


def _size(n_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} {_UNITS[-1]}"
