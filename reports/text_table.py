"""A table of raw figures with a title and headings, and the same as text for terminals, Markdown and pages."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autotune.reports.figure_text import interval_of, interval_text, markdown_cell, number_text
from autotune.reports.tables import Row

_SHOWN_AS = {
    "rival_speedup": "speedup",
    "without_speedup": "speedup",
    "rival_psnr": "psnr",
    "rival_success": "success",
    "without_success": "success",
}
_SIGNED = ("difference", "gain", "worth")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of raw figures; `columns` maps the keys that people see to their headings.

    `notes` are sentences that stand above it. A row may have `intervals`, as those of `autotune.reports.tables`, which
    are shown except in the columns `bare`. A repeated value of the column `grouped` is shown once.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    bare: Collection[str] = ()
    grouped: str | None = None

    def texts(self) -> list[dict[str, str]]:
        """The shown cells as people read them, intervals in brackets."""
        texts, before = [], None
        for row in self.rows:
            cells = {key: _text(row, key, bare=key in self.bare) for key in self.columns}
            if self.grouped is not None:
                group = cells[self.grouped]
                cells[self.grouped], before = ("" if group == before else group), group
            texts.append(cells)
        return texts

    def is_text(self, key: str) -> bool:
        """Whether a column holds words rather than figures."""
        return any(isinstance(row.get(key), str) for row in self.rows)

    def to_markdown(self) -> str:
        """Title, notes and table."""
        rule = [" --- " if self.is_text(key) else " ---: " for key in self.columns]
        lines = [
            f"## {markdown_cell(self.title)}",
            "",
            *(part for note in self.notes for part in (markdown_cell(note), "")),
            "| " + " | ".join(map(markdown_cell, self.columns.values())) + " |",
            "|" + "|".join(rule) + "|",
            *("| " + " | ".join(map(markdown_cell, row.values())) + " |" for row in self.texts()),
        ]
        return "\n".join(lines) + "\n"


def _text(row: Row, key: str, *, bare: bool) -> str:
    value = row.get(key)
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    interval = interval_of(row, key) if "intervals" in row and not bare else None
    if key in _SIGNED and isinstance(value, float):
        text = f"{value:+.3f}"
        return text if interval is None else f"{text} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    name = _SHOWN_AS.get(key, key)
    text = number_text(name, value)
    return text if interval is None else f"{text} {interval_text(name, interval)}"
