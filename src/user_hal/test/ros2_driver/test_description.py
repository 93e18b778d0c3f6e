"""What the URDF says of joints fills what the contract does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceTimeout
from user_hal.checking.streams import topic_uses
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import JointState, String
from user_hal.robot_description import parse_urdf
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.description import NO_BOUND, described, read_urdf
from user_hal.robots.ros2.driver import Ros2Robot

NUMBERS = "std_msgs/msg/Float64MultiArray"


def joint(name: str, kind: str, parent: str, child: str, inside: str = "") -> str:
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f"{inside}</joint>"
    )


URDF = (
    '<robot name="toy">'
    + "".join(f'<link name="{name}"/>' for name in ("base", "l1", "l2", "l3", "f1", "f2"))
    + joint("lift", "prismatic", "base", "l1", '<limit lower="0" upper="0.8" velocity="0.1"/>')
    + joint("pan", "continuous", "l1", "l2", '<limit velocity="3.0" effort="1"/>')
    + joint("elbow", "revolute", "l2", "l3", '<limit lower="-1" upper="2" velocity="2.5"/>')
    + joint("finger", "prismatic", "l3", "f1", '<limit lower="0" upper="0.04" velocity="1"/>')
    + joint("finger2", "prismatic", "l3", "f2", '<mimic joint="finger" multiplier="-1"/>')
    + joint("mount", "fixed", "l3", "tool")
    + "</robot>"
)
JOINTS = ["lift", "pan", "elbow"]


def contract(joints: list[str] | None = None, **changes: Any) -> Ros2Config:
    action = {
        "kind": "joint_delta", "low": -0.05, "high": 0.05,
        "command": {"topic": "/c", "type": NUMBERS, "require_subscriber": False},
        **changes.pop("action", {}),
    }  # fmt: skip
    return from_mapping(
        Ros2Config,
        {
            "robot": "toy",
            "joints": joints or JOINTS,
            "observation": {
                "joint_position": {
                    "topic": "/joint_states",
                    "type": "sensor_msgs/msg/JointState",
                    "field": "position",
                }
            },
            "action": action,
            "timing": {"connect_timeout_s": 0.3, "max_age_s": 5.0},
            **changes,
        },
    )


def test_limits_speeds_and_kinds_of_joints_are_filled() -> None:
    config, notes = described(contract(), parse_urdf(URDF))
    assert config.action is not None
    assert config.continuous == ("pan",) and config.prismatic == ("lift",)
    assert config.joint_velocity_limits == (0.1, 3.0, 2.5)
    assert config.action.target_low == (0.0, -NO_BOUND, -1.0)
    assert config.action.target_high == (0.8, NO_BOUND, 2.0)
    assert notes == []


def test_what_the_contract_says_stays_and_what_is_beyond_the_limits_is_told() -> None:
    said = contract(
        joint_velocity_limits=1.0, action={"target_low": [0.1, -1.0, -0.5], "target_high": 2.5}
    )
    config, notes = described(said, parse_urdf(URDF))
    assert config.action == said.action and config.joint_velocity_limits == 1.0
    assert [note.split(",")[0] for note in notes] == [
        "action.target_high of 'lift'",
        "action.target_high of 'elbow'",
    ]
    assert "0.8" in notes[0]


def test_each_group_has_its_own() -> None:
    whole = contract()
    assert whole.action is not None
    groups = {
        "arm": {"joints": ["pan", "elbow"], "action": whole.action.model_dump(exclude_none=True)},
        "lift": {
            "joints": ["lift"],
            "action": {
                "kind": "joint_delta", "low": -0.01, "high": 0.01,
                "command": {"topic": "/l", "type": NUMBERS},
            },
        },
    }  # fmt: skip
    said = {"robot": "toy", "groups": groups, "observation": {
        "joint_position": {
            "topic": "/js", "type": "sensor_msgs/msg/JointState", "field": "position",
        }}}  # fmt: skip
    config, _ = described(from_mapping(Ros2Config, said), parse_urdf(URDF))
    assert config.groups["arm"].action.target_high == (NO_BOUND, 2.0)
    assert config.groups["lift"].action.target_high == (0.8,)
    assert config.joint_velocity_limits == (3.0, 2.5, 0.1)


@pytest.mark.parametrize(
    ("joints", "changes", "message"),
    [
        ([*JOINTS, "finger2"], {}, "'finger2', which only follows 'finger' .mimic.*Leave it out"),
        (["lift", "pan", "elbwo"], {}, r"'elbwo', which is not in the URDF.*Did you mean 'elbow'"),
        (["lift", "mount"], {}, "'mount', which is fixed"),
        (JOINTS, {"home": {"joints": [0.9, 0.0, 0.0]}}, r"home.joints of 'lift'.*0 to 0\.8"),
    ],
)
def test_joints_that_cannot_be_commanded_are_refused(
    joints: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        described(contract(joints, **changes), parse_urdf(URDF))


def test_a_urdf_without_speeds_leaves_them_open_with_a_note() -> None:
    text = URDF.replace(' velocity="3.0"', "")
    config, notes = described(contract(), parse_urdf(text))
    assert config.joint_velocity_limits is None
    assert "no velocity limits of ['pan']" in notes[0]


def test_a_file_is_read_when_the_robot_is_built(tmp_path: Path) -> None:
    (tmp_path / "toy.urdf").write_text(URDF, encoding="utf-8")
    robot = Ros2Robot(contract(urdf={"file": str(tmp_path / "toy.urdf")}))
    assert robot._drives[0].group.action.target_high == (0.8, NO_BOUND, 2.0)
    with pytest.raises(ConfigError, match=r"urdf.file: got .*none.urdf"):
        Ros2Robot(contract(urdf={"file": str(tmp_path / "none.urdf")}))
    (tmp_path / "toy.xacro").write_text("<robot xmlns:xacro='x'/>", encoding="utf-8")
    with pytest.raises(ConfigError, match="xacro.*Write the output of xacro"):
        read_urdf(str(tmp_path / "toy.xacro"))


def test_package_paths_are_found_where_workspaces_are_sourced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "toy_description"
    folder.mkdir(parents=True)
    (folder / "toy.urdf").write_text(URDF, encoding="utf-8")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    assert read_urdf("package://toy_description/toy.urdf").name == "toy"
    with pytest.raises(ConfigError, match="'other', which is not installed"):
        read_urdf("package://other/toy.urdf")


def test_the_topic_is_heard_at_connect_and_targets_stay_within_its_limits() -> None:
    io = LocalTopics()
    robot = Ros2Robot(contract(urdf={}, prismatic=["lift"]))
    robot.attach(io)
    with pytest.raises(DeviceTimeout, match="/robot_description.*Start robot_state_publisher"):
        robot.connect()
    io.publisher("/robot_description", "std_msgs/msg/String", latched=True).publish(String(URDF))
    state = JointState(name=JOINTS, position=[0.78, 9.0, 1.98])
    sent: list[Any] = []
    io.subscribe("/c", NUMBERS, sent.append)
    io.publisher("/joint_states", "sensor_msgs/msg/JointState", latched=True).publish(state)
    robot.connect()
    for _ in range(3):
        robot.command(np.full(3, 0.05, np.float32))
    assert all(message.data[0] <= 0.8 and message.data[2] <= 2.0 for message in sent)
    assert sent[-1].data[1] > 9.0  # continuous: no limit
    robot.close()


def test_a_prismatic_joint_that_is_heard_too_late_for_the_spec_is_told() -> None:
    io = LocalTopics()
    robot = Ros2Robot(contract(["lift"], urdf={}))
    robot.attach(io)
    io.publisher("/robot_description", "std_msgs/msg/String", latched=True).publish(String(URDF))
    with pytest.raises(ConfigError, match=r"prismatic: got \[\], expected \['lift'\]"):
        robot.connect()


def test_the_check_knows_that_the_description_is_published_once() -> None:
    use = next(topic_uses({"urdf": {"topic": "/robot_description"}}))
    assert use.read and use.type_name == "std_msgs/msg/String" and use.options["latched"]


@pytest.mark.parametrize("space", ["http://www.ros.org/wiki/xacro", "http://ros.org/wiki/xacro"])
def test_xacro_is_told_as_what_it_is(space: str) -> None:
    """All of its joints are in macros: none would be seen."""
    head = f'<robot name="r" xmlns:xacro="{space}">'
    with pytest.raises(ConfigError, match=r"got xacro.*> robot.urdf"):
        parse_urdf(f'{head}<xacro:arm prefix="left_"/></robot>')
    made = f'{head}<link name="base"/></robot>'  # what xacro makes keeps the namespace
    assert parse_urdf(made).root == "base"
