"""Fixtures of the tests that harm studies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..storage.postgres import PostgresServer  # noqa: TID252 - the folders of tests are not on the path
from .processes import Expected, StudyProcess, outcomes


@pytest.fixture
def study(tmp_path: Path) -> StudyProcess:
    return StudyProcess(tmp_path, f"sqlite:///{tmp_path / 's.db'}")


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """A function that gives the outcomes of the study that nothing happened to, made once."""
    made: list[list[tuple[object, ...]]] = []

    def run() -> list[tuple[object, ...]]:
        if not made:
            folder = tmp_path_factory.mktemp("undisturbed")
            undisturbed = StudyProcess(folder, f"sqlite:///{folder / 's.db'}")
            undisturbed.finish()
            made.append(outcomes(undisturbed.record()))
        return made[0]

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.delete()
