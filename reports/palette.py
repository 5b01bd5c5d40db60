"""Colours of figures and page: one name, a value on light paper and one on dark.

Families take the colours of Okabe and Ito (2008), which colour-blind readers can tell apart; every family also has its
own marker, so no reading depends on colour alone.
"""

import re
from collections.abc import Iterable

from autotune.spaces.front import BASELINE, RIVAL

LIGHT_AND_DARK = {
    "paper": ("#fffffe", "#15181c"),
    "panel": ("#f4f5f3", "#1e2227"),
    "ink": ("#1d2329", "#e9ebe8"),
    "soft": ("#59626b", "#a5adb4"),
    "grid": ("#dfe2e1", "#32383f"),
    "dominated": ("#a9b0b6", "#626b73"),
    "front": ("#1d232a", "#e9ebe9"),
    "recompute": ("#1f4f7b", "#2f6ea6"),
    "reuse": ("#c9e0f2", "#c9e0f3"),
    "forecast": ("#7fb2dc", "#79b0de"),
    "one-branch": ("#3f8687", "#4f9c9b"),
    "idle": ("#f6f3ec", "#33373c"),
    "hatch": ("#c3beb2", "#5d6369"),
    "guidance-both": ("#4c3d85", "#c5baf2"),
    "guidance-fitted": ("#a892d3", "#6f5cab"),
    "guidance-quadratic": ("#bdaede", "#5f4f90"),
    "guidance-linear": ("#d0c5e9", "#4f4278"),
    "guidance-stored": ("#e2daf3", "#463b66"),
    "guidance-one": ("#f4f1fa", "#2d2938"),
    "formula-0": ("#cfe6d8", "#1f4d39"),
    "formula-1": ("#f6dcb4", "#5c4212"),
    "formula-2": ("#f3cfe0", "#5f2b47"),
    "formula-3": ("#d3dff7", "#2a3d66"),
    "formula-4": ("#e3e1c3", "#47462a"),
    "formula-5": ("#d5ecee", "#24494c"),
    "formula-6": ("#ecdcd2", "#523d30"),
    "accent": ("#0b66a8", "#6db7ee"),
    "fewer-steps": ("#c84f00", "#ff8b3d"),
    "family-0": ("#0072b2", "#4ba8e0"),
    "family-1": ("#007a59", "#25c195"),
    "family-2": ("#b5578d", "#e59cc4"),
    "family-3": ("#a87500", "#f0b840"),
    "family-4": ("#6f5fc0", "#ac9ff0"),
}
"""Name -> (light, dark). The light values are all different: a figure's SVG is mapped back to names by them."""

_MARKERS = ("o", "^", "D", "v", "P")


def light(name: str) -> str:
    """The colour on light paper, as `#rrggbb`."""
    return LIGHT_AND_DARK[name][0]


def with_page_colours(svg: str) -> str:
    """The SVG with every palette colour replaced by the page's CSS variable, so that it follows a dark page."""
    names = {values[0]: name for name, values in LIGHT_AND_DARK.items()}

    def variable(match: re.Match[str]) -> str:
        name = names.get(match.group(0))
        return match.group(0) if name is None else f"var(--{name})"

    return re.sub(r"#[0-9a-f]{6}\b", variable, svg)


def css_variables(scheme: int) -> str:
    """CSS declarations of all colours; scheme 0 is light, 1 dark."""
    return " ".join(f"--{name}: {values[scheme]};" for name, values in LIGHT_AND_DARK.items())


def family_styles(families: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour name and matplotlib marker of each family, in order of name; fewer steps is always the orange square."""
    styles = {RIVAL: (RIVAL, "s"), BASELINE: ("ink", "*")}
    others = sorted(set(families) - set(styles))
    for i, family in enumerate(others):
        styles[family] = (f"family-{i % 5}", _MARKERS[i % 5])
    return styles
