"""The reference of all keys of a contract, docs/reference/contract.md, from its models.

    python -m user_hal.robots.ros2.contract.reference > docs/reference/contract.md

(``make schemas`` does it.) Examples stand in :data:`EXAMPLES`, where what a key's default and
choices show is not enough; a test tries each of them.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import yaml

from user_core.config import MISSING, Config, ConfigField, config_fields, to_mapping
from user_core.config.setting import enum_text
from user_core.plugins import PluginChoice
from user_hal.robots.ros2.contract import Ros2Config

#: A contract of one arm, and one of two, that show what goes where.
ONE_ARM = """\
robot: my_arm
joints: [joint1, joint2, joint3, joint4, joint5, joint6]
observation:
  joint_position: {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position}
  tcp_pose: {topic: /tcp_pose_broadcaster/pose, type: geometry_msgs/msg/PoseStamped, field: pose}
action:
  kind: joint_delta
  low: -0.05
  high: 0.05
  command:
    topic: /joint_trajectory_controller/joint_trajectory
    type: trajectory_msgs/msg/JointTrajectory
home: {joints: [0.0, -1.57, 1.57, -1.57, -1.57, 0.0]}
"""
TWO_ARMS = """\
robot: two_arms
observation:
  joint_position: {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position}
groups:
  left:
    joints: [left_joint1, left_joint2, left_joint3]
    action:
      kind: joint_delta
      low: -0.05
      high: 0.05
      command: {topic: /left_controller/commands, type: std_msgs/msg/Float64MultiArray}
      gripper: {topic: /left_hand/command, type: std_msgs/msg/Float64, closed: 0.0, opened: 0.04}
  right:
    joints: [right_joint1, right_joint2, right_joint3]
    action:
      kind: joint_velocity
      low: -0.3
      high: 0.3
      command: {topic: /right_controller/commands, type: std_msgs/msg/Float64MultiArray}
"""

#: Examples by key, or by class and key where a key means different things.
EXAMPLES: dict[str, Any] = {
    "robot": "ur5e",
    "observation": yaml.safe_load(ONE_ARM)["observation"],
    "joints": ["joint1", "joint2"],
    "groups": {"left": {"joints": ["left_joint1"], "action": "..."}},
    "prismatic": ["lift"],
    "continuous": ["wrist_3_joint"],
    "joint_velocity_limits": [3.14, 3.14, 6.28],
    "tool_velocity_limits": [1.0, 3.0],
    "base_frame": "base_link",
    "transforms": {"base": {"parent": "base_link", "rpy": [0, 0, 3.14159]}},
    "topic": "/joint_states",
    "type": "sensor_msgs/msg/JointState",
    "field": "position",
    "tf": "tool0",
    "layout": "pose_rpy",
    "names": ["finger_joint"],
    "names_field": "joint_names",
    "indices": [0, 1, 2],
    "size": 6,
    "scale": 0.01745,
    "offset": [0.0, 1.57],
    "not_finite": {"inf": 10.0},
    "frame": "base",
    "max_age_s": 0.5,
    "parts": [{"topic": "/left/joint_states"}, {"topic": "/right/joint_states"}],
    "elements": ["left_joint1", "left_joint2"],
    "unit": "N",
    "low": -0.05,
    "high": 0.05,
    "SourceConfig.low": 0.0,
    "SourceConfig.high": 1.0,
    "CommandConfig.low": -1.0,
    "CommandConfig.high": 1.0,
    "action": {"kind": "joint_delta", "low": -0.05, "high": 0.05, "command": "..."},
    "kind": "joint_delta",
    "command": {"topic": "/forward_position_controller/commands",
                "type": "std_msgs/msg/Float64MultiArray"},
    "CommandConfig.topic": "/joint_trajectory_controller/joint_trajectory",
    "CommandConfig.type": "trajectory_msgs/msg/JointTrajectory",
    "CommandConfig.fields": {"name": "arm", "cmd": "values"},
    "CommandConfig.scale": 57.29578,
    "time_from_start_s": 0.15,
    "target_low": [-6.28, -6.28, -3.14],
    "target_high": 6.28,
    "max_lead_rad": 0.1,
    "gripper": {"topic": "/gripper/gripper_cmd", "type": "control_msgs/action/GripperCommand",
                "closed": 0.8, "opened": 0.0},
    "grippers": {"left": {"topic": "/left_hand/command", "type": "std_msgs/msg/Float64",
                 "closed": 0.0, "opened": 0.04}},
    "HomeConfig.gripper": 1.0,
    "GripperConfig.topic": "/robotiq_gripper_controller/gripper_cmd",
    "GripperConfig.type": "control_msgs/action/GripperCommand",
    "GripperConfig.fields": {"width": "value", "speed": 0.1},
    "GripperConfig.joints": ["finger_joint"],
    "closed": 0.8,
    "opened": 0.0,
    "max_effort": 40.0,
    "min_interval_s": 0.2,
    "threshold": 0.5,
    "open": {"service": "/gripper/open", "type": "std_srvs/srv/Trigger"},
    "close": {"service": "/gripper/close", "type": "std_srvs/srv/Trigger"},
    "success": {"success": True},
    "service": "/controller_manager/switch_controller",
    "CallConfig.action": "/gripper/homing",
    "UndoConfig.action": "/gripper/homing",
    "CallConfig.type": "controller_manager_msgs/srv/SwitchController",
    "UndoConfig.type": "controller_manager_msgs/srv/SwitchController",
    "request": {"activate_controllers": ["forward_position_controller"]},
    "undo": {"request": {"deactivate_controllers": ["forward_position_controller"]}},
    "HomeConfig.joints": [0.0, -1.57, 1.57],
    "pose": [0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0],
    "noise": 0.02,
    "before": [{"service": "/zero_ftsensor", "type": "std_srvs/srv/Trigger"}],
    "after": [{"service": "/motors_off", "type": "std_srvs/srv/Trigger"}],
    "recover": [{"service": "/clear_faults", "type": "std_srvs/srv/Trigger"}],
    "effort": 0.0,
    "stop": {"hold": "target"},
    "parent": "base_link",
    "xyz": [0.0, 0.0, 0.1],
    "rpy": [0.0, 0.0, 3.14159],
    "urdf": {"topic": "/robot_description"},
    "file": "package://my_robot_description/urdf/my_robot.urdf",
    "UrdfConfig.topic": "/robot_description",
    "devices": {"wrist": {"plugin": "ros_topic", "params": {"topic": "/wrist/image_raw",
                "width": 128, "height": 96}}},
    "stop_when": [{"topic": "/safety_mode", "type": "std_msgs/msg/Int32", "field": "data",
                   "not_equals": 1, "latched": True}],
    "StopWhenConfig.topic": "/io_and_status_controller/safety_mode",
    "StopWhenConfig.type": "ur_dashboard_msgs/msg/SafetyMode",
    "StopWhenConfig.field": "mode",
    "StopWhenConfig.service": "/dashboard_client/get_safety_mode",
    "StopWhenConfig.request": {"data": True},
    "equals": True,
    "not_equals": [1, 2],
    "above": 60.0,
    "below": 0.1,
    "reason": "protective stop",
}  # fmt: skip

_HEAD = """\
# Contract of driver `ros2`: all keys

The contract of a robot on ROS 2 topics is `robot.params` of a robot file with `plugin: ros2`.
[Bring your own ROS 2 robot](../how_to/bring_your_own_ros2_robot.md) explains it step by step, `user robots propose`
writes a first one from a running robot, and `user check robot` tries it. A key that is not known, a value out of
range, or parts that do not fit each other are refused with the path of the key.

This page is made from the models (`make schemas`).

One arm:

```yaml
{one}```

Two arms:

```yaml
{two}```
"""


def markdown() -> str:
    """The whole page."""
    sections = list(_sections())
    places = {config: path for path, config in sections}
    text = [_HEAD.format(one=ONE_ARM, two=TWO_ARMS)]
    documented: dict[str, tuple[str, ConfigField]] = {}
    for path, config in sections:
        text += _section(path, config, places, documented)
    return "\n".join(text).rstrip() + "\n"


def example_of(config: type[Config], field: ConfigField) -> Any:
    """A value that the key may have; MISSING where the models and :data:`EXAMPLES` show none."""
    for cls in config.__mro__:
        if f"{cls.__name__}.{field.name}" in EXAMPLES:
            return EXAMPLES[f"{cls.__name__}.{field.name}"]
    if isinstance(field.default, bool):
        return not field.default
    if (choices := _choices(field.type)) and field.name not in EXAMPLES:
        return next(choice for choice in choices if choice != field.default)
    if field.name in EXAMPLES:
        return EXAMPLES[field.name]
    if isinstance(field.default, (int, float)) or (
        field.default and isinstance(field.default, str)
    ):
        return field.default
    return MISSING


def _sections() -> Iterator[tuple[str, type[Config]]]:
    """Every class of the contract with the path at which it comes first, breadth first."""
    waiting: list[tuple[str, type[Config]]] = [("", Ros2Config)]
    seen: set[type[Config]] = set()
    while waiting:
        path, config = waiting.pop(0)
        if config in seen or config is PluginChoice:
            continue
        seen.add(config)
        yield path, config
        for field in config_fields(config):
            for inner, suffix in _inner(field.type):
                waiting.append((f"{path}.{field.name}{suffix}".lstrip("."), inner))


def _inner(hint: Any) -> Iterator[tuple[type[Config], str]]:
    """The configurations within a type, and how they are reached from the key."""
    if isinstance(hint, type) and issubclass(hint, Config):
        yield hint, ""
        return
    origin = typing.get_origin(hint)
    suffix = ""
    if isinstance(origin, type) and issubclass(origin, Mapping):
        suffix = ".NAME"
    elif origin in (tuple, list):
        suffix = "[]"
    for argument in typing.get_args(hint):
        for config, deeper in _inner(argument):
            yield config, suffix + deeper


def _section(
    path: str,
    config: type[Config],
    places: Mapping[type[Config], str],
    documented: dict[str, tuple[str, ConfigField]],
) -> Iterator[str]:
    yield f"## {f'`{path}`' if path else 'Top level'}"
    yield ""
    if path:
        yield _cell(" ".join((config.__doc__ or "").split()))
        yield ""
    shared: dict[str, list[str]] = {}
    rows = []
    for field in config_fields(config):
        before = documented.get(field.name)
        if before is not None and before[0] != "" and _same(before[1], field):
            shared.setdefault(before[0], []).append(field.name)
            continue
        documented.setdefault(field.name, (path, field))
        rows.append(_row(config, field, places))
    if rows:
        yield "| key | what is allowed | unit | default | meaning | example |"
        yield "| --- | --- | --- | --- | --- | --- |"
        yield from rows
        yield ""
    for place, names in shared.items():
        keys = ", ".join(f"`{name}`" for name in names)
        yield f"And, as in [`{place}`](#{_anchor(place)}): {keys}."
        yield ""


def _same(a: ConfigField, b: ConfigField) -> bool:
    return (a.type, a.setting) == (b.type, b.setting)


def _row(config: type[Config], field: ConfigField, places: Mapping[type[Config], str]) -> str:
    inner = [item for item, _ in _inner(field.type) if item in places]
    allowed = _allowed(field.type)
    if field.setting.range_text:
        allowed += f", {_cell(field.setting.range_text)}"
    if inner:
        place = places[inner[0]]
        many = {"dict": "mapping of ", "tuple": "list of "}.get(
            str(field.type).partition("[")[0], ""
        )
        allowed = f"{many}[`{place}`](#{_anchor(place)})"
    example = example_of(config, field)
    shown = "" if example is MISSING else f"`{field.name}: {_yaml(example)}`".replace("|", "\\|")
    cells = [
        f"`{field.name}`",
        allowed,
        field.setting.unit,
        _default(field.default),
        _cell(field.setting.doc),
        shown,
    ]
    return f"| {' | '.join(cells)} |"


def _allowed(hint: Any) -> str:
    """A type for people."""
    if choices := _choices(hint):
        return " or ".join(f"`{choice}`" for choice in choices)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_allowed(item) for item in arguments if item is not type(None))
    if origin in (tuple, list):
        return f"list of {_allowed(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    return {float: "number", int: "integer", str: "text", bool: "boolean"}.get(hint, "anything")


def _choices(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(enum_text(member) for member in hint)
    return ()


def _default(value: Any) -> str:
    if value is MISSING:
        return "*required*"
    if isinstance(value, Config):
        return "each key's"
    if value is None or (isinstance(value, (tuple, dict, str)) and not value):
        return "none"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, Config):
        value = to_mapping(value)
    if isinstance(value, Enum):
        value = enum_text(value)
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("'...'", "...")


def _cell(text: str) -> str:
    """Text for a cell, with what Markdown would take for markup."""
    plain = " ".join(text.replace("``", "`").split())
    plain = re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", plain)
    parts = re.split(r"(`[^`]*`)", plain.replace("|", "\\|"))
    return "".join(
        part if part.startswith("`") else re.sub(r"([<>*\[\]_{}])", r"\\\1", part) for part in parts
    )


def _anchor(path: str) -> str:
    """As a heading's link is made: small letters, no points and brackets."""
    return re.sub(r"[^a-z0-9_-]", "", path.lower().replace(" ", "-"))


if __name__ == "__main__":
    print(markdown(), end="")
