"""An evaluation belongs to one owner at a time, and what a dead one leaves is made by another."""

from collections.abc import Callable, Iterator

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Evaluation, Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage.database import Claim, Database
from autotune.storage.leases import LEASE_S

from .ticker import Ticker

Query = Callable[..., list[tuple[object, ...]]]
MakeMeasurement = Callable[[float], Measurement]

ELSEWHERE = "elsewhere/0/12/abc"


@pytest.fixture
def ask(
    condition: Condition, fidelity: Fidelity, make_schedule: Callable[[int], Schedule]
) -> Callable[..., dict[str, Claim]]:
    """Ask for evaluations `k0`, `k1`, ... by their numbers."""

    def start(database: Database, *numbers: int) -> dict[str, Claim]:
        schedules = {i: make_schedule(i) for i in numbers}
        return database.start_evaluations(
            [
                EvaluationRequest(
                    key=f"k{i}", schedule=made, schedule_hash=schedule_hash(made), condition=condition,
                    fidelity=fidelity,
                )
                for i, made in schedules.items()
            ]
        )  # fmt: skip

    return start


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
def other(database: Database, url: str, ticker: Ticker) -> Iterator[Database]:
    """The same database, opened again, with a clock that the test sets."""
    with Database.open(url, monotonic=ticker) as other:
        yield other


Ask = Callable[..., dict[str, Claim]]


def test_what_nobody_has_begun_is_ours_and_stays_so(database: Database, ask: Ask) -> None:
    for _ in range(2):
        claims = ask(database, 0, 1)
        assert claims == {"k0": Claim(), "k1": Claim()}
        assert all(claim.is_ours for claim in claims.values())


def test_a_request_given_twice_is_one_evaluation(database: Database, ask: Ask, query: Query) -> None:
    ask(database, 0, 0)
    assert query("SELECT key FROM evaluation") == [("k0",)]
    assert ask(database, 0, 0, 1) == {"k0": Claim(), "k1": Claim()}


def test_no_request_is_no_work(database: Database, ask: Ask) -> None:
    assert ask(database) == {}
    assert database.finish_evaluations({}) == {}
    assert database.find_evaluations([]) == {}
    database.return_evaluations([])


def test_what_another_makes_or_has_made_is_told(
    database: Database, other: Database, ask: Ask, make_measurement: MakeMeasurement
) -> None:
    ask(database, 0, 1)
    made = database.finish_evaluations({"k0": make_measurement(0)})
    claims = ask(other, 0, 1, 2)
    assert claims == {"k0": Claim(evaluation=made["k0"]), "k1": Claim(holder=database.owner), "k2": Claim()}
    assert [claim.is_ours for claim in claims.values()] == [False, False, True]


def test_what_is_given_back_is_anybodys_and_counts_as_lost_only_with_a_reason(
    database: Database, other: Database, ask: Ask
) -> None:
    ask(database, 0, 1, 2)
    database.return_evaluations(["k0"])
    database.return_evaluations(["k1"], "worker 3 ran into \0 a wall")
    claims = ask(other, 0, 1, 2)
    assert claims["k0"] == Claim()
    assert claims["k1"] == Claim(n_lost=1, lost_reason="worker 3 ran into \\x00 a wall")
    assert claims["k2"] == Claim(holder=database.owner)
    other.return_evaluations(["k1"], "and again")
    assert ask(database, 1)["k1"] == Claim(n_lost=2, lost_reason="worker 3 ran into \\x00 a wall\nand again")


def test_only_what_is_ours_can_be_given_back(
    database: Database, other: Database, ask: Ask, make_measurement: MakeMeasurement
) -> None:
    ask(database, 0, 1)
    made = database.finish_evaluations({"k1": make_measurement(0)})
    other.return_evaluations(["k0", "k1", "unknown"], "not mine")
    database.return_evaluations(["k1"], "finished")
    assert ask(other, 0, 1) == {"k0": Claim(holder=database.owner), "k1": Claim(evaluation=made["k1"])}


def hold_elsewhere(query: Query, key: str, beat: int | None) -> None:
    """Let an owner on another machine hold an evaluation; None for one that never showed a sign of life."""
    query("UPDATE evaluation SET owner = :owner WHERE key = :key", owner=ELSEWHERE, key=key)
    if beat is not None:
        query("INSERT INTO lease (owner, beat) VALUES (:owner, :beat)", owner=ELSEWHERE, beat=beat)


@pytest.mark.parametrize("beat", [7, None])
def test_a_lease_elsewhere_runs_out_when_its_beat_has_stood_still(
    other: Database, ask: Ask, query: Query, ticker: Ticker, beat: int | None
) -> None:
    ask(other, 0)
    hold_elsewhere(query, "k0", beat)
    for _ in range(2):
        assert ask(other, 0) == {"k0": Claim(holder=ELSEWHERE)}
        ticker.seconds += LEASE_S / 2 - 0.01
    assert ask(other, 0) == {"k0": Claim(holder=ELSEWHERE)}
    ticker.seconds += 0.02
    taken = Claim(n_lost=1, lost_reason="its process 12 on elsewhere was silent for 30 s")
    assert ask(other, 0) == {"k0": taken}
    assert ask(other, 0) == {"k0": taken}  # it is lost once, however often we ask


def test_a_beat_that_moves_keeps_its_lease(other: Database, ask: Ask, query: Query, ticker: Ticker) -> None:
    ask(other, 0)
    hold_elsewhere(query, "k0", 7)
    for _ in range(4):
        assert ask(other, 0) == {"k0": Claim(holder=ELSEWHERE)}
        ticker.seconds += LEASE_S - 1
        query("UPDATE lease SET beat = beat + 1")
    assert ask(other, 0) == {"k0": Claim(holder=ELSEWHERE)}


def test_renewing_moves_the_beat_and_nothing_else(database: Database, query: Query) -> None:
    for beat in (1, 2, 3):
        database.renew_lease()
        assert query("SELECT owner, beat FROM lease") == [(database.owner, beat)]


def test_an_owner_on_this_machine_whose_database_was_left_open_is_not_dead(
    database: Database, other: Database, ask: Ask, ticker: Ticker
) -> None:
    ask(database, 0)
    ask(other, 0)
    ticker.seconds += 2 * LEASE_S
    assert ask(other, 0) == {"k0": Claim(holder=database.owner)}


@pytest.mark.parametrize("late", ["first", "second"])
def test_a_late_answer_is_stored_if_nobody_was_first_and_dropped_else(
    database: Database, other: Database, ask: Ask, query: Query, make_measurement: MakeMeasurement, late: str
) -> None:
    ask(database, 0)
    query("UPDATE evaluation SET owner = NULL")
    ask(other, 0)
    owners = [database, other] if late == "first" else [other, database]
    kept = [owner.finish_evaluations({"k0": make_measurement(i)})["k0"] for i, owner in enumerate(owners)]
    assert kept[0] == kept[1]
    assert kept[0].outcome == make_measurement(0)
    assert query("SELECT owner, state FROM evaluation") == [(None, "complete")]
    assert query("SELECT count(*) FROM timing") == [(5,)]


def test_many_are_finished_in_one_transaction_or_none(
    database: Database, ask: Ask, make_measurement: MakeMeasurement
) -> None:
    ask(database, *range(3))
    failure = Failure(kind=FailureKind.NAN, reason="x")
    before = database.finish_evaluations({"k1": failure})["k1"]
    found = database.finish_evaluations({"k2": failure, "k1": make_measurement(1), "k0": make_measurement(0)})
    assert {key: kept.outcome for key, kept in found.items()} == {
        "k0": make_measurement(0), "k1": failure, "k2": failure,
    }  # fmt: skip
    assert found["k1"] == before
    assert database.find_evaluations(["k2", "k0", "k9"]) == {key: found[key] for key in ("k0", "k2")}


def test_a_batch_longer_than_a_statement_may_be_is_no_other(
    database: Database, ask: Ask, make_measurement: MakeMeasurement
) -> None:
    n = 1203
    assert set(ask(database, *range(n)).values()) == {Claim()}
    assert ask(database, *range(n + 1)) == {f"k{i}": Claim() for i in range(n + 1)}
    made: dict[str, Evaluation] = database.finish_evaluations({f"k{i}": make_measurement(i) for i in range(n)})
    found = database.find_evaluations([f"k{i}" for i in range(n + 1)])
    assert found == made
    assert found["k1202"].outcome == make_measurement(1202)


def test_what_is_left_when_a_database_is_closed_waits_for_somebody_and_is_not_lost(
    database: Database, url: str, ask: Ask, query: Query
) -> None:
    with Database.open(url) as closed:
        closed.renew_lease()
        ask(closed, 0, 1)
    assert query("SELECT owner, n_lost FROM evaluation") == [(None, 0)] * 2
    assert query("SELECT * FROM lease") == []
    assert ask(database, 0) == {"k0": Claim()}


def test_a_database_that_is_only_read_writes_nothing(
    database: Database, url: str, ask: Ask, query: Query, make_measurement: MakeMeasurement
) -> None:
    ask(database, 0)
    database.finish_evaluations({"k0": make_measurement(0)})
    marker = "PRAGMA data_version" if url.startswith("sqlite") else "SELECT pg_current_xact_id()::text::bigint"
    before = query(marker)
    with Database.open(url) as reader:
        reader.find_evaluations(["k0"])
        reader.list_studies()
    (change,) = (now[0] - then[0] for now, then in zip(query(marker), before, strict=True))  # type: ignore[operator]
    assert change <= (0 if url.startswith("sqlite") else 1)  # to ask PostgreSQL for the number uses one up


def test_opening_a_database_that_is_up_to_date_leaves_leases_alone(
    database: Database, url: str, ask: Ask, query: Query
) -> None:
    ask(database, 0)
    database.renew_lease()
    Database.open(url).close()
    assert query("SELECT owner FROM evaluation") == query("SELECT owner FROM lease") == [(database.owner,)]


def test_an_owner_with_our_own_pid_that_is_not_open_here_is_dead_at_once(
    other: Database, url: str, ask: Ask, query: Query
) -> None:
    """It was closed without a word, or its pid was given away again: containers start with the same pids."""
    with Database.open(url) as closed:
        ask(closed, 0)
    query("UPDATE evaluation SET owner = :owner", owner=closed.owner)
    host, _, pid, _ = closed.owner.split("/")
    assert ask(other, 0) == {"k0": Claim(n_lost=1, lost_reason=f"its process {pid} on {host} ended")}


def test_a_lease_does_not_run_out_while_the_server_is_away(
    other: Database, ask: Ask, query: Query, ticker: Ticker
) -> None:
    ask(other, 0)
    hold_elsewhere(query, "k0", 7)
    assert ask(other, 0) == {"k0": Claim(holder=ELSEWHERE)}
    ticker.seconds += 2 * LEASE_S
    other.sessions.n_outages += 1  # nobody could raise a counter in this time
    assert ask(other, 0) == {"k0": Claim(holder=ELSEWHERE)}
    ticker.seconds += LEASE_S
    assert ask(other, 0)["k0"].n_lost == 1


def test_a_beat_that_is_taken_away_is_no_sign_of_life(other: Database, ask: Ask, query: Query, ticker: Ticker) -> None:
    ask(other, 0)
    hold_elsewhere(query, "k0", 7)
    ask(other, 0)
    query("DELETE FROM lease")
    ask(other, 0)
    assert not other.leases.is_alive(ELSEWHERE)
    ticker.seconds += LEASE_S
    assert ask(other, 0)["k0"].n_lost == 1
