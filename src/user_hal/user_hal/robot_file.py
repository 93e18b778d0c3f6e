"""A robot's configuration file: which driver, its parameters, cameras, safety, display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from user_core.body.embodiment import EmbodimentConfig, space_of
from user_core.config import (
    Config,
    file_meant,
    from_mapping,
    load_yaml,
    setting,
    shared_folders,
)
from user_core.errors import ConfigError, SuiteError
from user_core.interfaces import Robot
from user_core.plugins import PluginChoice
from user_core.specs import RobotSpec
from user_hal.cameras.with_cameras import CamerasConfig, RobotWithCameras, build_cameras
from user_hal.robots.gripper_choices import RobotWithGripperChoices
from user_hal.runtime.control_loop import LoopConfig
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import SafetyConfig


class DisplayConfig(Config):
    """Frames (REP-105), and what is drawn."""

    base_frame: str = setting("", doc="Base frame of the robot; empty: as its driver says.")
    tool_frame: str = setting(
        "", doc="Frame of a wrench of which the driver does not say it; empty: the base frame."
    )
    frame_prefix: str = setting(
        "",
        doc="Put before the frames of what is published for people and other nodes, as frame_prefix "
        "of robot_state_publisher: two arms of a kind in one tree, for instance robot0/.",
    )
    gripper_joints: dict[str, tuple[float, float]] = setting(
        factory=dict,
        doc="Joints of the gripper in the URDF, with their positions closed and open: they are "
        "published among joint_states, so that rviz can draw the fingers; none: as the driver says.",
    )
    marker_rate_hz: float = setting(
        10.0, doc="Highest rate of markers, while they have a subscriber.", unit="Hz", gt=0
    )
    goal: str = setting(
        "goal_position",
        doc="Array of the observation whose first three values are the goal in the base frame; "
        "drawn as a sphere where the robot has it.",
    )
    goal_radius_m: float = setting(0.02, doc="Radius of that sphere.", unit="m", gt=0)

    def of(self, robot: Robot) -> DisplayConfig:
        """With what the robot itself says where nothing else is configured."""
        base = self.base_frame or base_frame_of(robot)
        joints = self.gripper_joints or dict(getattr(robot, "gripper_joints", {}))
        return self.replace(
            base_frame=base, tool_frame=self.tool_frame or base, gripper_joints=joints
        )


def base_frame_of(robot: Robot) -> str:
    """The base frame of a robot: its driver's ``base_frame``, or the frame of its tool's pose, of
    its action, or of the first of its arrays that has one and is no image; ``base`` where it says
    nothing."""
    if said := str(getattr(robot, "base_frame", "")):
        return said
    spec = robot.spec
    arrays = {name: item for name, item in spec.observation.items() if len(item.shape) < 3}
    first = [arrays[name].frame for name in ("tcp_pose", "tcp_velocity") if name in arrays]
    frames = [*first, spec.action.frame, *(item.frame for item in arrays.values())]
    return next((frame for frame in frames if frame), "base")


class RobotFile(Config):
    """The content of such a file."""

    robot: PluginChoice = setting(
        doc="The driver: {plugin: ros2, params: {...}}; another plugin's name, or "
        "package.module:Class."
    )
    grippers: Literal["openings", "choices"] = setting(
        "openings",
        doc="How an action moves the robot's grippers: openings, as the driver says; or choices: each is "
        "closed (0), held (1) or opened (2), which is easier to learn.",
    )
    embodiment: EmbodimentConfig = setting(
        factory=EmbodimentConfig,
        doc="In which space it is shown and driven: its own, or one that robots with other joints share.",
    )
    cameras: CamerasConfig = setting(
        factory=CamerasConfig, doc="Cameras that the driver does not know of."
    )
    safety: SafetyConfig = setting(
        factory=SafetyConfig, doc="What the safety gate lets through, and what stops the robot."
    )
    lease: LeaseConfig = setting(
        factory=LeaseConfig, doc="Whether the robot needs a lease, and how long one lasts."
    )
    loop: LoopConfig = setting(factory=LoopConfig, doc="How the control loop runs it.")
    display: DisplayConfig = setting(
        factory=DisplayConfig, doc="Frames, and what is shown to people and other nodes."
    )
    task: str = setting("", doc="Name of the task that it is set up for.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_spelling(cls, data: Any) -> Any:
        refuse_old_spelling(data if isinstance(data, Mapping) else (), "robot")
        return data


def find_robot_file(name: str | Path) -> Path:
    """The file that was meant: a path, ``package://PACKAGE/FILE``, or the name of a ready configuration
    of any installed package (``PACKAGE/NAME``, where several have it).

    Raises:
        ConfigError: There is no such file; lists the ready ones.
    """
    return file_meant("robots", name, _beside())


def ready_robot_files() -> dict[str, Path]:
    """The ready configurations, by their names."""
    folders = [*shared_folders("robots").values(), *_beside()]
    return {file.stem: file for folder in folders for file in folder.glob("*.yaml")}


def load_robot_file(path: str | Path) -> RobotFile:
    """Read a robot's file.

    Raises:
        ConfigError: It cannot be read, or a key is unknown, missing or out of range.
    """
    return from_mapping(RobotFile, load_yaml(path))


def refuse_old_spelling(names: Iterable[str], choice: str) -> None:
    """Refuse ``driver`` and ``params``, by which older files choose a plugin.

    Args:
        names: Keys of a document, or dotted names of ROS parameters.
        choice: The key that takes their place: ``robot`` or ``teleop``.

    Raises:
        ConfigError: The old spelling is used; says the new one.
    """
    old = sorted(name for name in names if name.partition(".")[0] in ("driver", "params"))
    if old:
        raise ConfigError(
            choice,
            got=f"the old spelling of a plugin choice, {' and '.join(old)}",
            expected="{plugin: NAME, params: {...}}",
            hint=f"Write `{choice}.plugin` for `driver` and `{choice}.params` for `params`.",
        )


def build_robot(file: RobotFile) -> Robot:
    """Make the driver, with choices for its grippers and cameras around it where that is wanted.

    Whether it wants topics is told by :func:`user_hal.topic_io.attach_topics`.

    Raises:
        PluginError: There is no such driver, or it cannot be imported.
        ConfigError: A parameter is unknown, missing or out of range.
    """
    robot: Robot = file.robot.build("robots", path="robot")
    try:
        if file.grippers == "choices":
            robot = RobotWithGripperChoices(robot)
        if not file.cameras.devices:
            return robot
        cameras = build_cameras(file.cameras)
        return RobotWithCameras(robot, cameras, file.cameras.max_skew_s)
    except SuiteError:
        robot.close()
        raise


def spec_of(file: RobotFile, robot: Robot) -> RobotSpec:
    """What a robot shows and takes in the space that its file asks for.

    Raises:
        ConfigError: It cannot be shown or driven so.
    """
    return space_of(file.embodiment, robot.spec, file.safety.action_scale).spec


def _beside() -> list[Path]:
    """Where ready configurations may be without any installed package."""
    return [folder for folder in (Path("config") / "robots",) if folder.is_dir()]
