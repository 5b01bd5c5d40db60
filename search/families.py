"""The searchers by name."""

from collections.abc import Callable
from importlib import import_module

from autotune.search.searcher import SearchContext, Searcher
from autotune.spaces.errors import UsageError

FAMILIES: dict[str, str] = {
    "ecad": "autotune.search.ecad:EcadSearcher",
    "s3": "autotune.search.s3:S3Searcher",
    "random": "autotune.search.random_search:RandomSearcher",
    "fewer-steps": "autotune.search.fewer_steps:FewerStepsSearcher",
}


def make_searcher(name: str, context: SearchContext, seed: int = 0) -> Searcher:
    """The searcher of a family; its module is imported now and not before.

    Raises:
        UsageError: no family has this name.
    """
    check_family(name)
    module, attribute = FAMILIES[name].split(":")
    make: Callable[[SearchContext, int], Searcher] = getattr(import_module(module), attribute)
    return make(context, seed)


def check_family(name: str) -> None:
    """Raise a UsageError that lists the valid names if no family has this one."""
    if name not in FAMILIES:
        raise UsageError(f"a family must be one of {', '.join(FAMILIES)}; got {name!r}")
