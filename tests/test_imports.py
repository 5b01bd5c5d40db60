import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "ray", "sqlalchemy", "matplotlib")
FOLDERS = ("cli", "evaluators", "reports", "search", "spaces", "storage")

REPORT = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def _modules_after(code: str) -> set[str]:
    command = [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}\n{REPORT}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_autotune_is_light() -> None:
    modules = _modules_after("import autotune")
    assert modules & set(HEAVY) == set()
    assert modules & set(FOLDERS) == set(), "folders must not be importable under a second name"


@pytest.mark.parametrize("arguments", [["--help"], ["list", "models"], ["list", "families"]])
def test_commands_that_run_no_model_load_no_framework(arguments: list[str]) -> None:
    code = f"sys.argv = {['autotune', *arguments]!r}\nfrom autotune.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    assert _modules_after(code) & {"torch", "diffusers", "transformers", "ray"} == set()


@pytest.mark.parametrize("folder", ["spaces", "storage", "reports"])
def test_folders_below_the_evaluators_load_no_framework(folder: str) -> None:
    code = f"""
import importlib, pkgutil, autotune.{folder} as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if ".migrations" not in module.name:
        importlib.import_module(module.name)
"""
    modules = _modules_after(code)
    assert modules & {"torch", "diffusers", "transformers", "ray", "typer", "deap"} == set()
    if folder == "spaces":
        assert modules & {"scipy", "matplotlib", "sqlalchemy", "PIL", "rich", "jinja2"} == set()


def test_presets_and_availability_load_no_framework() -> None:
    code = "from autotune.evaluators import availability, presets, resolve"
    assert _modules_after(code) & {"torch", "diffusers", "transformers"} == set()


def test_a_study_loads_no_framework_where_its_workers_are_elsewhere() -> None:
    code = "from autotune.search import families, study\nfrom autotune.evaluators import ray_pool"
    assert _modules_after(code) & {"torch", "diffusers", "transformers", "ray", "optuna", "sklearn"} == set()
