"""When a signal raises, and when it waits."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from autotune.cli.interrupt import Interrupt


def send(number: int) -> None:
    """A signal to this process, and time for it to arrive."""
    os.kill(os.getpid(), number)
    time.sleep(1.0)


def test_before_it_is_armed_the_first_signal_raises() -> None:
    with Interrupt(lambda: None), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_once_armed_the_first_signal_is_a_request_and_the_second_raises() -> None:
    notified: list[bool] = []
    with Interrupt(lambda: notified.append(True)) as interrupt:
        interrupt.arm()
        send(signal.SIGTERM)
        assert interrupt()
        assert notified == [True]
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def import_and_wait(name: str) -> None:
    importlib.import_module(name)
    time.sleep(5.0)


def test_an_import_is_finished_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of torch, whose C++ code ends the process where Python raises in the middle of it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = ("import os, signal, time", "os.kill(os.getpid(), signal.SIGINT)", "time.sleep(0.3)", "finished = True")
    (tmp_path / "takes_its_time.py").write_text("\n".join(lines))
    with Interrupt(lambda: None), pytest.raises(KeyboardInterrupt):
        import_and_wait("takes_its_time")
    assert sys.modules.pop("takes_its_time").finished
