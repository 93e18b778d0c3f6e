"""``user reward``: judge stored data anew, train a classifier of success from images, and try it.

Stored data never changes: what is judged anew lies in a column beside it, which samplers use when the
edits of the store say so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from user_core.errors import ConfigError, SuiteError
from user_core.plugins import PluginChoice
from user_learner.edits.columns import RewardColumn, columns_of
from user_learner.edits.entries import Edit
from user_learner.edits.relabelling import relabel
from user_learner.edits.view import EditedEpisodes


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; return the exit status: 0, 1 when something was left out, 2 when it could not be done."""
    options = _parser().parse_args(arguments)
    console = console or Console(highlight=False)
    try:
        status: int = options.run(options, console)
    except (SuiteError, OSError) as error:
        code = error.code if isinstance(error, SuiteError) else "disk"
        console.print(f"[bold red]{code}[/]: {escape(str(error))}", soft_wrap=True)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="user reward", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("store", help="directory of the store; it may be in use")
    store.add_argument(
        "--edits", default="", metavar="FILE",
        help="where the edits are, for a store that cannot be written",
    )  # fmt: skip

    again = commands.add_parser(
        "relabel", help="judge all stored steps by a reward, into a column", parents=[store]
    )
    again.add_argument("--reward", required=True, metavar="PLUGIN", help="the reward")
    again.add_argument(
        "--params",
        default="{}",
        metavar="YAML",
        help='its parameters, such as "{goal: [0.5, 0, 0.2]}"',
    )
    again.add_argument(
        "--column", default="", help="name of the column; that of the reward by default"
    )
    again.add_argument("--only-judge", action="store_true", help="do not use the column yet")
    again.add_argument("--reason", default="", help="why, for others")
    again.add_argument("--author", default="", help="who; your account by default")
    again.set_defaults(run=_relabel)

    use = commands.add_parser(
        "use", help="use a column of rewards, or the recorded ones", parents=[store]
    )
    use.add_argument("column", nargs="?", default="", help="its name; none: the recorded rewards")
    use.add_argument("--reason", default="")
    use.add_argument("--author", default="")
    use.set_defaults(run=_use)

    columns = commands.add_parser("columns", help="columns of rewards of a store", parents=[store])
    columns.add_argument("--json", action="store_true", help="for programs")
    columns.set_defaults(run=_columns)
    return parser


def params_of(text: str) -> dict[str, Any]:
    """Parameters in YAML as a mapping. Raises ConfigError."""
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError("--params", got=text, expected="a mapping in YAML") from error
    if not isinstance(found, dict):
        raise ConfigError("--params", got=text, expected="a mapping in YAML, {name: value}")
    return found


def _relabel(options: argparse.Namespace, console: Console) -> int:
    choice = PluginChoice(plugin=options.reward, params=params_of(options.params))
    column = options.column or options.reward.rpartition(":")[2]
    with EditedEpisodes(options.store, options.edits, reward_column="") as view:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("judging episodes", total=None)
            report = relabel(
                view, choice, column, options.author, options.reason,
                lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
        console.print(
            f"{report.steps:,} steps of {report.episodes:,} episodes judged, {report.before:,} episodes "
            f"were; {report.changed:,} steps differ from what was recorded; a success in "
            f"{report.successes:,} episodes",
            soft_wrap=True,
        )
        for line in report.skipped[:50]:
            console.print(f"[yellow]left out:[/] {escape(line)}", soft_wrap=True)
        if not options.only_judge and view.state.reward_column != column:
            reason = options.reason or f"relabelled by {options.reward}"
            done = view.log.append(Edit.rewards(column, reason, options.author))
            console.print(
                f"edit {done.number}: samplers use column {column!r} (undo: user episodes undo "
                f"{options.store} {done.number})",
                soft_wrap=True,
            )
    return 1 if report.skipped else 0


def _use(options: argparse.Namespace, console: Console) -> int:
    with EditedEpisodes(options.store, options.edits, reward_column=options.column) as view:
        done = view.log.append(Edit.rewards(options.column, options.reason, options.author))
    name = f"column {options.column!r}" if options.column else "the recorded rewards"
    console.print(f"edit {done.number}: samplers use {name}")
    return 0


def _columns(options: argparse.Namespace, console: Console) -> int:
    with EditedEpisodes(options.store, options.edits, reward_column="") as view:
        place: Path = view.log.path.parent
        used = view.state.reward_column
        found = [RewardColumn(place, name) for name in columns_of(place)]
    rows = [
        {
            "column": column.provenance.name, "used": column.provenance.name == used,
            "plugin": column.provenance.plugin, "params": dict(column.provenance.params),
            "author": column.provenance.author, "reason": column.provenance.reason,
            "episodes": len(column.pieces), "steps": len(column.values),
        }
        for column in found
    ]  # fmt: skip
    if options.json:
        print(json.dumps(rows))
        return 0
    table = Table("column", "used", "reward", "parameters", "by", "why", "episodes", "steps")
    for row in rows:
        table.add_row(
            row["column"], "yes" if row["used"] else "", row["plugin"], escape(str(row["params"])),
            row["author"], escape(row["reason"]), f"{row['episodes']:,}", f"{row['steps']:,}",
        )  # fmt: skip
    console.print(table)
    return 0
