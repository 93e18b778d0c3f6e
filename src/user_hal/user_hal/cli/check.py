"""``user check robot CONFIG``: is a configured robot there, and does it do what it is told?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_core.command_line import Parser
from user_core.config import from_mapping, to_mapping
from user_core.conformance import Report, check_robot
from user_core.errors import ConfigError, SpecError, SuiteError
from user_core.interfaces import Robot
from user_core.plugins import load
from user_core.policies.features import ActionScale
from user_hal.checking.findings import Level, Section, counts
from user_hal.checking.graph import look_at_graph
from user_hal.checking.motion import MotionCheck, MotionReport, grippers_that_open
from user_hal.checking.muted import MutedTopics
from user_hal.checking.readings import Readings, watch_readings
from user_hal.checking.streams import StreamWatch, TopicUse, call_uses, streams_of, topic_uses
from user_hal.checking.tables import motion_section, readings_section, streams_section
from user_hal.cli.ros_arguments import ROS_ARGS_HELP, split_ros_arguments
from user_hal.local import LocalHal
from user_hal.robot_file import RobotFile, build_robot, find_robot_file, load_robot_file
from user_hal.robots.in_real_time import InRealTime
from user_hal.safety.emergency_stop import state_folder
from user_hal.topic_io import TopicIo, attach_topics, topics_read, wants_topics

OK, BROKEN, WRONG_USE = 0, 1, 2
#: Keys of a contract whose services are called when a robot is connected or closed.
_CALLS = {"before", "after"}
#: How long topics are looked at when the robot cannot be connected.
_LISTEN_S = 3.0
#: A clock that differs by more than this is another one: simulated time.
_OTHER_CLOCK_NS = 1_000_000_000
_MARKS = {
    Level.OK: "[green]ok[/]  ",
    Level.WARN: "[yellow]WARN[/]",
    Level.FAIL: "[bold red]FAIL[/]",
    Level.SKIP: "[yellow]skip[/]",
}
_LEVELS = {True: Level.OK, False: Level.FAIL, None: Level.SKIP}


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; returns 0 when nothing is wrong, 1 when something is, 2 when the robot
    could not be tried."""
    words, ros_arguments = split_ros_arguments(argv)
    args = _parser().parse_args(words)
    console = console or Console()
    try:
        return _Check(args, ros_arguments, console).run()
    except SuiteError as error:
        console.print(f"[bold red]{error.code}[/]: {escape(str(error))}", soft_wrap=True)
        return WRONG_USE


def _parser() -> Parser:
    robot = Parser(
        prog="user check robot",
        description="Connect to a robot, read it for some seconds, and say what is wrong: readings "
        "that fail, topics that are late or do not fit, controllers that are inactive. Then THE "
        "ROBOT MOVES, if you agree: each joint or direction a little there and back, measured; it "
        "is reset; and it is driven by small random actions.",
        epilog=ROS_ARGS_HELP,
    )
    robot.add_argument("config", help="configuration file, or the name of a ready one")
    robot.add_argument(
        "--seconds", type=float, default=5.0, help="how long it is read (default: 5)"
    )
    robot.add_argument("--no-motion", action="store_true", help="read only: nothing is commanded")
    robot.add_argument("--yes", action="store_true", help="do not ask before the robot moves")
    robot.add_argument(
        "--amount",
        type=float,
        default=1.0,
        help="factor on the known motion of 0.05 rad, or 10 mm and 0.05 rad, of a base 50 mm and 0.1 rad (default: 1)",
    )
    robot.add_argument("--steps", type=int, default=20, help="random actions (default: 20)")
    robot.add_argument(
        "--motion",
        type=float,
        default=0.1,
        help="share of the action bounds that random actions stay within, 0 to 1 (default: 0.1)",
    )
    robot.add_argument("--seed", type=int, default=0, help="of motion and resets (default: 0)")
    robot.add_argument("--json", action="store_true", help="the findings as JSON, for programs")
    return robot


class _Check:
    def __init__(
        self, args: argparse.Namespace, ros_arguments: Sequence[str], console: Console
    ) -> None:
        if args.steps < 1 or not 0 <= args.motion <= 1:
            raise ConfigError("--steps and --motion", got=f"{args.steps}, {args.motion}")
        if args.seconds <= 0 or args.amount <= 0:
            raise ConfigError("--seconds and --amount", got=f"{args.seconds}, {args.amount}")
        self.args, self.ros_arguments = args, ros_arguments
        self.out = console
        self.console = Console(stderr=True, quiet=True) if args.json else console
        self.sections: list[Section] = []
        self.topics: MutedTopics | None = None

    def run(self) -> int:
        path = find_robot_file(self.args.config)
        file = load_robot_file(path)
        robot, reader = build_robot(file), build_robot(_without_calls(file))
        self.console.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
        _describe(robot, self.console)
        with ExitStack() as stack:
            if wants_topics(robot):
                from user_comm.topic_io import open_topic_io  # needs ROS; other robots do not

                io: TopicIo = stack.enter_context(
                    open_topic_io("user_check", args=self.ros_arguments)
                )
                asked = [u.name for u in call_uses(file.robot.params) if "stop_when" in u.path]
                self.topics = MutedTopics(io, questions=asked)
                attach_topics(robot, self.topics)
                attach_topics(reader, self.topics)
            if self._read(reader, file):
                if self._may_move(robot) and self._move(robot, file):
                    self._promises(robot, moving=True)
                else:
                    self._promises(reader, moving=False)
        return self._conclude(path)

    # --- the parts ---

    def _read(self, robot: Robot, file: RobotFile) -> bool:
        """Connect and read it; whether that went well enough to go on."""
        if robot.spec.lockstep:  # its time stands still meanwhile
            self.sections.append(Section("Readings"))
            return True
        uses = _uses(robot, file)
        limits_s = _skew_limits(file)
        with ExitStack() as stack:
            watch = None
            stack.callback(robot.close)
            section = Section("Readings")
            try:
                with self.console.status("connecting"):
                    robot.connect()
            except SuiteError as error:
                section.add(Level.FAIL, "connect reaches the robot", str(error))
                self._listen(section, uses, limits_s)
                self._look(uses, file)
                return False
            section.add(Level.OK, "connect reaches the robot")
            if skipped := sorted(_CALLS & file.robot.params.keys()):
                section.add(Level.SKIP, f"the calls of {' and '.join(skipped)} were not made")
            if self.topics is not None:
                watch = stack.enter_context(StreamWatch(self.topics, streams_of(uses)))
            with self.console.status("") as status:
                readings = watch_readings(
                    robot,
                    self.args.seconds,
                    self._now_ns,
                    lambda share: status.update(f"reading, {share:.0%}"),
                )
            notes: Sequence[str] = getattr(robot, "notes", list)()
            for note in notes:  # which topics are kept, which frames are taken to be which
                section.add(Level.OK, note)
        self._report_readings(section, readings, watch, limits_s)
        self._look(uses, file)
        return True

    def _listen(
        self, section: Section, uses: Sequence[TopicUse], limits_s: tuple[float, float]
    ) -> None:
        """What comes on the topics of a robot that cannot be connected."""
        watch = None
        if self.topics is not None:
            with StreamWatch(self.topics, streams_of(uses)) as watch:
                time.sleep(min(self.args.seconds, _LISTEN_S))
        self._report_readings(section, Readings(), watch, limits_s)

    def _report_readings(
        self,
        section: Section,
        readings: Readings,
        watch: StreamWatch | None,
        limits_s: tuple[float, float],
    ) -> None:
        streams = () if watch is None else watch.streams
        readings_section(section, readings, streams, *limits_s)
        if streams:
            simulated = self.topics is not None and bool(self.topics.endpoints("/clock")[0])
            self._show(streams_section(streams, simulated_clock=simulated))
        self._show(section)

    def _look(self, uses: Sequence[TopicUse], file: RobotFile) -> None:
        if self.topics is not None:
            calls = [use for use in call_uses(file.robot.params) if use.name.startswith("/")]
            self._show(look_at_graph(self.topics, uses, calls))

    def _may_move(self, robot: Robot) -> bool:
        section = Section("Moves when told")
        if self.args.no_motion:
            section.add(Level.SKIP, "the robot was not moved (--no-motion)")
        elif self.args.yes or robot.spec.lockstep:
            return True
        elif not sys.stdin.isatty():
            section.add(
                Level.SKIP,
                "the robot was not moved: there is no terminal to ask at",
                hint="Add --yes when everybody is clear of it",
            )
        else:
            if opening := grippers_that_open(robot.spec):
                self.out.print(f"{', '.join(opening)} will open: nothing measures how far it is.")
            answer = self.out.input(
                "[bold]The robot will move.[/] Is everybody clear of it? \\[y/N] "
            )
            if answer.strip().lower() in ("y", "yes"):
                return True
            section.add(Level.SKIP, "the robot was not moved: nobody agreed")
        self._show(section)
        return False

    def _move(self, robot: Robot, file: RobotFile) -> bool:
        """The known motion; whether all went as told: else a way home could go anywhere."""
        if self.topics is not None:
            self.topics.muted = False
        if self.topics is not None and abs(time.time_ns() - self.topics.now_ns()) > _OTHER_CLOCK_NS:
            robot = InRealTime(robot, _OtherTime(self.topics))
        latch = None if robot.spec.lockstep else state_folder("", "robot")
        try:
            hal = LocalHal.of(file, robot, holder="check", latch_dir=latch)
            with hal, self.console.status("") as status:
                if robot.spec.lockstep:
                    hal.reset(self.args.seed).result()
                check = MotionCheck(hal, file.safety, self.args.amount)
                report = check.run(lambda name: status.update(f"moving {escape(name)}"))
        except SuiteError as error:
            report = MotionReport(trouble=str(error))
        section = motion_section(report)
        self._show(section)
        return not section.failed and all(m.verdict != "not measured" for m in report.moved)

    def _promises(self, robot: Robot, *, moving: bool) -> None:
        if self.topics is not None:
            self.topics.muted = not moving
        with self.console.status("") as status:
            report = check_robot(
                robot,
                steps=self.args.steps,
                motion=self.args.motion,
                seed=self.args.seed,
                progress=lambda promise: status.update(promise),
                moving=moving,
                now_ns=self._now_ns,
            )
        self._show(_section_of(report))

    # --- showing ---

    @property
    def _now_ns(self) -> Callable[[], int]:
        return time.time_ns if self.topics is None else self.topics.now_ns

    def _show(self, section: Section) -> None:
        self.sections.append(section)
        console = self.console
        if not section.findings and not section.rows:
            return
        console.print(f"\n[bold]{escape(section.title)}[/]")
        if section.rows:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for number, column in enumerate(section.columns):
                table.add_column(column, justify="left" if number < 2 else "right", overflow="fold")
            for row in section.rows:
                table.add_row(*(escape(cell) for cell in row))
            console.print(table)
        for finding in section.findings:
            good = finding.level is Level.OK
            detail = f"  [dim]{escape(finding.detail)}[/]" if finding.detail and good else ""
            text = escape(finding.text)
            console.print(f"  {_MARKS[finding.level]} {text}{detail}", highlight=False, soft_wrap=True)  # fmt: skip
            for more in (finding.detail if not good else "", finding.hint):
                if more:
                    console.print(f"         {escape(more)}", highlight=False, soft_wrap=True)

    def _conclude(self, path: Path) -> int:
        found = counts(self.sections)
        failed = any(section.failed for section in self.sections)
        if self.args.json:
            data = {
                "config": str(path),
                "passed": not failed,
                "counts": found,
                "sections": [s.to_dict() for s in self.sections if s.findings or s.rows],
            }
            self.out.print_json(json.dumps(data))
            return BROKEN if failed else OK
        colour = "red" if failed else "green"
        self.console.print(
            f"\n[bold {colour}]{found['ok']} kept, {found['fail']} broken, "
            f"{found['skip']} skipped[/]"
            + (f"[yellow], {found['warn']} warnings[/]" if found["warn"] else "")
        )
        return BROKEN if failed else OK


def _without_calls(file: RobotFile) -> RobotFile:
    """The robot to read: what it calls when it is connected may make it move."""
    params = {key: value for key, value in file.robot.params.items() if key not in _CALLS}
    groups = params.get("groups")
    if isinstance(groups, Mapping):
        params["groups"] = {
            name: {k: v for k, v in group.items() if k not in _CALLS}
            if isinstance(group, Mapping)
            else group
            for name, group in groups.items()
        }
    return file.replace(robot=file.robot.replace(params=params))


class _OtherTime:
    """The clock of topics (simulated time) beside the machine's."""

    def __init__(self, topics: TopicIo) -> None:
        self._topics = topics

    def wall_ns(self, ros_ns: int) -> int:
        return time.time_ns() - (self._topics.now_ns() - ros_ns)


def _uses(robot: Robot, file: RobotFile) -> list[TopicUse]:
    """The topics of a robot's file, and those that the driver reads beside them."""
    uses = list(topic_uses(file.robot.params))
    uses += topic_uses(to_mapping(file.cameras), "cameras")
    known = {use.topic for use in uses}
    uses += [
        TopicUse("", topic, "", True, {}) for topic in topics_read(robot) if topic not in known
    ]
    return uses


def _skew_limits(file: RobotFile) -> tuple[float, float]:
    """Largest skew of topics, and of images; 0 where the driver has none."""
    config = to_mapping(from_mapping(load("robots", file.robot.plugin).Config, file.robot.params))
    timing, cameras = config.get("timing"), config.get("cameras")
    found = [
        float(part.get("max_skew_s", 0.0)) if isinstance(part, dict) else 0.0
        for part in (timing, cameras)
    ]
    return found[0], file.cameras.max_skew_s if file.cameras.devices else found[1]


def _describe(robot: Robot, console: Console) -> None:
    spec = robot.spec
    for name, item in spec.observation.items():
        shape = "x".join(map(str, item.shape)) or "1"
        frame = f" in {item.frame}" if item.frame else ""
        text = f"  sees  {name}: {item.dtype} {shape} {item.unit}{frame}"
        console.print(escape(text.rstrip()), highlight=False)
    counts = dict(zip(spec.action.categorical, spec.action.counts))
    labels = spec.action.names or [f"element {i}" for i in range(spec.action.size)]
    said = [
        f"{label} ({counts[i]} choices)" if i in counts else label for i, label in enumerate(labels)
    ]
    names = ", ".join(said) if spec.action.names or counts else f"{spec.action.size} elements"
    pace = "lockstep" if spec.lockstep else f"every {spec.period_s:g} s"
    console.print(escape(f"  takes {spec.action_kind.value}: {names}; {pace}"), highlight=False)
    try:
        ActionScale(spec, choices=True)
    except SpecError as error:
        text = f"  no policy of this suite can take these actions: {error}"
        console.print(escape(text), highlight=False)


def _section_of(report: Report) -> Section:
    section = Section("Promises of the interface")
    for check in report.checks:
        section.add(_LEVELS[check.passed], check.promise, check.detail)
    return section


if __name__ == "__main__":
    sys.exit(main())
