"""The life of an evaluation: taken by an owner, finished once, or given back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.storage.insert import insert_missing
from autotune.storage.leases import Leases
from autotune.storage.outcomes import Finished, chunks, find, stored_form, write_finished
from autotune.storage.sessions import Sessions
from autotune.storage.tables import EvaluationRow, PromptSetRow
from autotune.storage.values import save_conditions, save_prompt_sets, save_schedules, storable_text

# SQLite has one writer at a time and ignores FOR UPDATE. In one order, or two processes would deadlock.
_LOCK = (
    select(
        *[
            EvaluationRow.__table__.columns[name]
            for name in ("id", "key", "state", "started", "condition_hash", "schedule_hash", "prompt_set_hash", "owner",
                         "n_lost", "lost_reason")
        ]
    )
    .where(EvaluationRow.key.in_(bindparam("keys", expanding=True)))
    .order_by(EvaluationRow.key)
    .with_for_update()
)  # fmt: skip
_UPDATE = update(EvaluationRow).where(EvaluationRow.id == bindparam("row_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What came of asking for an evaluation: it is ours to make, or finished, or another owner makes it.

    `evaluation` is the finished evaluation, `holder` the other owner that makes it now. `n_lost` counts the owners
    that were lost over it so far; `lost_reason` says how, a line each.
    """

    evaluation: Evaluation | None = None
    holder: str | None = None
    n_lost: int = 0
    lost_reason: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is ours to make."""
        return self.evaluation is None and self.holder is None


@dataclass(frozen=True, slots=True)
class _PromptSet:
    name: str
    n_prompts: int


class Evaluations:
    """The evaluations of one open database; `autotune.storage.database.Database` says what each method does."""

    def __init__(self, sessions: Sessions, leases: Leases) -> None:
        self._sessions = sessions
        self._leases = leases
        # Conditions and prompt sets never change, so what was committed once need not be written or read again.
        self._saved: set[str] = set()
        self._prompt_sets: dict[str, _PromptSet] = {}

    def start(self, requests: Sequence[EvaluationRequest]) -> dict[str, Claim]:
        """Take those that nobody has finished and no live owner holds."""
        # Few distinct values, each hashed once; sorted, as every process must insert in one order.
        conditions = {id(r.condition): r.condition for r in requests}
        fidelities = {id(r.fidelity): r.fidelity for r in requests}
        hashes = {key: value.hash for key, value in (conditions | fidelities).items()}
        new_conditions = {h: c for i, c in conditions.items() if (h := hashes[i]) not in self._saved}
        new_fidelities = {h: f for i, f in fidelities.items() if (h := hashes[i]) not in self._saved}
        wanted = sorted({r.key: r for r in requests}.values(), key=lambda r: r.key)
        schedules = {r.schedule_hash: r.schedule for r in wanted}
        rows = [
            {
                "key": r.key,
                "state": EvaluationState.RUNNING,
                "condition_hash": hashes[id(r.condition)],
                "schedule_hash": r.schedule_hash,
                "prompt_set_hash": hashes[id(r.fidelity)],
                "owner": self._leases.owner,
                "started": datetime.now(UTC),
            }
            for r in wanted
        ]

        def work(connection: Connection) -> dict[str, Claim]:
            save_conditions(connection, new_conditions)
            save_prompt_sets(connection, new_fidelities)
            save_schedules(connection, schedules)
            claims: dict[str, Claim] = {}
            while len(claims) < len(rows):  # again where one was deleted between the two statements
                if insert_missing(connection, EvaluationRow, rows) == len(rows):
                    return {r.key: Claim() for r in wanted}
                claims = _take(connection, [r.key for r in wanted], self._leases)
            return claims

        self._leases.is_used = True
        claims = self._sessions.write(work)
        self._saved.update(new_conditions, new_fidelities)
        return claims

    def finish(self, outcomes: Mapping[str, Measurement | Failure]) -> dict[str, Evaluation]:
        """Store outcomes; of several for one key the first stays."""
        return self._sessions.write(lambda connection: self._finish(connection, outcomes))

    def find(self, keys: Collection[str]) -> dict[str, Evaluation]:
        """The finished ones of these evaluations."""
        return self._sessions.read(lambda connection: find(connection, keys))

    def give_back(self, keys: Iterable[str], reason: str | None) -> None:
        """Let go of those that are ours and running; with a reason they count as lost."""
        wanted = sorted(set(keys))
        text = None if reason is None else storable_text(reason)

        def work(connection: Connection) -> None:
            mine = [row for row in lock(connection, wanted) if row.owner == self._leases.owner]
            lost = 0 if text is None else 1
            _update(
                connection,
                [
                    {"row_id": row.id, "owner": None, "n_lost": row.n_lost + lost,
                     "lost_reason": row.lost_reason if text is None else _join(row.lost_reason, text)}
                    for row in mine
                ],
            )  # fmt: skip

        self._sessions.write(work)

    def release(self, connection: Connection) -> None:
        """Let go of all that are ours."""
        mine = EvaluationRow.owner == self._leases.owner
        connection.execute(update(EvaluationRow).where(mine).values(owner=None))

    def _finish(self, connection: Connection, outcomes: Mapping[str, Measurement | Failure]) -> dict[str, Evaluation]:
        rows = {row.key: row for row in lock(connection, outcomes)}
        for key in outcomes:
            if key not in rows:
                raise StorageError(f"an evaluation must be started before it is finished; got the unknown key {key!r}")
        prompt_sets = self._load_prompt_sets(connection, {row.prompt_set_hash for row in rows.values()})
        now = datetime.now(UTC)
        made: dict[str, Evaluation] = {}
        ended: list[Finished] = []
        for key, given in outcomes.items():
            row = rows[key]
            prompt_set = prompt_sets[row.prompt_set_hash]
            outcome = stored_form(given, prompt_set.n_prompts)
            if row.state != EvaluationState.RUNNING:
                continue
            if isinstance(outcome, Measurement):
                state, wall_s = EvaluationState.COMPLETE, outcome.wall_s
            else:
                state, wall_s = EvaluationState.FAILED, max(0.0, (now - row.started).total_seconds())
            ended.append(Finished(row_id=row.id, outcome=outcome, finished=now, wall_s=wall_s))
            made[key] = Evaluation(
                key=key, schedule_hash=row.schedule_hash, fidelity=prompt_set.name, state=state, outcome=outcome
            )
        write_finished(connection, ended)
        stored = made | find(connection, outcomes.keys() - made.keys())
        return {key: stored[key] for key in outcomes}

    def _load_prompt_sets(self, connection: Connection, hashes: set[str]) -> dict[str, _PromptSet]:
        unknown = sorted(hashes - self._prompt_sets.keys())
        for chunk in chunks(unknown):
            query = select(PromptSetRow.hash, PromptSetRow.name, PromptSetRow.prompts)
            for digest, name, prompts in connection.execute(query.where(PromptSetRow.hash.in_(chunk))):
                self._prompt_sets[digest] = _PromptSet(name, len(prompts))
        return self._prompt_sets


def lock(connection: Connection, keys: Collection[str]) -> list[Row[Any]]:
    """The evaluations of these keys, held so that another process that changes one waits for us."""
    rows: list[Row[Any]] = []
    for chunk in chunks(sorted(keys)):
        rows += connection.execute(_LOCK, {"keys": chunk})
    return rows


def _take(connection: Connection, keys: Collection[str], leases: Leases) -> dict[str, Claim]:
    """Take those of these evaluations that wait for an owner or have a dead one, and find out about the others."""
    rows = lock(connection, keys)
    finished = find(connection, [row.key for row in rows if row.state != EvaluationState.RUNNING])
    held = {row.owner for row in rows if row.key not in finished and row.owner is not None}
    deaths = leases.deaths(connection, held)
    now = datetime.now(UTC)
    claims, changes = {}, []
    for row in rows:
        n_lost, lost_reason, holder = row.n_lost, row.lost_reason, None
        if row.owner in deaths:
            n_lost, lost_reason = n_lost + 1, _join(lost_reason, deaths[row.owner])
        elif row.owner != leases.owner:
            holder = row.owner
        if row.key not in finished and holder is None:
            changes.append({"row_id": row.id, "owner": leases.owner, "started": now, "n_lost": n_lost,
                            "lost_reason": lost_reason})  # fmt: skip
        claims[row.key] = Claim(
            evaluation=finished.get(row.key), holder=holder, n_lost=n_lost, lost_reason=lost_reason or ""
        )
    _update(connection, changes)
    return claims


def _join(before: str | None, reason: str) -> str:
    return reason if before is None else f"{before}\n{reason}"


def _update(connection: Connection, changes: Sequence[dict[str, Any]]) -> None:
    """Change evaluations that this transaction holds; each change names its row by `row_id`."""
    if changes:
        connection.execute(_UPDATE, changes)
