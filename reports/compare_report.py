"""A comparison as a folder: one self-contained HTML page, its figures as PNG, the same as Markdown, members as CSV."""

from functools import partial
from pathlib import Path

from markupsafe import Markup

from autotune.reports import palette
from autotune.reports.compare_figure import draw_comparison
from autotune.reports.compare_notes import notes
from autotune.reports.compare_tables import Removals, comparison_tables, members_csv
from autotune.reports.comparison import Comparison
from autotune.reports.figure import render
from autotune.reports.figure_text import markdown_cell
from autotune.reports.folder import write_files
from autotune.reports.templates import template_environment

_RELATIVE = (
    "Left and below is better; 1 is each study's own default run. Filled marks are held-out values, open ones those of "
    "the calibration {units}. Bars are 95 % intervals."
)


def write_comparison(comparison: Comparison, removals: Removals, folder: Path, *, absolute: bool = False) -> Path:
    """Write `compare.html`, `compare.md`, `relative.png`, `absolute.png` and `members.csv`; the path of the page.

    The page is one file that loads nothing. The same records give the same bytes.

    Raises:
        StorageError: a file can't be written.
    """
    write_files(comparison_files(comparison, removals, absolute=absolute), folder)
    return folder / "compare.html"


def comparison_files(comparison: Comparison, removals: Removals, *, absolute: bool = False) -> dict[str, bytes]:
    """The files by name, as `write_comparison` writes them."""
    relative = render("relative", partial(draw_comparison, comparison, False))
    in_ms = render("absolute", partial(draw_comparison, comparison, True))
    tables = comparison_tables(comparison, removals, absolute=absolute)
    words = comparison.words
    of_relative = _RELATIVE.format(units=words.units)
    of_absolute = f"{words.absolute} Bars are 95 % intervals."
    said, title = notes(comparison), f"Comparison: {comparison.title}"
    figures = [("Relative to the default run", relative, of_relative), ("Absolute", in_ms, of_absolute)]
    template = template_environment().get_template("compare.html")
    light, dark = (Markup(palette.css_variables(scheme)) for scheme in (0, 1))
    page = template.render(title=title, notes=said, figures=figures, tables=tables, light=light, dark=dark)
    paragraphs = [f"# {markdown_cell(title)}", *map(markdown_cell, said), "![Relative](relative.png)", of_relative]
    paragraphs += ["![Absolute](absolute.png)", of_absolute]
    parts = [*(f"{paragraph}\n" for paragraph in paragraphs), *(table.to_markdown() for table in tables)]
    return {
        "relative.png": relative.png,
        "absolute.png": in_ms.png,
        "members.csv": members_csv(comparison).encode(),
        "compare.md": "\n".join(parts).encode(),
        "compare.html": page.encode(),
    }
