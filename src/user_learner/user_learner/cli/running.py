"""What the commands about stored data share: how their errors are told, their progress bars, and how a data set of
another format is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

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
from rich.table import Table

from user_core.command_line import Parser, of_files
from user_core.config import load_yaml
from user_core.errors import SuiteError
from user_learner.data.source import formats

#: Lines that are told one by one.
_MOST_LINES = 50


def run(work: Callable[[Console], int], console: Console | None = None) -> int:
    """Do the work of a command; its exit status, or 2 where it could not be done, with the reason told."""
    console = console or Console(highlight=False)
    try:
        return work(console)
    except BrokenPipeError:
        raise  # nobody reads any more, `user data ... | head`: there is nobody to tell
    except (SuiteError, OSError) as error:
        code, said = "file", str(error)
        if isinstance(error, SuiteError):
            code = error.code
        else:
            said = of_files(error) or said
        console.print(f"[bold red]{code}[/]: {escape(said)}", soft_wrap=True)
        return 2


def add_format(command: Parser) -> None:
    """Add the arguments that say how a data set of another format is read."""
    command.add_argument(
        "--format", default="", help=f"its format ({', '.join(formats())}); found out otherwise"
    )
    command.add_argument(
        "--robot", default="", metavar="FILE",
        help="of ROS bags: the robot's file, or the name of a ready one; its contract says what "
        "topics mean",
    )  # fmt: skip
    command.add_argument(
        "--options", default="", metavar="FILE",
        help="what only the format understands, in YAML: of a bag, where episodes begin and end",
    )  # fmt: skip


def format_options(given: argparse.Namespace) -> dict[str, Any]:
    """What only the format understands, of the arguments of :func:`add_format`. Raises ConfigError."""
    found: dict[str, Any] = load_yaml(given.options) if given.options else {}
    return {**found, "robot": given.robot} if given.robot else found


@contextmanager
def progress(
    console: Console, what: str, columns: Sequence[ProgressColumn] = ()
) -> Iterator[Callable[[int, int], None]]:
    """A bar that goes away at the end; called with how much is done, and how much there is. Only on a terminal."""
    if not console.is_terminal:  # of a bar that goes away an empty line would stay
        yield lambda done, total: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def counting(console: Console, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """:func:`progress` that shows how many of how many."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return progress(console, what, columns)


def folding(*titles: str, **options: Any) -> Table:
    """A table that shows on any terminal all of what is in it: a word that is too long goes on in the next line,
    where a table of rich cuts it."""
    table = Table(**options)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def list_lines(console: Console, what: str, lines: Sequence[str], colour: str) -> None:
    """Tell lines, the first fifty of them; those that say the same of another episode are told once."""
    alike: dict[str, list[str]] = {}
    for line in lines:
        subject, _, said = line.partition(": ")
        alike.setdefault(said if subject.startswith("episode ") and said else line, []).append(line)
    for same in list(alike.values())[:_MOST_LINES]:
        more = f" (and so for {len(same) - 1:,} more)" if len(same) > 1 else ""
        console.print(f"[{colour}]{what}:[/] {escape(same[0])}{more}", soft_wrap=True)
    if len(alike) > _MOST_LINES:
        console.print(f"[{colour}]... and {len(alike) - _MOST_LINES} more[/]")
