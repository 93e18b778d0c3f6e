"""``user check teleop NAME``: what does each axis and button of a person's device do?"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from user_core.command_line import Parser
from user_core.config import parse_parameters
from user_core.errors import ConfigError, SuiteError
from user_core.interfaces import Teleop, TeleopCommand
from user_core.plugins import PluginChoice
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import Observation
from user_hal.cli.ros_arguments import ROS_ARGS_HELP, split_ros_arguments
from user_hal.robot_file import build_robot, find_robot_file, load_robot_file
from user_hal.teleops.groups import GroupsTeleop
from user_hal.teleops.hand_device import HandTeleop
from user_hal.topic_io import UsesTopics

OK, TROUBLE, WRONG_USE = 0, 1, 2
_PERIOD_S = 0.05
_WITHOUT_TERMINAL_S = 10.0


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; returns 0 when the device was well at the end, 1 when something is wrong
    with it, 2 when it could not be opened."""
    console = console or Console()
    words, ros_arguments = split_ros_arguments(argv)
    args = _parser().parse_args(words)
    try:
        return _check(args, ros_arguments, console)
    except SuiteError as error:
        console.print(f"[bold red]{error.code}[/]: {escape(str(error))}", soft_wrap=True)
        return WRONG_USE


def _parser() -> Parser:
    parser = Parser(
        prog="user check teleop",
        description="Open a person's device and show what each of its axes and buttons does. No "
        "robot moves. Ctrl-C ends it.",
        epilog=ROS_ARGS_HELP,
    )
    parser.add_argument("name", help="teleop plugin: joy, twist, spacemouse, keyboard, leader ...")
    parser.add_argument(
        "params", nargs="*", metavar="name:=value", help="its parameters, such as buttons.open:=2"
    )
    parser.add_argument("--robot", default="", help="robot file whose actions are shown")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="end after this long (without a terminal: 10)"
    )
    return parser


def _check(args: argparse.Namespace, ros_args: Sequence[str], console: Console) -> int:
    choice = PluginChoice(plugin=args.name, params=parse_parameters(args.params))
    teleop: Teleop = choice.build("teleops")
    specs = [_spec_of(args.robot)] if args.robot else [arm(ActionKind.EE_DELTA), _joint_arm(teleop)]
    seconds = args.seconds or (math.inf if console.is_terminal else _WITHOUT_TERMINAL_S)
    with ExitStack() as stack:
        if isinstance(teleop, UsesTopics):
            from user_comm.topic_io import open_topic_io  # needs ROS; other devices do not

            teleop.attach(stack.enter_context(open_topic_io("user_check", args=ros_args)))
        stack.callback(teleop.close)
        spec = _connect(teleop, specs)
        watch = _Watch(teleop, spec)
        try:
            if console.is_terminal:
                _live(watch, console, seconds)
            else:
                _print(watch, console, seconds)
        except KeyboardInterrupt:
            console.print()
        return _conclude(watch, console)


def arm(kind: ActionKind, joints: Sequence[str] = ()) -> RobotSpec:
    """An arm with a gripper that nobody has: what the device is shown with."""
    names = tuple(joints) or ("dx", "dy", "dz", "drx", "dry", "drz")
    count = len(names)
    action = ArraySpec(
        (count + 1,),
        low=(*[-1.0] * count, 0.0),
        high=1.0 if not joints else (*[7.0] * count, 1.0),
        names=(*names, "gripper"),
    )
    observation = {
        "joint_position": ArraySpec((count,), names=tuple(joints)),
        "tcp_pose": ArraySpec((7,)),
        "gripper": ArraySpec((1,), low=0.0, high=1.0),
    }
    return RobotSpec("shown", observation, action, kind, _PERIOD_S, grippers=(count,))


def _joint_arm(teleop: Teleop) -> RobotSpec:
    """An arm with the joints that a leader arm is asked for."""
    names = getattr(getattr(teleop, "config", None), "joints", ())
    return arm(ActionKind.JOINT_DELTA, names or [f"joint_{i}" for i in range(1, 7)])


def _spec_of(name: str) -> RobotSpec:
    robot = build_robot(load_robot_file(find_robot_file(name)))
    try:
        return robot.spec
    finally:
        robot.close()


def _connect(teleop: Teleop, specs: Sequence[RobotSpec]) -> RobotSpec:
    *others, last = specs
    for spec in others:
        try:
            teleop.connect(spec)
            return spec
        except ConfigError:  # a leader arm drives joints only
            continue
    teleop.connect(last)
    return last


class _Watch:
    """Reads the device, and remembers what was seen."""

    def __init__(self, teleop: Teleop, spec: RobotSpec) -> None:
        self.teleop, self.spec = teleop, spec
        self.said: set[str] = set()
        self._observation = Observation(_resting(spec), time.time_ns(), 1, 1)
        self.command: TeleopCommand = teleop.read(self._observation)

    def look(self) -> None:
        """Read the device once."""
        self.command = self.teleop.read(self._observation)
        self.said |= {"drives"} if self.command.engaged else set()
        self.said |= set(self.labels)

    @property
    def labels(self) -> list[str]:
        """What the person says of the episode now."""
        return [n for n in ("success", "failure", "abort") if getattr(self.command, n)]

    @property
    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """Axes and buttons of the device itself: name, value, what it does."""
        teleop = self.teleop
        return teleop.inputs() if isinstance(teleop, (HandTeleop, GroupsTeleop)) else ()

    @property
    def actions(self) -> list[tuple[str, float]]:
        """The elements of the action."""
        names = self.spec.action.names or [f"element {i}" for i in range(self.spec.action.size)]
        return [(name, float(value)) for name, value in zip(names, self.command.action)]

    def line(self) -> str:
        """All of it in one line."""
        inputs = [
            f"{name}{f' ({does})' if does else ''} {value:+.1f}"
            for name, value, does in self.inputs
            if abs(value) >= 0.05
        ]
        moved = [f"{name} {value:+.2f}" for name, value in self.actions if abs(value) >= 0.005]
        state = ["drives" if self.command.engaged else "does not drive", *self.labels]
        return f"{', '.join(inputs) or 'at rest'} -> {', '.join(state)}: {', '.join(moved)}"


def _resting(spec: RobotSpec) -> dict[str, Array]:
    arrays = {name: item.zeros() for name, item in spec.observation.items()}
    for name in arrays:
        if name.rpartition(".")[2] == "tcp_pose":
            arrays[name] = np.array([0, 0, 0, 0, 0, 0, 1], spec.observation[name].dtype)
    return arrays


def _live(watch: _Watch, console: Console, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    with Live(_table(watch), console=console, auto_refresh=False) as live:
        while time.monotonic() < end_s:
            time.sleep(_PERIOD_S)
            watch.look()
            live.update(_table(watch), refresh=True)


def _print(watch: _Watch, console: Console, seconds: float) -> None:
    """A line whenever something changed."""
    end_s, before, reason = time.monotonic() + seconds, "", ""
    while time.monotonic() < end_s:
        time.sleep(_PERIOD_S)
        watch.look()
        trouble = watch.teleop.trouble()
        line = str(trouble.code) if trouble else watch.line()
        if trouble.code != reason and trouble:
            console.print(f"{trouble.code}: {trouble}", markup=False, soft_wrap=True)
        elif line != before and not trouble:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        before, reason = line, trouble.code


def _table(watch: _Watch) -> Group:
    inputs = Table("device", "", "", "does", title=None)
    for name, value, does in watch.inputs:
        inputs.add_row(name, f"{value:+.2f}", _bar(value), does)
    actions = Table("action", "", "")
    for name, value in watch.actions:
        actions.add_row(name, f"{value:+.3f}", _bar(value))
    state = "drives" if watch.command.engaged else "does not drive"
    said = f"{state}; seen so far: {', '.join(sorted(watch.said)) or 'nothing'}"
    trouble = watch.teleop.trouble()
    return Group(inputs, actions, Text(said), Text(str(trouble), style="yellow"))


def _bar(value: float, half: int = 10) -> str:
    count = round(min(abs(value), 1.0) * half)
    left, right = (count, 0) if value < 0 else (0, count)
    return " " * (half - left) + "#" * left + "|" + "#" * right + " " * (half - right)


def _conclude(watch: _Watch, console: Console) -> int:
    trouble = watch.teleop.trouble()
    if trouble:
        text = escape(f"{trouble.code}: {trouble}")
        console.print(f"[bold yellow]WARN[/] {text}", soft_wrap=True)
        return TROUBLE
    seen = ", ".join(sorted(watch.said)) or "nobody drove or judged"
    console.print(f"[bold green]ok[/]   the device is heard; seen: {escape(seen)}")
    return OK
