"""A leader arm: scaled, aligned before it leads, and never far ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from user_core.conformance import check_teleop
from user_core.errors import ConfigError
from user_core.reasons import DEVICE_MISFITS, NOT_ALIGNED
from user_core.specs import ActionKind
from user_hal.fakes.local_topics import (
    JointState,
    JointTrajectory,
    JointTrajectoryPoint,
    Joy,
    LocalTopics,
)
from user_hal.teleops.hand_device import ButtonsConfig
from user_hal.teleops.leader import LeaderConfig, LeaderTeleop
from user_testing.worlds.robots.teleop import Seconds, robot, seen

NAMES = [f"j{i}" for i in range(1, 7)]
PEDAL = {"buttons_topic": "pedal", "buttons": ButtonsConfig(deadman=0)}


class Leader:
    """A leader arm of LocalTopics; the robot stands at 0.1 rad in all joints."""

    def __init__(self, kind: ActionKind = ActionKind.JOINT_POSITION, **options: Any) -> None:
        self.io, self.clock = LocalTopics(), Seconds()
        self.teleop = LeaderTeleop(LeaderConfig(**options), clock_s=self.clock)
        self.teleop.attach(self.io)
        self.teleop.connect(robot(kind, 3.0))

    def pedal(self, down: bool) -> None:
        self.teleop.take_buttons(Joy(buttons=[int(down)]))

    def stands(self, *positions: float, names: list[str] = NAMES, joints: float = 0.1) -> Any:
        self.clock.now_s += 0.05
        self.teleop.take(JointState(name=list(names), position=list(positions)))
        return self.teleop.read(seen(joints=joints))


def test_it_leads_only_after_it_stood_as_the_robot_does() -> None:
    leader = Leader(**PEDAL)
    leader.pedal(True)
    command = leader.stands(0.1, 0.1, 0.9, 0.1, 0.1, 0.1)
    assert not command.engaged
    np.testing.assert_allclose(command.action[:6], 0.1, atol=1e-6)  # the robot stays
    assert leader.teleop.trouble().code == NOT_ALIGNED and "j3" in str(leader.teleop.trouble())
    command = leader.stands(0.1, 0.1, 0.2, 0.1, 0.1, 0.1)
    assert command.engaged and not leader.teleop.trouble()
    np.testing.assert_allclose(command.action[:6], [0.1, 0.1, 0.2, 0.1, 0.1, 0.1], atol=1e-6)
    leader.pedal(False)
    assert not leader.stands(0.1, 0.1, 0.2, 0.1, 0.1, 0.1).engaged


def test_it_is_never_far_ahead_of_the_robot() -> None:
    leader = Leader(**PEDAL, max_lead=0.3)
    leader.pedal(True)
    leader.stands(*[0.1] * 6)
    command = leader.stands(2.0, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert command.engaged and command.action[0] == pytest.approx(0.4)


def test_joints_are_found_by_name_scaled_and_the_gripper_is_one_of_them() -> None:
    theirs = [f"servo_{i}" for i in range(6)]
    leader = Leader(**PEDAL, joints=tuple(theirs), scale=(-0.01,), offset=(0.1,) * 6,
                    gripper_joint="trigger", gripper_closed=60.0, gripper_opened=-20.0)  # fmt: skip
    leader.pedal(True)
    names = ["trigger", *reversed(theirs)]
    command = leader.stands(40.0, 0, 0, 0, 0, 0, -10.0, names=names)
    np.testing.assert_allclose(command.action, [0.2, *[0.1] * 5, 0.25], atol=1e-6)


def test_messages_without_names_go_by_their_order_and_missing_joints_are_named() -> None:
    leader = Leader(**PEDAL)
    leader.pedal(True)
    assert leader.stands(*[0.1] * 6, names=[]).engaged
    leader.stands(0.1, 0.1, names=["j1", "j2"])
    assert leader.teleop.trouble().code == DEVICE_MISFITS
    assert "j3" in str(leader.teleop.trouble())
    leader.clock.now_s += 1.0
    assert not leader.teleop.read(seen()).engaged


def test_numbers_that_are_none_do_not_count() -> None:
    leader = Leader(**PEDAL)
    leader.pedal(True)
    leader.stands(*[0.1] * 6)
    command = leader.stands(float("nan"), *[0.1] * 5)
    np.testing.assert_allclose(command.action[:6], 0.1, atol=1e-6)


def test_without_a_pedal_it_leads_while_it_moves() -> None:
    leader = Leader()
    assert not leader.stands(*[0.1] * 6).engaged
    assert leader.stands(0.12, *[0.1] * 5).engaged
    for _ in range(12):
        command = leader.stands(0.12, *[0.1] * 5)
    assert not command.engaged


def test_a_trajectory_leads_too() -> None:
    leader = Leader(type="JointTrajectory", topic="/leader/joint_trajectory", **PEDAL)
    leader.pedal(True)
    points = [JointTrajectoryPoint(positions=[0.15] * 6)]
    publisher = leader.io.publisher(
        "/leader/joint_trajectory", "trajectory_msgs/msg/JointTrajectory"
    )
    publisher.publish(JointTrajectory(joint_names=NAMES, points=points))
    command = leader.teleop.read(seen())
    assert command.engaged
    np.testing.assert_allclose(command.action[:6], 0.15, atol=1e-6)


def test_steps_and_velocities_bring_the_robot_to_the_leader() -> None:
    for kind, gain in ((ActionKind.JOINT_DELTA, 1.0), (ActionKind.JOINT_VELOCITY, 0.1)):
        names = [f"j{i}" for i in range(1, 7)]
        if kind is ActionKind.JOINT_VELOCITY:
            import dataclasses

            base = robot(ActionKind.JOINT_DELTA, 3.0)
            spec = dataclasses.replace(base, action_kind=kind)
        else:
            spec = robot(kind, 3.0)
        teleop = LeaderTeleop(LeaderConfig(**PEDAL), clock_s=Seconds())
        teleop.attach(LocalTopics())
        teleop.connect(spec)
        teleop.take_buttons(Joy(buttons=[1]))
        joints = np.full(6, 0.1)
        teleop.take(JointState(name=names, position=[0.2] * 6))
        for _ in range(40):
            command = teleop.read(seen(joints=float(joints[0])))
            assert command.engaged
            joints = joints + gain * command.action[:6]
        np.testing.assert_allclose(joints, 0.2, atol=0.01)


def test_what_does_not_fit_is_refused() -> None:
    teleop = LeaderTeleop(LeaderConfig())
    teleop.attach(LocalTopics())
    with pytest.raises(ConfigError, match="ee_delta"):
        teleop.connect(robot(ActionKind.EE_DELTA))
    with pytest.raises(ConfigError, match="scale"):
        Leader(scale=(1.0, 1.0))
    with pytest.raises(ConfigError, match="signs"):
        LeaderConfig(signs=(-1.0,) * 6)


def test_it_keeps_the_promises_of_a_teleop() -> None:
    teleop = LeaderTeleop(LeaderConfig())
    teleop.attach(LocalTopics())
    check_teleop(teleop, robot(ActionKind.JOINT_DELTA), seen()).require()


CONTINUOUS = {**PEDAL, "continuous": ("j1",)}


def test_a_joint_without_an_end_is_led_the_short_way() -> None:
    leader = Leader(**CONTINUOUS, max_lead=0.3)
    leader.pedal(True)
    turn = 2 * np.pi
    command = leader.stands(0.1 + turn, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert command.engaged, "it stands as the robot does, a turn further"
    np.testing.assert_allclose(command.action[:6], 0.1, atol=1e-5)
    command = leader.stands(0.2 - turn, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert command.action[0] == pytest.approx(0.2, abs=1e-5)
    command = leader.stands(2.5, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert command.action[0] == pytest.approx(0.4, abs=1e-5), "no further ahead than max_lead"
    other = Leader(**PEDAL)
    other.pedal(True)
    assert not other.stands(0.1 + turn, 0.1, 0.1, 0.1, 0.1, 0.1).engaged


def test_a_joint_without_an_end_goes_on_across_the_end_of_its_numbers() -> None:
    leader = Leader(ActionKind.JOINT_DELTA, **CONTINUOUS)
    leader.pedal(True)
    leader.stands(*[3.1] * 6, joints=3.1)
    positions = [3.1]
    for step in range(1, 12):
        angle = (3.1 + 0.02 * step + np.pi) % (2 * np.pi) - np.pi
        command = leader.stands(angle, *[3.1] * 5, joints=3.1)
        assert abs(command.action[0]) < 0.1, "never a turn back"
        positions.append(positions[-1] + command.action[0])
    assert positions[-1] > positions[0] + 0.1


def test_a_joint_that_there_is_not_cannot_turn_without_an_end() -> None:
    with pytest.raises(ConfigError, match="continuous.*j9"):
        Leader(**PEDAL, continuous=("j9",))
