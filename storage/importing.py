"""Reading an export into a database: all of it in one transaction, or nothing; twice is once."""

import base64
import binascii
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from autotune.spaces.errors import StorageError, StudyExistsError, UsageError
from autotune.spaces.inventory import inventory_from_json
from autotune.spaces.study_record import StudyState
from autotune.storage.database import Database
from autotune.storage.export_file import reading
from autotune.storage.export_line import Line
from autotune.storage.import_values import (
    import_conditions,
    import_evaluations,
    import_prompt_sets,
    import_schedules,
    require,
)
from autotune.storage.leases import parse_owner
from autotune.storage.outcomes import chunks
from autotune.storage.owners import find_owners
from autotune.storage.studies import check_name, find_study
from autotune.storage.tables import (
    WORD,
    ArtifactRow,
    CandidateRow,
    ConditionRow,
    EvaluationRow,
    ScheduleRow,
    StudyRow,
)


def import_file(database: Database, path: Path, *, rename: Mapping[str, str] | None = None) -> dict[str, int]:
    """Take in a file that `export` wrote, in one transaction.

    What is here already stays as it is: evaluations keep their first outcome, and a second import changes nothing.

    Args:
        database: where to write.
        path: the file.
        rename: new names of studies, by those in the file.

    Returns:
        How many of each kind are new.

    Raises:
        UsageError: the file is not as `export` wrote it; the message names the line and the field.
        StudyExistsError: another study has a name; the message says how to rename this one.
        StudyBusyError: the file has news of a study that another process drives.
        StorageError: the database or the folder of artifacts can't be written, or somebody else works with an SQLite
            database, who could not write until the import has ended.
    """
    _refuse_company(database)

    def work(connection: Connection) -> dict[str, int]:
        return _Import(connection, path, database, rename or {}, written).run()

    written: list[Path] = []
    try:
        return database.sessions.write(work)
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise


def _refuse_company(database: Database) -> None:
    if database.location.path is None:
        return
    alive, _ = find_owners(database)
    if alive:
        users = ", ".join(parse_owner(owner).shown for owner in sorted(alive))
        raise StorageError(
            f"an import must have an SQLite database for itself, since nobody else can write meanwhile; {users} works "
            f"with {database.url}: wait for its end, or import into another database"
        )


class _Import:
    """One import of a file, in a transaction that the caller commits; see `import_file`.

    `written` takes the files of artifacts that were not there before.
    """

    def __init__(
        self,
        connection: Connection,
        path: Path,
        database: Database,
        rename: Mapping[str, str],
        written: list[Path],
    ) -> None:
        self._connection = connection
        self._path = path
        self._leases = database.leases
        self._artifacts = database.artifacts
        self._rename = rename
        self._written = written
        self._studies: dict[str, str] = {}

    def run(self) -> dict[str, int]:
        """Import everything; how many of each kind are new."""
        handlers: dict[str, Callable[[list[Line]], int]] = {
            "condition": lambda lines: import_conditions(self._connection, lines),
            "prompt_set": lambda lines: import_prompt_sets(self._connection, lines),
            "schedule": lambda lines: import_schedules(self._connection, lines),
            "evaluation": lambda lines: import_evaluations(self._connection, lines),
            "study": self._import_studies,
            "candidate": self._import_candidates,
            "artifact": self._import_artifacts,
        }
        n_new: Counter[str] = Counter(dict.fromkeys(handlers, 0))
        for kind, group in itertools.groupby(reading(self._path), key=lambda pair: pair[0]):
            for lines in chunks(line for _, line in group):
                if kind not in handlers:
                    raise lines[0].error(f"kind must be one of {', '.join(handlers)}; got {kind!r}")
                n_new[kind] += handlers[kind](lines)
        for name in self._rename:
            if name not in self._studies:
                raise UsageError(
                    f"a study to rename must be in the file; {self._path} has none named {name!r}, "
                    f"but {', '.join(map(repr, self._studies)) or 'no study'}"
                )
        return dict(n_new)

    def _import_studies(self, lines: Iterable[Line]) -> int:
        return sum(self._import_study(line) for line in lines)

    def _import_study(self, line: Line) -> bool:
        given = line.text("name")
        name = self._rename.get(given, given)
        with line.explained():
            check_name(name)
            inventory = line.mapping("inventory")
            inventory_from_json(inventory)
        state = line.text("state")
        if state not in list(StudyState):
            raise line.error(f"state must be one of {', '.join(StudyState)}; got {state!r}")
        condition_hash = line.digest("condition")
        identity: dict[str, object] = {
            "created": line.moment("created"),
            "condition_hash": condition_hash,
            "settings": line.mapping("settings"),
        }
        wall_s = line.number_of("wall_s")
        used = {"state": state, "wall_s": wall_s, "device_s": line.number_of("device_s")}
        provenance = line.mapping("provenance")
        line.end()
        require(self._connection, ConditionRow.hash, [(line, "condition", condition_hash)])
        self._studies[given] = name
        query = select(*StudyRow.__table__.columns).where(StudyRow.name == name)
        here = self._connection.execute(query).one_or_none()
        if here is None:
            row = {"name": name, **identity, **used, "inventory": inventory, "provenance": provenance}
            self._connection.execute(insert(StudyRow), [row])
            return True
        if any(getattr(here, field) != value for field, value in identity.items()):
            raise StudyExistsError(
                f"{self._path}, line {line.number}: another study is named {name!r} here; nothing was imported: "
                f"give this one a new name with --rename {given}=NEW"
            )
        if wall_s > here.wall_s:  # the file knows more of the same study
            study_id = find_study(self._connection, name, writer=self._leases)
            self._connection.execute(update(StudyRow).where(StudyRow.id == study_id).values(used))
        return False

    def _import_candidates(self, lines: Sequence[Line]) -> int:
        parsed = [(line, self._candidate(line)) for line in lines]
        require(self._connection, ScheduleRow.hash, [(line, "schedule", c["schedule_hash"]) for line, c in parsed])
        keys = [(line, "key", c["evaluation_key"]) for line, c in parsed]
        held_out = [(line, "held_out", c["held_out_key"]) for line, c in parsed]
        require(self._connection, EvaluationRow.key, [*keys, *held_out])
        n_new = 0
        for study, group in itertools.groupby(parsed, key=lambda pair: pair[1].pop("study")):
            given: dict[int, tuple[Line, dict[str, Any]]] = {}
            for line, candidate in group:
                if given.setdefault(candidate["number"], (line, candidate))[0] is not line:
                    raise line.error(f"number {candidate['number']} of study {study!r} stands twice")
            n_new += self._add(study, given)
        return n_new

    def _candidate(self, line: Line) -> dict[str, Any]:
        study = line.text("study")
        if study not in self._studies:
            raise line.error(f"study must name one that stands before it; there is no {study!r}")
        made = {
            "study": self._studies[study],
            "number": line.count("number", bits=31),
            "family": line.text("family"),
            "label": line.text("label"),
            "schedule_hash": line.digest("schedule"),
            "evaluation_key": line.digest("key"),
            "held_out_key": line.text_or_none("held_out"),
            "image": line.text_or_none("image"),
        }
        line.end()
        return made

    def _add(self, study: str, given: Mapping[int, tuple[Line, dict[str, Any]]]) -> int:
        """Add the candidates that a study lacks, and what is new about those it has."""
        study_id = find_study(self._connection, study)
        mine = (CandidateRow.study_id == study_id) & CandidateRow.number.in_(list(given))
        rows = self._connection.execute(select(*CandidateRow.__table__.columns).where(mine)).all()
        here = {row.number: row for row in rows}
        new = [{"study_id": study_id, **c} for number, (_, c) in given.items() if number not in here]
        changes = {row.id: late for row in rows if (late := self._late(row, *given[row.number]))}
        if new or changes:
            find_study(self._connection, study, writer=self._leases)
        if new:
            self._connection.execute(insert(CandidateRow), new)
        for row_id, late in changes.items():
            self._connection.execute(update(CandidateRow).where(CandidateRow.id == row_id).values(late))
        return len(new)

    def _late(self, row: Any, line: Line, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """What the file knows of a candidate and the database does not."""
        if row.schedule_hash != candidate["schedule_hash"] or row.evaluation_key != candidate["evaluation_key"]:
            raise line.error(
                f"candidate number {row.number} must be schedule {row.schedule_hash[:12]}, as in this database; got "
                f"{candidate['schedule_hash'][:12]}: the study went on in two places, rename one with --rename"
            )
        late = ("held_out_key", "image")
        return {name: candidate[name] for name in late if getattr(row, name) is None and candidate[name] is not None}

    def _import_artifacts(self, lines: Iterable[Line]) -> int:
        return sum(self._import_artifact(line) for line in lines)

    def _import_artifact(self, line: Line) -> bool:
        """Take over a name whose file is in the line, or lies in the folder already; else there is nothing to take."""
        name, digest = line.text("name", longest=2000), line.sha256("sha256")
        values = {
            "sha256": digest,
            "kind": line.text("content_kind", longest=WORD.length),
            "n_bytes": line.count("n_bytes"),
            "created": line.moment("created"),
        }
        data = _content(line, digest) if line.has("content") else None
        line.end()
        stored = self._connection.execute(
            select(ArtifactRow.sha256).where(ArtifactRow.name == name)
        ).scalar_one_or_none()
        if stored is not None and self._artifacts.read(stored) is not None:
            return False
        if data is not None:
            path = self._artifacts.put(digest, data)
            self._written += [] if path is None else [path]
        elif self._artifacts.read(digest) is None:
            return False
        if stored is None:
            self._connection.execute(insert(ArtifactRow), [{"name": name, **values}])
        else:
            self._connection.execute(update(ArtifactRow).where(ArtifactRow.name == name).values(values))
        return True


def _content(line: Line, digest: str) -> bytes:
    try:
        data = base64.b64decode(line.text("content"), validate=True)
    except binascii.Error as error:
        raise line.error(f"content must be base64; {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise line.error(f"sha256 must be that of content, {found}; got {digest}: the line was changed")
    return data
