"""What a running study shows: a live table on a terminal, plain lines elsewhere."""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from autotune.search.progress import CandidateEvent, Phase
from autotune.spaces.error_scale import error_text
from autotune.spaces.evaluation import Failure
from autotune.spaces.objective import OBJECTIVES

LINE_EVERY_S = 5.0
STDERR = 2
NOTICE = "finishing the candidate, then saving; once more stops at once"
EXHAUSTED = "this family has nothing more to try within the budget"


def fewer_prompts(n_calibration: int, n_held_out: int) -> str:
    """The sentence that tells of a short budget's prompts."""
    return (
        f"the budget affords {n_calibration} prompts to search with and {n_held_out} held out; --prompts uses a file's"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _outcome(event: CandidateEvent) -> str:
    if isinstance(event.outcome, Failure):
        return f"failed: {event.outcome.kind}"
    m = event.outcome
    return f"latency {OBJECTIVES['latency'].natural(m):.3f}x, {error_text(m)}"


class PlainProgress:
    """One line per phase, per failure, and every few seconds; nothing at all where `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr.flush()

    def on_study(self, name: str) -> None:
        """Say what the study is called, so that it can be resumed whatever happens."""
        self._say(f"study {name}")

    def on_interrupt(self) -> None:
        """Say, from within a signal handler, what a first Ctrl-C does."""
        os.write(STDERR, f"\n{NOTICE}\n".encode())

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        """Say that a phase begins."""
        self._say(f"{phase}" + (f", {total} candidates" if total and total > 1 else ""))
        self._next = 0.0

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        """Say how many prompts there are, and how to have others."""
        self._say(fewer_prompts(n_calibration, n_held_out))

    def on_exhausted(self) -> None:
        """Say that the search is over, whatever is left of its budget."""
        self._say(EXHAUSTED)

    def on_candidate(self, event: CandidateEvent) -> None:
        """Say how a candidate did, if it failed or some time has passed."""
        if time.monotonic() < self._next and not isinstance(event.outcome, Failure):
            return
        self._next = time.monotonic() + LINE_EVERY_S
        self._say(
            f"  {_clock(event.elapsed_s)}  {event.used_fraction:4.0%} of the budget  #{event.number} "
            f"{event.proposal.label}: {_outcome(event)}; front {event.front_size}, hypervolume {event.hypervolume:.4f}"
        )

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


class LiveProgress:
    """A table that is redrawn in place: budget, phase, front, failures and the last candidates."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title, self._phase, self._notice, self._prompts = title, "loading the model", "", ""
        self._events: list[CandidateEvent] = []
        self._failed = 0
        self._live = Live(get_renderable=self._draw, console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def on_study(self, name: str) -> None:
        """Show what the study is called, so that it can be resumed whatever happens."""
        self._title += f"   study {name}"

    def on_interrupt(self) -> None:
        """Show, at the next redraw, what a first Ctrl-C does."""
        self._notice = NOTICE

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        """Show the new phase."""
        self._phase = str(phase)

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        """Show it beneath the table."""
        self._prompts = fewer_prompts(n_calibration, n_held_out)

    def on_exhausted(self) -> None:
        """Show that the search is over, whatever is left of its budget."""
        self._notice = EXHAUSTED

    def on_candidate(self, event: CandidateEvent) -> None:
        """Show the candidate."""
        self._events = [*self._events[-7:], event]
        self._failed += isinstance(event.outcome, Failure)

    def _draw(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = [Text(f"{self._title}   {self._phase}", style="bold")]
        events = self._events  # drawn by another thread than the one that adds to them
        if events:
            last = events[-1]
            bar = Table.grid()
            bar.add_row(ProgressBar(total=1.0, completed=min(1.0, last.used_fraction), width=60))
            parts.append(bar)
            parts.append(
                Text(
                    f"{_clock(last.elapsed_s)} used, {last.used_fraction:.0%} of the budget   "
                    f"front {last.front_size}   hypervolume {last.hypervolume:.4f}   failed {self._failed}"
                )
            )
            table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
            for event in events:
                mark = "*" if event.on_front else ("=" if event.reused else "")
                table.add_row(f"#{event.number}", mark, event.proposal.family, event.proposal.label, _outcome(event))
            parts.append(table)
        if self._prompts:
            parts.append(Text(self._prompts))
        if self._notice:
            parts.append(Text(self._notice, style="bold"))
        return Group(*parts)


def make_progress(title: str, *, quiet: bool) -> PlainProgress | LiveProgress:
    """The display that suits where standard error goes."""
    if not quiet and sys.stderr.isatty():
        return LiveProgress(title)
    return PlainProgress(quiet=quiet)
