"""What commands show people: progress and notices on stderr, tables on stdout."""

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


class Bar:
    """A progress bar on the screen; may be advanced by several threads."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1) -> None:
        """Count ``amount`` as done; a negative one is to be done again."""
        self._progress.advance(self._task, amount)

    def set_total(self, total: float) -> None:
        """Say how much there is, where that shows late."""
        self._progress.update(self._task, total=total)


@contextmanager
def progress_bar(title: str, total: float | None, *, completed: int = 0, in_bytes: bool = False) -> Iterator[Bar]:
    """Show on stderr how much of a piece of work is done, how long it has taken and will take.

    Args:
        title: before the bar, as it is: brackets in a file's name are no markup.
        total: units of work, or None where that is not known yet.
        completed: units that are done already.
        in_bytes: the units are bytes; their speed is shown too.
    """
    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    text = TextColumn("{task.description}", markup=False)
    times = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(text, BarColumn(), *counts, *times, console=Console(stderr=True)) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=completed))


def print_notice(text: str) -> None:
    """Print a line on stderr, as it is and unbroken."""
    Console(stderr=True).print(Text(text), soft_wrap=True)


def print_table(rows: Sequence[Mapping[str, str]], title: str | None = None) -> None:
    """Print rows with the same keys on stdout, a column for each key; nothing where there is no row.

    A terminal gets lines of its width, a pipe or file whole lines however long.
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
