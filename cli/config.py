"""`--config FILE`: a TOML file whose keys are the options of the command line."""

import tomllib
from pathlib import Path

from autotune.spaces.errors import UsageError

OPTION = "--config"


def expand_config(words: list[str]) -> list[str]:
    """The command line with `--config FILE` replaced by the options in the file, before the rest, so that those win.

    Raises:
        UsageError: the file can't be read, is not TOML, or holds a table.
    """
    command, given = words[:1], words[1:]
    for i, word in enumerate(given):
        name, equals, value = word.partition("=")
        if name != OPTION:
            continue
        if not equals and i + 1 == len(given):
            raise UsageError(f"{OPTION} needs a file")
        path = Path(value if equals else given[i + 1])
        return command + _options(path) + given[:i] + given[i + (1 if equals else 2) :]
    return words


def _options(path: Path) -> list[str]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"a config file must be readable TOML; {path}: {error}") from error
    words: list[str] = []
    for key, value in data.items():
        if key == OPTION.removeprefix("--"):
            raise UsageError(f"a config file can't name another one; {path}: remove the key {key!r}")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool):
                words.append(f"--{key}" if item else f"--no-{key}")
            elif isinstance(item, str | int | float):
                words += [f"--{key}={item}"]
            else:
                raise UsageError(
                    f"{path}: {key} must be a text, a number, true, false or a list of those; got {item!r}"
                )
    return words
