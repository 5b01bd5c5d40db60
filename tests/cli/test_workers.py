"""Several workers from the command line, and a machine that joins a cluster: real Ray, a real model."""

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.storage.database import Database

from .place import Place, kill_group, study_words

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster that offers no worker yet, and whose token the environment holds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["start", "--head", "--port", str(port), "--include-dashboard", "false", "--disable-usage-stats", "--block"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        process = subprocess.Popen([RAY, *words], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("--block" in line for line in lines), "the head does not start"
        yield f"127.0.0.1:{port}"
        process.terminate()
        process.communicate(timeout=60)


def test_a_driver_without_the_cluster_s_token_is_refused(head: str, tmp_path: Path, prompts: Path) -> None:
    place = Place(tmp_path)
    words = [*study_words(place, "stranger", prompts=prompts), "--ray-address", head, "--evaluations", "4"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        done = place.run(*words)
    assert done.code == 2
    assert "RAY_AUTH_TOKEN" in done.err
    assert "Traceback" not in done.err


def test_workers_that_join_a_cluster_measure_for_it(head: str, tmp_path: Path, prompts: Path) -> None:
    place = Place(tmp_path)
    words = [*study_words(place, "joined", prompts=prompts), "--ray-address", head, "--workers", "2"]
    alone = place.run(*words, "--evaluations", "4")
    assert alone.code == 2
    assert f"no machine of the cluster at {head} offers workers" in alone.err
    assert "autotune worker" in alone.err

    joined = place.start("worker", "--ray-address", head, "--workers", "2")
    assert joined.stderr is not None
    try:
        assert joined.stderr.readline().startswith(f"offering 2 workers to {head}")
        time.sleep(5.0)  # Ray starts
        end = time.monotonic() + 120.0
        while (done := place.run(*words, "--evaluations", "4", "--seed", "1")).code == 2 and time.monotonic() < end:
            assert joined.poll() is None, joined.communicate()
    finally:
        joined.terminate()
        joined.communicate(timeout=60)
        kill_group(joined)
    assert done.code == 0, done.err
    with Database.open(place.storage) as database:
        record = database.load_study("joined")
        assert [c.number for c in record.candidates] == list(range(4))
        assert record.provenance["workers"] == 2
        # The reference of each prompt is there once, though two processes needed it.
        assert all(c.calibration.measurement is not None for c in record.candidates)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--workers", "0"], "at least 1; got 0"),
        (["--workers", "2", "--ray-address", "127.0.0.1:9"], "there must be a Ray cluster at 127.0.0.1:9"),
        (["--cost", "3"], "needs the price"),
        (["--cost", "-3", "--price", "1"], "must be a positive number; got -3"),
    ],
)
def test_a_wrong_number_or_address_is_one_clear_error(
    words: list[str], complaint: str, tmp_path: Path, prompts: Path
) -> None:
    place = Place(tmp_path)
    done = place.run(*study_words(place, "wrong", prompts=prompts), "--evaluations", "3", *words)
    assert done.code == 2
    assert complaint in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["--ray-address", "nowhere"], "HOST:PORT"), (["--ray-address", "127.0.0.1:9", "--workers", "0"], "got 0")],
)
def test_a_worker_with_a_wrong_option_says_so(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = Place(tmp_path).run("worker", *words)
    assert done.code == 2
    assert complaint in done.err
