"""A device for each group of a robot; groups without one hold still."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from user_core.conformance import check_teleop
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice
from user_core.reasons import DEVICE_SILENT
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec, common_kind
from user_core.types import Observation
from user_hal.fakes.local_topics import JointState, Joy, LocalTopics
from user_hal.teleops.groups import GroupsConfig, GroupsTeleop

PEDAL = {"buttons_topic": "/pedal", "buttons": {"deadman": 0}}
JOY_STATE, JOY = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Joy"


def two_arms(
    kind: ActionKind = ActionKind.JOINT_POSITION, other: ActionKind | None = None
) -> RobotSpec:
    """Two arms of two joints with a gripper each; joints named."""
    groups = (ActionGroup("left", kind, 3), ActionGroup("right", other or kind, 3))
    names = ("l1", "l2", "left_gripper", "r1", "r2", "right_gripper")
    observation = {
        "joint_position": ArraySpec((4,), names=("l1", "l2", "r1", "r2")),
        "gripper": ArraySpec((2,), low=0.0, high=1.0),
    }
    action = ArraySpec((6,), low=(-3, -3, 0, -3, -3, 0), high=(3, 3, 1, 3, 3, 1), names=names)
    return RobotSpec(
        "two", observation, action, common_kind(groups), 0.1, grippers=(2, 5), action_groups=groups
    )


def seen(*joints: float, grippers: tuple[float, float] = (0.25, 0.75)) -> Observation:
    arrays = {
        "joint_position": np.asarray(joints or (0.1, 0.2, 0.3, 0.4), np.float32),
        "gripper": np.asarray(grippers, np.float32),
    }
    return Observation(arrays, 1, 1, 1)


def leader(topic: str, **params: Any) -> PluginChoice:
    return PluginChoice(plugin="leader", params={"topic": topic, **PEDAL, **params})


class Devices:
    """Devices of the groups on topics of this process."""

    def __init__(self, spec: RobotSpec, **devices: PluginChoice) -> None:
        self.io = LocalTopics()
        self.teleop = GroupsTeleop(GroupsConfig(devices=devices))
        self.teleop.attach(self.io)
        self.teleop.connect(spec)
        self.pedal = self.io.publisher("/pedal", JOY)

    def stands(self, topic: str, **joints: float) -> None:
        self.io.publisher(topic, JOY_STATE).publish(
            JointState(name=list(joints), position=list(joints.values()))
        )


def test_two_leader_arms_lead_an_arm_each() -> None:
    devices = Devices(two_arms(), left=leader("/l"), right=leader("/r"))
    devices.stands("/l", l1=0.1, l2=0.2)
    devices.stands("/r", r1=0.3, r2=0.4)
    devices.pedal.publish(Joy(buttons=[1]))
    devices.stands("/l", l1=0.15, l2=0.2)
    devices.stands("/r", r1=0.3, r2=0.35)
    command = devices.teleop.read(seen())
    assert command.engaged
    np.testing.assert_allclose(command.action, [0.15, 0.2, 0.25, 0.3, 0.35, 0.75], atol=1e-6)
    devices.teleop.close()


def test_a_group_without_a_device_holds_where_it_is() -> None:
    devices = Devices(two_arms(), right=leader("/r"))
    devices.pedal.publish(Joy(buttons=[1]))
    devices.stands("/r", r1=0.3, r2=0.4)
    assert devices.teleop.read(seen()).engaged
    devices.stands("/r", r1=0.35, r2=0.4)
    command = devices.teleop.read(seen(0.12, 0.22, 0.3, 0.4, grippers=(0.0, 0.75)))
    # the target of the left arm does not sag with it; its gripper stays as it is
    np.testing.assert_allclose(command.action, [0.1, 0.2, 0.0, 0.35, 0.4, 0.75], atol=1e-6)
    devices.teleop.close()


def test_a_group_that_moves_by_changes_holds_by_zeros() -> None:
    spec = two_arms(ActionKind.JOINT_DELTA, ActionKind.JOINT_POSITION)
    devices = Devices(spec, right=leader("/r"))
    devices.pedal.publish(Joy(buttons=[1]))
    devices.stands("/r", r1=0.3, r2=0.4)
    command = devices.teleop.read(seen())
    np.testing.assert_allclose(command.action, [0, 0, 0.25, 0.3, 0.4, 0.75], atol=1e-6)
    devices.teleop.close()


def test_one_pedal_let_go_leaves_the_other_arm_led_and_its_gripper_as_it_was() -> None:
    left = leader("/l", buttons_topic="/left_pedal", gripper_joint="grip")
    devices = Devices(two_arms(), left=left, right=leader("/r"))
    own_pedal = devices.io.publisher("/left_pedal", JOY)
    own_pedal.publish(Joy(buttons=[1]))
    devices.pedal.publish(Joy(buttons=[1]))
    devices.stands("/l", l1=0.1, l2=0.2, grip=1.0)
    devices.stands("/r", r1=0.3, r2=0.4)
    assert devices.teleop.read(seen()).action[2] == 1.0
    own_pedal.publish(Joy(buttons=[0]))
    devices.stands("/l", l1=0.1, l2=0.2, grip=0.0)
    command = devices.teleop.read(seen(grippers=(0.5, 0.75)))
    assert command.engaged and command.action[2] == 1.0
    devices.teleop.close()


def test_what_keeps_a_device_from_driving_names_its_group() -> None:
    devices = Devices(two_arms(), right=leader("/r"))
    assert devices.teleop.trouble().code == DEVICE_SILENT
    assert devices.teleop.trouble().text.startswith("right: ")
    devices.teleop.close()


def test_a_device_for_a_group_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="'left', 'right'"):
        Devices(two_arms(), middle=leader("/m"))
    with pytest.raises(ConfigError, match="with groups"):
        Devices(RobotSpec("r", {"a": ArraySpec((1,))}, ArraySpec((1,))), left=leader("/l"))


def test_it_keeps_the_promises_of_a_teleop() -> None:
    teleop = GroupsTeleop(GroupsConfig(devices={"left": leader("/l"), "right": leader("/r")}))
    teleop.attach(LocalTopics())
    assert check_teleop(teleop, two_arms(), seen()).passed
