"""Readings of velocities and of the tool that cannot be true, and what a gate is told of joints."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from user_core.body.mobility import Mobility
from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceTimeout, ImplausibleReading
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import Header, JointState, Time
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.reading.observations import Observer
from user_hal.robots.ros2.reading.plausibility import PoseJumpCheck, check_for, mobility_of_contract
from user_testing.waiting import wait_until

STEP_NS = 20_000_000
JOINT_STATE = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
COMMAND = {"topic": "/c", "type": "trajectory_msgs/msg/JointTrajectory"}
ACTION = {"kind": "joint_delta", "low": -0.05, "high": 0.05, "command": COMMAND}
CONTRACT: dict[str, Any] = {
    "robot": "toy",
    "joints": ["a", "b"],
    "joint_velocity_limits": [3.0, 0.5],
    "observation": {
        "joint_position": {**JOINT_STATE, "field": "position"},
        "joint_velocity": {**JOINT_STATE, "field": "velocity"},
    },
    "action": ACTION,
    "timing": {"max_ahead_s": 5.0, "max_age_s": 5.0},
}


def contract(**changes: Any) -> Ros2Config:
    return from_mapping(Ros2Config, {**CONTRACT, **changes})


def test_a_velocity_that_no_joint_has_is_a_fault_that_names_topic_and_joint() -> None:
    reader = Observer(contract())
    io = LocalTopics()
    source = reader.sources["joint_velocity"]
    source.prepare(io)
    reader._io = io

    def feed(*velocities: float) -> None:
        stamp = Time(*divmod(io.now_ns(), 10**9))
        message = JointState(Header(stamp), ["a", "b"], [0.0, 0.0], list(velocities))
        source.parts[0].receive(message)

    feed(2.9, 0.45)
    np.testing.assert_allclose(reader.measured("joint_velocity"), [2.9, 0.45])
    feed(2.9, 57.0)  # degrees per second, for instance
    with pytest.raises(ImplausibleReading, match=r"/joint_states.*velocity of joint 'b'"):
        reader.measured("joint_velocity")
    feed(2.9, 0.45)
    np.testing.assert_allclose(reader.measured("joint_velocity"), [2.9, 0.45])


def pose(x: float = 0.4, angle: float = 0.0) -> np.ndarray:
    return np.array([x, 0, 0.3, 0, 0, math.sin(angle / 2), math.cos(angle / 2)])


@pytest.mark.parametrize(
    ("jump", "said"),
    [(pose(0.0), "0.410.* to .*at most 0.080 m"), (pose(angle=2.0), "at most 0.240 rad")],
)
def test_a_tool_that_jumps_or_spins_is_a_fault_until_readings_fit(jump, said) -> None:
    check = PoseJumpCheck(np.array([1.0, 3.0]), 2.0, 2)
    check.check(pose(), 0, 0)
    check.check(pose(0.41, 0.05), STEP_NS, STEP_NS)
    with pytest.raises(ImplausibleReading, match=said):
        check.check(jump, 2 * STEP_NS, 2 * STEP_NS)
    with pytest.raises(ImplausibleReading):
        check.check(jump, 3 * STEP_NS, 3 * STEP_NS)
    check.check(jump, 4 * STEP_NS, 4 * STEP_NS)


def test_the_tool_is_watched_where_the_contract_says_how_fast_it_is() -> None:
    tool = {"topic": "/pose", "type": "geometry_msgs/msg/PoseStamped", "field": "pose"}
    observation = {**CONTRACT["observation"], "tcp_pose": tool}
    without = contract(observation=observation)
    assert check_for(without, "tcp_pose", (), Turns()) is None
    with_limits = contract(observation=observation, tool_velocity_limits=[1.0, 3.0])
    assert isinstance(check_for(with_limits, "tcp_pose", (), Turns()), PoseJumpCheck)
    with pytest.raises(ConfigError, match="m/s and rad/s"):
        contract(observation=observation, tool_velocity_limits=[1.0])


def test_the_gate_hears_how_fast_the_joints_are_and_which_turn_endlessly() -> None:
    robot = Ros2Robot(contract(continuous=["b"]))
    assert robot.mobility == Mobility({"joint_position": (3.0, 0.5)}, {"joint_position": (1,)})
    assert mobility_of_contract(contract(joint_velocity_limits=None)) == Mobility()


def test_joints_of_groups_are_found_in_the_arrays_that_show_them() -> None:
    command = {"topic": "/l", "type": COMMAND["type"]}
    groups = {
        "left": {"joints": ["l1", "l2"], "action": {**ACTION, "command": command}},
        "right": {"joints": ["r1"], "action": ACTION},
    }
    both = {key: value for key, value in CONTRACT.items() if key not in ("joints", "action")}
    known = mobility_of_contract(
        from_mapping(
            Ros2Config,
            {
                **both,
                "groups": groups,
                "joint_velocity_limits": [1.0, 2.0, 3.0],
                "continuous": ["l2", "r1"],
                "observation": {
                    "left.joint_position": {**JOINT_STATE, "field": "position"},
                    "right.joint_position": {**JOINT_STATE, "field": "position"},
                },
            },
        )
    )
    assert known.fastest == {"left.joint_position": (1.0, 2.0), "right.joint_position": (3.0,)}
    assert known.continuous == {"left.joint_position": (1,), "right.joint_position": (0,)}


def feed(reader: Observer, io: LocalTopics, *messages: JointState) -> None:
    source = reader.sources["joint_position"]
    source.prepare(io)
    reader._io = io
    for message in messages:
        message.header = Header(Time(*divmod(io.now_ns(), 10**9)))
        source.parts[0].receive(message)


@pytest.mark.parametrize(
    ("position", "said"),
    [
        ([45.0, 0.1], r"joint 'a': got 45 rad.* -3 to 3 rad.*degrees, write scale: 0.0174533"),
        ([0.5, 120.0], r"joint 'b': got 120 m.* 0 to 0.4 m.*millimetres, write scale: 0.001"),
    ],
)
def test_a_reading_in_another_unit_is_told_by_the_limits(position: list[float], said: str) -> None:
    reader = Observer(
        contract(
            action={**ACTION, "target_low": [-3.0, 0.0], "target_high": [3.0, 0.4]},
            prismatic=["b"],
        )
    )
    io = LocalTopics()
    feed(reader, io, JointState(name=["a", "b"], position=[3.1, -0.01]))  # a little beyond
    np.testing.assert_allclose(reader.measured("joint_position"), [3.1, -0.01])
    feed(reader, io, JointState(name=["a", "b"], position=position))
    with pytest.raises(ImplausibleReading, match=said):
        reader.measured("joint_position")


def test_where_no_limits_are_known_every_position_can_be() -> None:
    for changes in (
        {},
        {"continuous": ["a", "b"]},
        {"action": {**ACTION, "target_low": -1e5, "target_high": 1e5}},
    ):
        reader, io = Observer(contract(**changes)), LocalTopics()
        feed(reader, io, JointState(name=["a", "b"], position=[45.0, 120.0]))
        np.testing.assert_allclose(reader.measured("joint_position"), [45.0, 120.0])


def test_messages_without_numbers_do_not_stand_in_the_way_of_those_with_them() -> None:
    reader, io = Observer(contract()), LocalTopics()  # a broadcaster of efforts on the same topic
    full = JointState(name=["a", "b"], position=[0.1, 0.2])
    feed(reader, io, full, JointState(name=["a", "b"], effort=[1.0, 2.0]))
    np.testing.assert_allclose(reader.measured("joint_position"), [0.1, 0.2])


def test_a_jump_of_a_whole_turn_is_told_from_others() -> None:
    reader, io = Observer(contract()), LocalTopics()
    for end, said in ((-3.13, r"whole turn.*continuous: \[a\]"), (0.0, "second publisher")):
        feed(
            reader, io,
            JointState(name=["a", "b"], position=[3.14, 0.0]),
            JointState(name=["a", "b"], position=[end, 0.0]),
        )  # fmt: skip
        with pytest.raises(ImplausibleReading, match=said):
            reader.measured("joint_position")


def test_a_joint_that_is_left_out_from_some_moment_on_is_named() -> None:
    """The node of a gripper has died, while that of the arm goes on."""
    now = [10**18]
    io = LocalTopics(lambda: now[0])
    reader = Observer(contract(timing={"max_age_s": 0.05}))
    feed(reader, io, JointState(name=["a", "b"], position=[0.1, 0.2]))
    part = reader.sources["joint_position"].parts[0]

    def without_b() -> bool:
        now[0] += 20_000_000
        part.receive(JointState(Header(Time(*divmod(now[0], 10**9))), ["a"], [0.1]))
        try:
            reader.measured("joint_position")
        except DeviceTimeout as error:
            return "newer ones come without b" in str(error)
        return False

    wait_until(without_b, period_s=0.02)
