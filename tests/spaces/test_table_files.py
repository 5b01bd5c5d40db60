"""Tables beside schedule files: written together, found again, and refused where they are missing or not the same."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory, Site
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash, schedule_to_json
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file
from autotune.spaces.schedule_json import schedule_from_json

from .test_schedule_file import CONDITION, PUBLISHED

TABLE = b"a table"
DIGEST = hashlib.sha256(TABLE).hexdigest()
PLAN = CachePlan.from_array([[0], [1]])
CORRECTED = Schedule(n_steps=2, cache=PLAN, cache_correction=DIGEST)
FILE = ScheduleFile(schedule=CORRECTED, condition=CONDITION, tables={DIGEST: TABLE})


def test_a_table_travels_beside_the_file_and_its_hash_is_part_of_the_schedules(tmp_path: Path) -> None:
    save_schedule_file(tmp_path / "flux.schedule.json", FILE)
    beside = tmp_path / f"flux.{DIGEST[:8]}.safetensors"
    assert beside.read_bytes() == TABLE
    assert load_schedule_file(tmp_path / "flux.schedule.json") == FILE
    data = json.loads((tmp_path / "flux.schedule.json").read_text())
    PUBLISHED.validate(data)
    assert schedule_from_json(schedule_to_json(CORRECTED)) == CORRECTED
    assert schedule_hash(CORRECTED) != schedule_hash(CORRECTED.without_tables)
    (tmp_path / "flux.schedule.json").rename(tmp_path / "other.json")
    assert load_schedule_file(tmp_path / "other.json").tables == {DIGEST: TABLE}
    beside.write_bytes(b"edited")
    with pytest.raises(ScheduleError, match=f"must have the SHA-256 {DIGEST[:12]}.*edited or damaged"):
        load_schedule_file(tmp_path / "other.json")
    beside.unlink()
    with pytest.raises(ScheduleError, match=rf"other\.{DIGEST[:8]}\.safetensors is missing: copy it there"):
        load_schedule_file(tmp_path / "other.json")


def test_nothing_is_written_without_the_table(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="cache_correction needs the table"):
        save_schedule_file(tmp_path / "s.json", ScheduleFile(schedule=CORRECTED, condition=CONDITION))
    assert list(tmp_path.iterdir()) == []


def test_a_correction_of_nothing_is_none() -> None:
    inventory = Inventory(denoiser_class="D", sites=(Site(name="a", block="a", component="ff", macs=1),))
    assert canonical_schedule(CORRECTED, inventory).cache_correction == DIGEST
    dead = Schedule(n_steps=2, cache=CachePlan.from_array(np.zeros((2, 1))), cache_correction=DIGEST)
    assert canonical_schedule(dead, inventory) == Schedule(n_steps=2)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"cache_correction": DIGEST}, "needs the column cache"),
        ({"cache": PLAN, "cache_correction": "ab"}, "64 hex digits; got 'ab'"),
    ],
)
def test_what_names_no_table_is_refused(columns: dict[str, object], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        Schedule(n_steps=2, **columns)  # type: ignore[arg-type]
