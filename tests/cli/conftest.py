"""The command in this process, and one small study that the real command made."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.cli.main import SPINS, main

from .place import N_EVALUATIONS, Finished, Place, study_words


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts to search with and two that are held out."""
    path = tmp_path_factory.mktemp("prompts") / "four prompts.txt"
    path.write_text("a photo of a cat\na photo of a ship\n# a comment\n\na photo of a dog\na photo of a horse\n")
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the session's study lies."""
    return Place(tmp_path_factory.mktemp("a home"))


@pytest.fixture(scope="session")
def made(home: Place, prompts: Path) -> Finished:
    """The command that made the session's study, named `small`."""
    return home.run(*study_words(home, "small", prompts=prompts), "--evaluations", N_EVALUATIONS)


@pytest.fixture
def small(home: Place, made: Finished) -> Place:
    """The place where the study `small` lies."""
    assert made.code == 0, made.err
    return home


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Finished]]:
    """Run the command in this process, in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("GOMP_SPINCOUNT", SPINS)):
        monkeypatch.setenv(name, value)  # which the command would set for the whole process
    handler = signal.getsignal(signal.SIGPIPE)

    def run(*words: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Finished(int(caught.value.code or 0), out, err)

    yield run
    signal.signal(signal.SIGPIPE, handler)
