"""Check that a wheel holds the whole package and nothing else; arguments: the wheel, the source tree."""

import sys
import zipfile
from pathlib import Path


def find_problems(wheel: Path, source: Path) -> list[str]:
    """What is missing from the wheel, or too much in it; empty if all is well."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    problems = [] if tops == {"autotune"} else [f"top-level names must be autotune alone; got {sorted(tops)}"]
    package = source / "src" / "autotune"
    links = [path for path in package.iterdir() if path.is_symlink()]
    files = {f"autotune/{path.name}" for path in package.iterdir() if path.is_file()}
    for link in links:
        files |= {
            f"autotune/{link.name}/{path.relative_to(link.resolve()).as_posix()}"
            for path in link.resolve().rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    if len(links) < 6:
        problems.append(f"src/autotune must hold six links; got {len(links)}")
    problems += [f"missing from the wheel: {name}" for name in sorted(files - names)]
    extra = {name for name in names if name.startswith("autotune/")} - files
    return problems + [f"in the wheel but not in the source: {name}" for name in sorted(extra)]


if __name__ == "__main__":
    found = find_problems(Path(sys.argv[1]), Path(sys.argv[2]))
    for problem in found:
        print(problem)
    sys.exit(1 if found else 0)
