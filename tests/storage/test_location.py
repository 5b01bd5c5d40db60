"""Where a database lies, for every way to say it."""

from pathlib import Path

import pytest

from autotune.spaces.errors import StorageError
from autotune.storage.location import parse_location, user_data_folder


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}", "sqlite+pysqlite:///{}"])
def test_a_path_and_its_url_are_the_same_place(tmp_path: Path, form: str) -> None:
    location = parse_location(form.format(tmp_path / "a b.db"))
    assert location.path == tmp_path / "a b.db"
    assert location.artifacts == tmp_path / "a b.db.artifacts"
    assert location.shown == str(tmp_path / "a b.db")


def test_a_relative_path_stays_where_it_was_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    location = parse_location("runs/a.db")
    monkeypatch.chdir("/")
    assert location.path == tmp_path / "runs" / "a.db"
    assert location.url.database == str(tmp_path / "runs" / "a.db")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_location("~/a.db").path == tmp_path / "a.db"


def test_the_default_is_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    location = parse_location(None)
    assert location.path == tmp_path / "autotune" / "autotune.db"
    assert location.artifacts == tmp_path / "autotune" / "autotune.db.artifacts"


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", "HOME/.local/share/autotune"),
        ({"XDG_DATA_HOME": "/data"}, "linux", "/data/autotune"),
        ({"XDG_DATA_HOME": "relative"}, "linux", "HOME/.local/share/autotune"),
        ({}, "darwin", "HOME/Library/Application Support/autotune"),
        ({"LOCALAPPDATA": "/c/Local"}, "win32", "/c/Local/autotune"),
        ({}, "win32", "HOME/AppData/Local/autotune"),
    ],
)
def test_the_data_folder_is_the_platforms_own(
    environment: dict[str, str], platform: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_data_folder(environment, platform) == Path(expected.replace("HOME", str(tmp_path)))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_goes_through_psycopg_and_keeps_artifacts_in_the_data_folder(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    location = parse_location(f"{scheme}://me:secret@host:5433/runs?password=secret&sslmode=require")
    assert location.url.drivername == "postgresql+psycopg"
    assert location.url.password == "secret"
    assert location.artifacts == tmp_path / "autotune" / "artifacts"
    assert location.path is None
    assert location.shown == "postgresql+psycopg://me:***@host:5433/runs"


@pytest.mark.parametrize("scheme", ["sqlite:////runs/a.db", "postgresql://me@host/runs"])
def test_artifacts_lie_where_the_url_says(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    separator = "?timeout=3&" if scheme.startswith("sqlite") else "?sslmode=require&"
    assert parse_location(f"{scheme}?artifacts=/shared/a%20b").artifacts == Path("/shared/a b")
    assert parse_location(f"{scheme}?artifacts=~/files").artifacts == Path("/home/me/files")
    location = parse_location(f"{scheme}{separator}artifacts=here")
    assert location.artifacts == tmp_path / "here"
    assert set(location.url.query) == {separator[1:].partition("=")[0]}  # the driver would not know the option


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/x", r"must be SQLite or PostgreSQL; got 'mysql'"),
        ("sqlite+aiosqlite:///a.db", r"must be SQLite or PostgreSQL; got 'sqlite\+aiosqlite'"),
        ("postgresql://me:secret@host:port/x", "can't be parsed: check the port"),
        ("://me:secret@host", "can't be parsed"),
        ("", "must be a file"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///file:a.db?uri=true", "no option but"),
        ("file:a.db", "must be a file"),
        ("sqlite://a.db", "sqlite:////absolute/path.db"),
        ("sqlite:///a.db?mode=ro", "no option but"),
        ("sqlite:///a.db?timeout=soon", "no option but"),
        ("sqlite:///a.db?artifacts=", r"\?artifacts= must name one folder; got \[''\]"),
        ("postgresql://me:secret@host/x?artifacts=a&artifacts=b", "must name one folder; got .*'a', 'b'"),
    ],
)
def test_a_url_of_another_form_is_one_clear_error_without_the_password(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        parse_location(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
