import importlib.metadata
import importlib.resources
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

in_source_tree = pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="needs the source tree")


def _normalized(requirement: str) -> str:
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_distribution_and_command_have_their_names() -> None:
    distribution = importlib.metadata.distribution("diffusion-autotune")
    commands = {entry.name: entry.value for entry in distribution.entry_points if entry.group == "console_scripts"}
    assert commands == {"autotune": "autotune.cli.main:main"}
    assert distribution.version == PROJECT["version"]


@in_source_tree
def test_constraints_pin_torch_first_and_everything_that_is_required() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0].startswith("torch==")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact versions, none of them local"
    optional = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    required = {_normalized(requirement) for requirement in PROJECT["dependencies"] + optional}
    assert required - {_normalized(line) for line in lines} == {"diffusion-autotune"}


def test_package_ships_its_weights_prompts_and_type_marker() -> None:
    package = importlib.resources.files("autotune")
    assert (package / "py.typed").is_file()
    zoo = package / "evaluators" / "zoo"
    assert (zoo / "README.md").is_file()
    for weights in ("mini-flux/transformer", "mini-pixart/transformer", "mini-sd/unet"):
        data = zoo.joinpath(*weights.split("/"), "diffusion_pytorch_model.safetensors").read_bytes()
        assert len(data) > 7_000_000
    policy = zoo.joinpath("mini-policy", "transformer", "diffusion_pytorch_model.safetensors").read_bytes()
    assert 4_000_000 < len(policy) <= 6_000_000
    for name in ("calibration", "held_out", "mini_calibration", "mini_held_out", "policy_calibration"):
        assert (package / "evaluators" / "prompts" / f"{name}.txt").is_file()


@in_source_tree
@pytest.mark.parametrize("name", ["LICENSE", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_documents_stand_at_the_root(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) > 5


@in_source_tree
def test_every_arxiv_number_in_the_code_is_cited() -> None:
    cited = set(re.findall(r"\d{4}\.\d{4,5}", (ROOT / "CITATIONS.bib").read_text()))
    folders = ("cli", "evaluators", "reports", "search", "spaces", "storage")
    texts = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    used = {number for text in texts for number in re.findall(r"arXiv[: ]*(\d{4}\.\d{4,5})", text)}
    assert used - cited == set()
