"""From a deployment to launch actions. Imports `launch`, which only a ROS 2 installation has."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from user_bringup.diagnostics_view import aggregator_parameters
from user_bringup.running import PreparedRun, find_deployment, prepare_run
from user_bringup.running.explain import yaml_text
from user_bringup.rviz import ShownRobot, robots_of, rviz_view
from user_core.config import path_of_file
from user_core.runtime.processes.endings import PATIENCE_VARIABLE
from user_core.runtime.processes.last_words import VARIABLE as LAST_WORDS
from user_fleet.deployment import (
    Argument,
    Faults,
    ProcessSpec,
    load_deployment,
    parse_overrides,
    start_order,
)
from user_fleet.supervisor.endings import Endings
from user_fleet.supervisor.restarts import Restarts

Extra = Callable[[PreparedRun, LaunchContext], list[Any]]


def describe(
    deployment: str,
    *,
    only: tuple[str, ...] = (),
    arguments: tuple[DeclareLaunchArgument, ...] = (),
    extras: tuple[Extra, ...] = (),
) -> LaunchDescription:
    """A launch description that runs an installed deployment.

    Its arguments become launch arguments, beside ``runs`` (folder of all runs), ``run`` (name of
    this one; an existing one is continued), and ``set``, for parameters of processes by path:
    ``set:="learner.training.utd.target:=null actor.loop.rate_hz:=5.0"``. Everything is checked
    before the first process starts.

    Args:
        deployment: Name of the deployment.
        only: Names of the processes to start; all if empty.
        arguments: Further launch arguments, for the extras.
        extras: More actions, made when the run is known.
    """
    file = find_deployment(deployment)
    known = load_deployment(
        file, {}, {"run_dir": "", "run": "", "deployment": deployment}
    ).arguments

    def start(context: LaunchContext) -> list[Any]:
        _check_names(context, description)
        chosen = {name: LaunchConfiguration(name).perform(context) for name in known}
        words = [  # what another choice has made pointless must not be given, so no defaults
            f"{name}:={text}" for name, text in chosen.items() if text != _text(known[name])
        ]
        words += shlex.split(LaunchConfiguration("set").perform(context))
        overrides = parse_overrides(words)
        runs, run = (LaunchConfiguration(name).perform(context) for name in ("runs", "run"))
        prepared = prepare_run(file, overrides, Path(runs), run, only)
        actions: list[Any] = [LogInfo(msg=f"run folder: {prepared.folder}")]
        actions += [LogInfo(msg=note) for note in prepared.notes]
        for name, value in prepared.deployment.environment.items():
            actions.append(SetEnvironmentVariable(name, value))
        for process in start_order(prepared.deployment.processes):
            actions += _Kept(process, prepared).start()
        for extra in extras:
            actions += extra(prepared, context)
        return actions

    description = LaunchDescription(
        [
            *(_declare(name, argument) for name, argument in known.items()),
            *arguments,
            DeclareLaunchArgument("runs", default_value="runs", description="Folder of all runs."),
            DeclareLaunchArgument(
                "run", default_value="", description="Name of this run; empty: a new one."
            ),
            DeclareLaunchArgument(
                "set",
                default_value="",
                description="Parameters of processes by path, as learner.training.batch_size:=64; "
                "several with spaces between them.",
            ),
            OpaqueFunction(function=start),
        ]
    )
    return description


def _check_names(context: LaunchContext, description: LaunchDescription) -> None:
    """`ros2 launch` passes over arguments that nobody declares: another robot would start than the one that is meant.

    Only for the launch file that was typed: one that includes it may have arguments of its own.
    """
    file = Path(str(context.get_locals_as_dict().get("current_launch_file_path", "")))
    given = [word.partition(":=")[0] for word in context.argv if ":=" in word]
    if set(given) <= _arguments_of(description) or not _is_typed(file):
        return
    # The file may have more than what is described here.
    names = _arguments_of(AnyLaunchDescriptionSource(str(file)).get_launch_description(context))
    faults = Faults()
    for name in given:
        if name not in names:
            hint = 'Parameters of processes by path: set:="learner.training.batch_size:=64"'
            faults.unknown(None, f"launch argument of {file.name}", name, names, hint if "." in name else "")  # fmt: skip
    faults.check()


def _arguments_of(description: LaunchDescription) -> set[str]:
    return {argument.name for argument in description.get_launch_arguments()}


def _is_typed(file: Path) -> bool:
    """Whether a file is in the words of this process, by its path or behind the name of its package."""
    for package, word in itertools.pairwise(sys.argv):
        if os.path.abspath(word) == str(file):
            return True
        if word == file.name:
            with contextlib.suppress(PackageNotFoundError, ValueError):  # no name of a package
                return file.is_relative_to(get_package_share_directory(package))
    return False


def installed(package: str) -> bool:
    """Whether a ROS package is installed here."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def _text(argument: Argument) -> str:
    """Its default, as it is written on a command line."""
    default = argument.default
    return default if isinstance(default, str) else yaml_text(default)


def _declare(name: str, argument: Argument) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(
        name,
        default_value=_text(argument),
        description=argument.doc or name,
        choices=list(argument.choices) or None,
    )


class _Kept:
    """A process that is started again by its restart policy: launch itself knows one constant delay.

    Args:
        process: The process.
        prepared: The run.
    """

    def __init__(self, process: ProcessSpec, prepared: PreparedRun) -> None:
        self._process, self._prepared = process, prepared
        self._restarts = Restarts(process.restart)
        self._last_words = prepared.log_dir / f"{process.name}.ending"
        self._endings = Endings(process, self._last_words)

    def start(self) -> list[Any]:
        """The actions that start it, and see to what happens when it ends."""
        action = _action(self._process, self._prepared, self._last_words)
        started_s = time.monotonic()
        self._endings.begin()

        def began(event: Any, context: LaunchContext) -> None:
            nonlocal started_s
            started_s = time.monotonic()

        def ended(event: Any, context: LaunchContext) -> list[Any]:
            return [] if context.is_shutdown else self._after(event.returncode, started_s)

        return [
            RegisterEventHandler(OnProcessStart(target_action=action, on_start=began)),
            RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended)),
            action,
        ]

    def _after(self, exit_code: int, started_s: float) -> list[Any]:
        process, now_s, endings = self._process, time.monotonic(), self._endings
        endings.judge(exit_code)
        wait_s = self._restarts.ended(now_s, now_s - started_s, exit_code)
        if wait_s is not None and not endings.hopeless:
            text = f"{process.name}: {endings.detail}; restart in {wait_s:.1f} s"
            again = TimerAction(period=wait_s, actions=self.start(), cancel_on_shutdown=True)
            return [LogInfo(msg=text), again]
        gave_up = endings.hopeless or (exit_code != 0 and process.restart.when != "never")
        failed = (
            "it would fail in the same way again" if endings.hopeless else "it failed too often"
        )
        said = f"given up, {failed}" if gave_up else "ended, and is not started again"
        actions: list[Any] = [LogInfo(msg=f"{process.name}: {said} ({endings.detail})")]
        if process.required:
            actions.append(Shutdown(reason=f"{process.name} is required, and {said}"))
        return actions


def _action(process: ProcessSpec, prepared: PreparedRun, last_words: Path) -> ExecuteProcess:
    common: dict[str, Any] = {
        "additional_env": {
            LAST_WORDS: str(last_words),
            PATIENCE_VARIABLE: str(process.stop_timeout_s),
            **process.environment,
        },
        "output": "screen",
        "sigterm_timeout": str(process.stop_timeout_s),
        "prefix": _prefix(process),
    }
    if not process.ros:  # a Node would get ROS arguments, which it does not take
        command = list(prepared.commands[process.name].words)
        return ExecuteProcess(cmd=command, name=process.name, **common)
    file = prepared.parameter_files.get(process.name)
    return Node(
        package=process.package,
        executable=process.executable,
        name=process.name,
        namespace=process.namespace,
        parameters=[str(file)] if file else [],
        remappings=list(process.remappings.items()),
        arguments=list(process.arguments),
        exec_name=process.name,  # in the log, instead of the prefix's
        **common,
    )


def _prefix(process: ProcessSpec) -> str:
    """What ``user up`` does by itself: it gives way to others, and ends when launch was killed."""
    words = ["setpriv --pdeathsig TERM --"] if shutil.which("setpriv") else []
    if process.niceness and shutil.which("nice"):
        words.append(f"nice -n {process.niceness}")
    return " ".join(words)


def robot_state_publisher(prepared: PreparedRun, context: LaunchContext) -> list[Any]:
    """robot_state_publisher for each arm whose URDF is known (launch argument ``urdf``, or the
    simulated arms' own)."""
    actions: list[Any] = []
    for process in robots_of(prepared.deployment):
        file = _urdf_of(process.parameters, LaunchConfiguration("urdf").perform(context))
        if file is None:
            continue
        if not installed("robot_state_publisher"):
            return [LogInfo(msg="robot_state_publisher is not installed: no tf of the robot")]
        actions.append(
            Node(
                package="robot_state_publisher",
                executable="robot_state_publisher",
                namespace=process.namespace,
                parameters=[
                    {
                        "use_sim_time": process.parameters.get("use_sim_time", False),
                        "robot_description": file.read_text(encoding="utf-8"),
                        "frame_prefix": process.parameters.get("display", {}).get(
                            "frame_prefix", ""
                        ),
                    }
                ],
            )
        )
    return actions


def rviz(prepared: PreparedRun, context: LaunchContext) -> list[Any]:
    """rviz2, when the launch argument ``rviz`` is true."""
    if not _is_true("rviz", context):
        return []
    if not installed("rviz2"):
        return [LogInfo(msg="rviz2 is not installed: going on without it")]
    template = Path(get_package_share_directory("user_bringup")) / "config" / "rviz" / "user.rviz"
    urdf = LaunchConfiguration("urdf").perform(context)
    robots = [
        ShownRobot.of(
            process,
            f"{process.namespace}/robot_description" if _urdf_of(process.parameters, urdf) else "",
        )
        for process in robots_of(prepared.deployment)
    ]
    file = prepared.folder / "config" / "user.rviz"
    file.write_text(yaml_text(rviz_view(template, robots)), encoding="utf-8")
    simulated = any(p.parameters.get("use_sim_time") for p in robots_of(prepared.deployment))
    parameters = [{"use_sim_time": simulated}]
    view = ["-d", str(file)]
    return [Node(package="rviz2", executable="rviz2", arguments=view, parameters=parameters)]


def diagnostic_aggregator(prepared: PreparedRun, context: LaunchContext) -> list[Any]:
    """aggregator_node with the deployment's groups, when the launch argument ``aggregator`` is true."""
    if not _is_true("aggregator", context):
        return []
    if not installed("diagnostic_aggregator"):
        return [LogInfo(msg="diagnostic_aggregator is not installed: going on without it")]
    file = prepared.folder / "config" / "diagnostic_aggregator.yaml"
    file.write_text(yaml_text(aggregator_parameters(prepared.deployment)), encoding="utf-8")
    return [
        Node(package="diagnostic_aggregator", executable="aggregator_node", parameters=[str(file)])
    ]


def hand_driver(prepared: PreparedRun, context: LaunchContext) -> list[Any]:
    """The driver of a hand device for each robot with a teleop, by the launch argument ``hand_driver``."""
    wanted = LaunchConfiguration("hand_driver").perform(context)
    if wanted == "none":
        return []
    package = "spacenav" if wanted == "spacenav_node" else "joy"
    if not installed(package):
        return [LogInfo(msg=f"{package} is not installed: start a driver of the device yourself")]
    remappings = [("spacenav/twist", "twist"), ("spacenav/joy", "joy")]
    return [
        Node(
            package=package,
            executable=wanted,
            namespace=process.namespace,
            remappings=[*remappings, *process.remappings.items()],
        )
        for process in prepared.deployment.processes
        if process.executable == "teleop_node"
    ]


HAND_DRIVER = DeclareLaunchArgument(
    "hand_driver",
    default_value="none",
    choices=["none", "joy_node", "game_controller_node", "spacenav_node"],
    description="Also start the driver of the hand device.",
)
AGGREGATOR = DeclareLaunchArgument(
    "aggregator", default_value="false", description="Also start diagnostic_aggregator."
)
RVIZ = DeclareLaunchArgument("rviz", default_value="false", description="Also start rviz2.")


def _is_true(name: str, context: LaunchContext) -> bool:
    return LaunchConfiguration(name).perform(context).lower() in ("true", "1", "yes")


def _urdf_of(parameters: Any, chosen: str) -> Path | None:
    if chosen:
        return path_of_file(chosen)
    choice = parameters.get("robot", {})
    arm = choice.get("params", {}).get("robot") if choice.get("plugin") == "mujoco" else None
    if arm is None:
        return None
    file = Path(get_package_share_directory("user_hal")) / "urdf" / f"{arm}.urdf"
    return file if file.exists() else None
