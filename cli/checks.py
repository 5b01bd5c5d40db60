"""The checks of `autotune doctor`."""

from collections.abc import Callable

from autotune.spaces.errors import AutotuneError


def run_checks(storage: str | None) -> list[dict[str, object]]:
    """One row per check with the keys check, ok, found; a check that raises is not ok and says why."""
    checks: dict[str, Callable[[], str]] = {
        "libraries": _libraries,
        "device": _device,
        "database": lambda: _database(storage),
        "disk": _disk,
        "reference model": _reference_model,
    }
    rows: list[dict[str, object]] = []
    for name, check in checks.items():
        try:
            rows.append({"check": name, "ok": True, "found": check()})
        except (AutotuneError, ImportError, OSError, RuntimeError) as error:
            rows.append({"check": name, "ok": False, "found": str(error)})
    return rows


def _libraries() -> str:
    from autotune.evaluators.hardware import library_versions

    return ", ".join(f"{name} {version}" for name, version in library_versions())


def _device() -> str:
    from autotune.evaluators.hardware import choose_device, device_name

    return device_name(choose_device())


def _database(storage: str | None) -> str:
    from autotune.storage.database import Database

    database = Database.open(storage)
    try:
        return f"{len(database.list_studies())} studies in {database.url}"
    finally:
        database.close()


def _disk() -> str:
    import shutil
    import tempfile

    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < 1.0:
        raise OSError(f"{free:.1f} GB free in {tempfile.gettempdir()}; a study wants at least 1 GB")
    return f"{free:.0f} GB free"


def _reference_model() -> str:
    from autotune.evaluators.load import load_model

    model = load_model("mini-flux")
    return f"mini-flux loads, {type(model.pipe).__name__}"
