"""``user robots``: what is installed, what is found, and a first contract for what is there."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_core.command_line import Parser
from user_core.errors import SuiteError
from user_core.interfaces import Discovered
from user_core.plugins import available, load
from user_hal.cli import propose
from user_hal.cli.ros_arguments import ROS_ARGS_HELP, split_ros_arguments
from user_hal.robot_file import load_robot_file, ready_robot_files
from user_hal.topic_io import TopicIo

_SHOWN = 6


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; returns 0, also when a driver cannot be imported: that is its answer.
    ``propose`` returns 1 when the contract does not fit together yet, 2 when there is none."""
    console = console or Console()
    words, ros_arguments = split_ros_arguments(argv)
    args = _parser().parse_args(words)
    if args.command == "list":
        console.print(_ready())
        return 0
    kinds = ("robots", "cameras", "teleops") if args.all else ("robots",)
    with ExitStack() as stack:
        io = None if args.no_ros else _topics(stack, args.wait, console, ros_arguments)
        if args.command == "propose":
            return _propose(args, io, console)
        for kind in kinds:
            console.print(_table(kind, io))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="user robots",
        description="List the installed drivers and the devices they find.",
        epilog=ROS_ARGS_HELP,
    )
    parser.add_argument("--all", action="store_true", help="cameras and teleops, too")
    parser.add_argument("--no-ros", action="store_true", help="do not look at the ROS graph")
    parser.add_argument(
        "--wait",
        type=float,
        default=1.0,
        help="seconds without anything new after which the ROS graph counts as known (default: 1)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "list",
        help="the ready configurations",
        description="List the robots that configurations are ready for.",
    )
    propose.add_arguments(
        commands.add_parser(
            "propose",
            help="write a first contract for the robot that is running",
            description="Write a first contract for driver ros2 from a running ROS graph and its "
            "URDF: joints, limits, controllers, grippers, cameras, frames. What cannot be seen is "
            "asked at a terminal, and marked TODO where nobody answers. Nothing is moved.",
        )
    )
    return parser


def _propose(args: argparse.Namespace, io: TopicIo | None, console: Console) -> int:
    if io is None:
        console.print("There is no ROS here, or --no-ros was given: nothing to look at.")
        return 2
    try:
        return propose.propose(args, io, console)
    except SuiteError as error:
        console.print(f"[bold red]{error.code}[/]: {escape(str(error))}", soft_wrap=True)
        return 2


def _ready() -> Table:
    table = Table(title="Ready configurations", title_justify="left", show_lines=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("driver", no_wrap=True)
    table.add_column("for")
    for name, file in sorted(ready_robot_files().items()):
        try:
            driver = load_robot_file(file).robot.plugin
        except SuiteError as error:
            driver = f"[red]{escape(error.code)}[/]"
        table.add_row(name, driver, escape(_first_comment(file)))
    return table


def _first_comment(file: Path) -> str:
    """The first sentence of the comment at the top of a file."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("# ").strip()
        if not line.startswith("#") or (lines and not text):
            break
        if text and not text.startswith("yaml-language-server"):
            lines.append(text)
    sentence = re.split(r"(?<=\w\w\.) ", " ".join(lines))[0]  # not after "..." or "e.g."
    return sentence.rstrip(":.")


def _table(kind: str, io: TopicIo | None) -> Table:
    table = Table(title=kind.capitalize(), title_justify="left", show_lines=False)
    table.add_column("driver", style="bold", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("what it finds")
    for name, point in sorted(available(kind).items()):
        table.add_row(name, _origin(point), _finds(kind, name, io))
    return table


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(".")[0]


def _finds(kind: str, name: str, io: TopicIo | None) -> str:
    try:
        cls = load(kind, name)
        found = _discover(cls, io)
    except SuiteError as error:
        return f"[red]{escape(str(error))}[/]"
    except Exception as error:  # a driver's discovery may fail in any way
        return f"[red]{escape(f'{type(error).__name__}: {error}')}[/]"
    if not found:
        return "[dim]nothing now[/]"
    lines = [escape(f"{item.name}  {item.detail}".rstrip()) for item in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"[dim]and {len(found) - _SHOWN} more[/]")
    return "\n".join(lines)


def _discover(cls: Any, io: TopicIo | None) -> list[Discovered]:
    found = list(cls.discover())
    on_topics = getattr(cls, "discover_on", None)  # devices that live on ROS topics
    if on_topics is not None and io is not None:
        found += on_topics(io)
    return found


def _topics(
    stack: ExitStack, wait_s: float, console: Console, ros_arguments: Sequence[str]
) -> TopicIo | None:
    try:
        from user_comm.topic_io import open_topic_io  # needs ROS; most drivers do not
    except ImportError as error:
        console.print(f"[yellow]ROS topics are not searched:[/] {escape(str(error))}")
        return None
    io: TopicIo = stack.enter_context(open_topic_io("user_robots", args=ros_arguments))
    settle(io, wait_s)
    return io


def settle(io: TopicIo, quiet_s: float) -> None:
    """Wait until nothing new has been discovered for a while: discovery itself has no end."""
    known, since_s = _names(io), time.monotonic()
    while time.monotonic() - since_s < quiet_s:
        time.sleep(0.05)
        names = _names(io)
        if names != known:
            known, since_s = names, time.monotonic()


def _names(io: TopicIo) -> set[str]:
    return {*io.topics(), *io.service_types()}


if __name__ == "__main__":
    sys.exit(main())
