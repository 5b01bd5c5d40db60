"""How torch's threads wait, in a command."""

import sys

import pytest

from autotune.cli.main import SPINS

from .place import Place


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP there")
@pytest.mark.parametrize("own", [None, "77"])
def test_threads_that_wait_for_others_give_up_their_core_soon(
    home: Place, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """OpenMP reads how soon, and can tell it, when torch is imported; a user's own setting stays."""
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.setenv("GOMP_SPINCOUNT", own or "")
    if own is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    assert f"GOMP_SPINCOUNT = '{own or SPINS}'" in home.run("doctor").err
