import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "evaluators", "reports", "search", "spaces", "storage")

pytestmark = pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="needs the source tree")


def _python_files() -> list[Path]:
    folders = (*PACKAGES, "tests", "benchmarks", "examples", ".ci")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("name", PACKAGES)
def test_each_folder_is_linked_into_the_package(name: str) -> None:
    link = ROOT / "src" / "autotune" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../../{name}"
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").is_file()


def test_links_are_committed_as_links() -> None:
    listed = subprocess.run(["git", "ls-files", "-s", "src"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.stdout.splitlines()}
    assert {name: modes.get(f"src/autotune/{name}") for name in PACKAGES} == dict.fromkeys(PACKAGES, "120000")


def test_no_file_has_more_than_300_lines() -> None:
    long = {str(path): n for path in _python_files() if (n := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_no_function_has_60_lines_or_more() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in _python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert long == []


def test_init_files_hold_a_docstring_and_imports_only() -> None:
    for path in [*(ROOT / name / "__init__.py" for name in PACKAGES), ROOT / "src" / "autotune" / "__init__.py"]:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body[1:]:
            is_public_name = isinstance(node, ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.If)
            lazy_root = path.parent.name == "autotune" and is_public_name
            assert isinstance(node, ast.Import | ast.ImportFrom) or lazy_root, f"{path}:{node.lineno}"


def test_every_package_folder_with_python_files_has_an_init_file() -> None:
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_nothing_opens_pickles_or_a_shell() -> None:
    banned = ("import pickle", "torch.load(", "shell=True", "trust_remote_code=True", "eval(compile")
    found = [
        f"{path}: {text}"
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
        for text in banned
        if text in path.read_text()
    ]
    assert found == []
