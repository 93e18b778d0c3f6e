"""``user check robot CONFIG``: does a configured robot keep the promises of its interface?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.markup import escape

from user_core.conformance import Report, check_robot
from user_core.errors import ConfigError, SuiteError
from user_core.interfaces import Robot
from user_hal.robot_file import build_robot, find_robot_file, load_robot_file
from user_hal.topic_io import UsesTopics

OK, BROKEN, WRONG_USE = 0, 1, 2
_MARKS = {True: "[green]ok[/]  ", False: "[bold red]FAIL[/]", None: "[yellow]skip[/]"}


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; returns 0 when all promises are kept, 1 when one is broken, 2 when the
    robot could not be tried."""
    console = console or Console()
    args = _parser().parse_args(argv)
    try:
        return _check(args, console)
    except SuiteError as error:
        console.print(f"[bold red]{error.code}[/]: {escape(str(error))}", soft_wrap=True)
        return WRONG_USE


def _parser() -> argparse.ArgumentParser:
    robot = argparse.ArgumentParser(
        prog="user check robot",
        description="Connect to a robot and try every promise of its interface. THE ROBOT MOVES: "
        "it is reset, and driven by small random actions.",
    )
    robot.add_argument("config", help="configuration file, or the name of a ready one")
    robot.add_argument("--steps", type=int, default=20, help="control periods (default: 20)")
    robot.add_argument(
        "--motion",
        type=float,
        default=0.1,
        help="share of the action bounds to move within, 0 to 1 (default: 0.1)",
    )
    robot.add_argument("--seed", type=int, default=0, help="of motion and resets (default: 0)")
    robot.add_argument("--yes", action="store_true", help="do not ask before the robot moves")
    return robot


def _check(args: argparse.Namespace, console: Console) -> int:
    if args.steps < 1 or not 0 <= args.motion <= 1:
        raise ConfigError("--steps and --motion", got=f"{args.steps}, {args.motion}")
    path = find_robot_file(args.config)
    robot = build_robot(load_robot_file(path))
    console.print(f"[bold]{escape(str(path))}[/]")
    _describe(robot, console)
    if not (args.yes or robot.spec.lockstep or _agreed(console)):
        console.print("Nothing was tried.")
        return WRONG_USE
    with ExitStack() as stack:
        if isinstance(robot, UsesTopics):
            from user_comm.topic_io import open_topic_io  # needs ROS; other robots do not

            robot.attach(stack.enter_context(open_topic_io("user_check")))
        with console.status("") as status:
            report = check_robot(
                robot,
                steps=args.steps,
                motion=args.motion,
                seed=args.seed,
                progress=lambda promise: status.update(promise),
            )
    _show(report, console)
    return OK if report.passed else BROKEN


def _describe(robot: Robot, console: Console) -> None:
    spec = robot.spec
    for name, item in spec.observation.items():
        shape = "x".join(map(str, item.shape)) or "1"
        frame = f" in {item.frame}" if item.frame else ""
        text = f"  sees  {name}: {item.dtype} {shape} {item.unit}{frame}"
        console.print(escape(text.rstrip()), highlight=False)
    names = ", ".join(spec.action.names) or f"{spec.action.size} elements"
    pace = "lockstep" if spec.lockstep else f"every {spec.period_s:g} s"
    console.print(escape(f"  takes {spec.action_kind.value}: {names}; {pace}"), highlight=False)


def _agreed(console: Console) -> bool:
    if not sys.stdin.isatty():
        console.print("The robot would move, and there is no terminal to ask at: add --yes.")
        return False
    answer = console.input("[bold]The robot will move.[/] Is everybody clear of it? \\[y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _show(report: Report, console: Console) -> None:
    for check in report.checks:
        detail = f"  [dim]{escape(check.detail)}[/]" if check.detail and check.passed else ""
        console.print(f"  {_MARKS[check.passed]} {escape(check.promise)}{detail}", highlight=False)
        if check.detail and not check.passed:
            console.print(f"         {escape(check.detail)}", highlight=False, soft_wrap=True)
    broken = sum(check.passed is False for check in report.checks)
    skipped = sum(check.passed is None for check in report.checks)
    kept = len(report.checks) - broken - skipped
    colour = "red" if broken else "green"
    console.print(f"[bold {colour}]{kept} kept, {broken} broken, {skipped} skipped[/]")


if __name__ == "__main__":
    sys.exit(main())
