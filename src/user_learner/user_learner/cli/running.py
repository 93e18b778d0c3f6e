"""What the commands about stored data share: how their errors are told, and their progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from user_core.errors import SuiteError

#: Lines that are told one by one.
_MOST_LINES = 50


def run(work: Callable[[Console], int], console: Console | None = None) -> int:
    """Do the work of a command; its exit status, or 2 where it could not be done, with the reason told."""
    console = console or Console(highlight=False)
    try:
        return work(console)
    except (SuiteError, OSError) as error:
        code = error.code if isinstance(error, SuiteError) else "disk"
        console.print(f"[bold red]{code}[/]: {escape(str(error))}", soft_wrap=True)
        return 2


@contextmanager
def progress(
    console: Console, what: str, columns: Sequence[ProgressColumn] = ()
) -> Iterator[Callable[[int, int], None]]:
    """A bar that goes away at the end; called with how much is done, and how much there is."""
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def counting(console: Console, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """:func:`progress` that shows how many of how many."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return progress(console, what, columns)


def list_lines(console: Console, what: str, lines: Sequence[str], colour: str) -> None:
    """Tell lines, the first fifty of them."""
    for line in lines[:_MOST_LINES]:
        console.print(f"[{colour}]{what}:[/] {escape(line)}", soft_wrap=True)
    if len(lines) > _MOST_LINES:
        console.print(f"[{colour}]... and {len(lines) - _MOST_LINES} more[/]")
