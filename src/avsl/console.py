"""Output of commands for people: progress bars and notices on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

# One console for bars and notices, so that a notice appears above a running bar.
_STDERR = Console(stderr=True)


class Bar:
    """A progress bar on the screen; may be advanced by several threads."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1) -> None:
        """Add ``amount`` to the units that are done; a negative amount takes units back."""
        self._progress.advance(self._task, amount)

    def set_total(self, total: float) -> None:
        """Set the number of units, where it is not known at the start."""
        self._progress.update(self._task, total=total)


@contextmanager
def progress_bar(title: str, total: float | None, *, completed: int = 0, in_bytes: bool = False) -> Iterator[Bar]:
    """Show the progress of a piece of work on stderr, with the elapsed and the remaining time.

    Args:
        title: shown before the bar; brackets in it are no markup.
        total: units of work; None if unknown.
        completed: units that are done at the start.
        in_bytes: whether the units are bytes, whose speed is shown as well.
    """
    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    text = TextColumn("{task.description}", markup=False)
    times = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(text, BarColumn(), *counts, *times, console=_STDERR) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=completed))


def print_notice(text: str) -> None:
    """Print a line on stderr, without markup or line breaks."""
    _STDERR.print(Text(text), soft_wrap=True)


def print_table(rows: Sequence[Mapping[str, str]], title: str | None = None) -> None:
    """Print rows with the same keys on stdout, one column per key; without rows nothing is printed.

    Lines fit a terminal's width; in a pipe or file they are never wrapped.
    """
    if not rows:
        return
    table = Table(title=None if title is None else Text(title), title_justify="left", box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    width = console.measure(table, options=console.options.update(width=100_000)).maximum
    console = Console(width=width)
    with console.capture() as shown:
        console.print(table)
    print("\n".join(line.rstrip() for line in shown.get().splitlines()))
