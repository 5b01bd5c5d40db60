"""A study has one driver: who claims it first, until that one gives it back or dies."""

import threading
import time
from collections.abc import Callable

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyBusyError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import StudyState
from autotune.storage.database import CandidateEntry, Database
from autotune.storage.leases import LEASE_S

from .ticker import Ticker

Query = Callable[..., list[tuple[object, ...]]]

ELSEWHERE = "elsewhere/0/12/abc"


def test_who_creates_a_study_drives_it_and_may_claim_it_again(database: Database, study: str, query: Query) -> None:
    database.claim_study(study)
    assert query("SELECT owner FROM study") == [(database.owner,)]


def test_a_second_driver_is_refused_with_the_first_ones_process_and_the_remedy(
    database: Database, url: str, study: str, query: Query
) -> None:
    host, _, pid, _ = database.owner.split("/")
    begin = time.monotonic()
    with (
        Database.open(url) as second,
        pytest.raises(StudyBusyError, match=rf"'flux' is driven by process {pid} on {host}, .*refused.*resume flux"),
    ):
        second.claim_study(study)
    assert time.monotonic() - begin < 5
    assert query("SELECT owner FROM study") == [(database.owner,)]


def test_a_driver_that_gives_up_its_leases_or_closes_lets_the_next_one_in(
    database: Database, url: str, study: str
) -> None:
    database.release_leases()
    with Database.open(url) as second:
        second.claim_study(study)
        with pytest.raises(StudyBusyError):
            database.claim_study(study)
    database.claim_study(study)


def test_a_study_that_is_not_there_can_not_be_claimed(database: Database, study: str) -> None:
    with pytest.raises(StorageError, match="none named 'flx': did you mean 'flux'"):
        database.claim_study("flx")


@pytest.mark.parametrize("beat", [7, None])
def test_a_driver_elsewhere_whose_beat_stands_still_is_followed_after_a_lease(
    database: Database, url: str, study: str, query: Query, beat: int | None
) -> None:
    query("UPDATE study SET owner = :owner", owner=ELSEWHERE)
    if beat is not None:
        query("INSERT INTO lease (owner, beat) VALUES (:owner, :beat)", owner=ELSEWHERE, beat=beat)
    with Database.open(url, monotonic=Ticker(LEASE_S / 8)) as second:
        second.claim_study(study)
        assert query("SELECT owner FROM study") == [(second.owner,)]


@pytest.mark.parametrize(("owner", "shown"), [(ELSEWHERE, "process 12 on elsewhere"), ("any/text", "owner 'any/text'")])
def test_a_driver_elsewhere_whose_beat_moves_is_busy_at_once(
    url: str, study: str, query: Query, owner: str, shown: str
) -> None:
    query("UPDATE study SET owner = :owner", owner=owner)
    query("INSERT INTO lease (owner, beat) VALUES (:owner, 7)", owner=owner)
    end = threading.Event()

    def live() -> None:
        while not end.wait(0.2):
            query("UPDATE lease SET beat = beat + 1")

    thread = threading.Thread(target=live)
    thread.start()
    begin = time.monotonic()
    try:
        with Database.open(url) as second, pytest.raises(StudyBusyError, match=f"'flux' is driven by {shown}, and"):
            second.claim_study(study)
    finally:
        end.set()
        thread.join()
    assert time.monotonic() - begin < LEASE_S / 2


def test_who_does_not_drive_a_study_can_not_write_to_it(
    database: Database, url: str, study: str, make_schedule: Callable[[int], Schedule],
    add: Callable[[int, str], str],
) -> None:  # fmt: skip
    digest = add(0, "k0")
    schedule = make_schedule(1)
    entry = CandidateEntry(
        number=1, family="f", label="l", schedule=schedule, schedule_hash=schedule_hash(schedule), key="k1"
    )
    with Database.open(url) as second:
        calls: list[Callable[[], object]] = [
            lambda: second.add_candidates(study, [entry]),
            lambda: second.update_study(study, state=StudyState.DONE, wall_s=9.0),
            lambda: second.set_image(study, schedule_hash=digest, artifact="a"),
            lambda: second.set_held_out(study, schedule_hash=digest, key="h"),
        ]
        for call in calls:
            with pytest.raises(StudyBusyError, match="two drivers on one study are refused"):
                call()
        database.release_leases()
        for call in calls:
            call()
    assert database.load_study(study).state is StudyState.DONE


def test_device_time_is_kept_until_it_is_given(
    database: Database, study: str, condition: Condition, inventory: Inventory
) -> None:
    assert database.load_study(study).device_s == 0.0
    database.update_study(study, state=StudyState.RUNNING, wall_s=1.0, device_s=4.5)
    database.update_study(study, state=StudyState.DONE, wall_s=2.0)
    record = database.load_study(study)
    assert (record.wall_s, record.device_s) == (2.0, 4.5)
    assert [s.device_s for s in database.list_studies()] == [4.5]


@pytest.fixture
def filled(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: Callable[[float], Measurement],
) -> str:  # fmt: skip
    """A study with candidates 0 to 6, of which 2 and 5 are not finished; 3 has a held-out evaluation."""
    hashes = {i: start(f"k{i}", i) for i in range(7)}
    for i in hashes:
        add(i, f"k{i}")
    start("h3", 3)
    database.set_held_out("flux", schedule_hash=hashes[3], key="h3")
    made = {f"k{i}": make_measurement(i) for i in range(7) if i not in (2, 5)}
    database.finish_evaluations({**made, "h3": make_measurement(30)})
    database.set_image("flux", schedule_hash=hashes[4], artifact="sheet-4")
    return "flux"


@pytest.mark.parametrize("page", [1, 2, 5, 6, 500])
def test_the_candidates_come_page_by_page_as_they_come_at_once(database: Database, filled: str, page: int) -> None:
    record = database.load_study(filled)
    assert [c.number for c in record.candidates] == [0, 1, 3, 4, 6]
    assert tuple(database.iterate_candidates(filled, page)) == record.candidates
    assert record.candidates[2].held_out is not None


def test_no_transaction_is_open_between_two_pages(
    database: Database, filled: str, make_measurement: Callable[[float], Measurement]
) -> None:
    pages = database.iterate_candidates(filled, 2)
    seen = [next(pages).number, next(pages).number]
    database.finish_evaluations({"k5": make_measurement(5)})
    assert seen + [c.number for c in pages] == [0, 1, 3, 4, 5, 6]


def test_some_candidates_of_a_study_are_those_of_the_whole(database: Database, filled: str) -> None:
    whole = database.load_study(filled)
    some = database.load_study(filled, numbers={6, 3, 2, 99})
    assert some.candidates == tuple(c for c in whole.candidates if c.number in (3, 6))
    assert (some.settings, some.condition, some.images) == (whole.settings, whole.condition, {})
    assert database.load_study(filled, numbers=[]).candidates == ()
    assert database.load_study(filled, numbers=range(2000)) == whole


def test_the_hashes_are_those_of_the_finished_candidates(database: Database, filled: str) -> None:
    expected = [(c.number, c.family, c.schedule_hash) for c in database.load_study(filled).candidates]
    assert database.candidate_hashes(filled) == expected
    with pytest.raises(StorageError, match="none named 'nope'"):
        database.candidate_hashes("nope")
