"""What joints can do: whole turns, and readings that jump."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, ImplausibleReading
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import Header, JointState, Time
from user_hal.robots.ros2.buffer import Sample, StampedBuffer
from user_hal.robots.ros2.commanding.homing import Homing
from user_hal.robots.ros2.commanding.targets import Target, make_targets
from user_hal.robots.ros2.contract import HomeConfig, Ros2Config, groups_of
from user_hal.robots.ros2.joints import JumpCheck, Turns
from user_hal.robots.ros2.reading.observations import Observer

STEP_NS = 20_000_000
CONTRACT: dict[str, Any] = {
    "robot": "toy",
    "joints": ["a", "b", "c"],
    "joint_velocity_limits": 3.0,
    "observation": {
        "joint_position": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
            "stamp": "header",
        },
    },
    "action": {
        "kind": "joint_delta", "low": -0.05, "high": 0.05,
        "command": {"topic": "/c", "type": "trajectory_msgs/msg/JointTrajectory"},
    },
    "timing": {"settled_readings": 3, "max_ahead_s": 5.0, "max_age_s": 5.0},
}  # fmt: skip


def observer(**changes: Any) -> tuple[Observer, Any]:
    """An observer without its topics, and a function that feeds it a reading."""
    reader = Observer(from_mapping(Ros2Config, {**CONTRACT, **changes}))
    io = LocalTopics()
    source = reader.sources["joint_position"]
    source.prepare(io)
    reader._io = io
    start_ns, count = io.now_ns(), 0

    def feed(*positions: float) -> None:
        nonlocal count
        count += 1
        stamp = Time(*divmod(start_ns + count * STEP_NS, 10**9))
        source.parts[0].receive(JointState(Header(stamp), ["a", "b", "c"], list(positions)))

    return reader, feed


def test_a_zeroed_reading_is_a_fault_that_names_topic_and_joint_until_readings_fit() -> None:
    reader, feed = observer()
    real = (0.5, -1.2, 1.4)
    feed(*real)
    feed(0.0, 0.0, 0.0)
    with pytest.raises(ImplausibleReading, match=r"/joint_states.*joint 'c'"):
        reader.measured("joint_position")
    feed(*real)  # back by a jump as well
    for _ in range(2):
        feed(*real)
        with pytest.raises(ImplausibleReading):
            reader.measured("joint_position")
    feed(*real)
    np.testing.assert_allclose(reader.measured("joint_position"), real)


def test_two_writers_that_disagree_never_give_a_reading() -> None:
    reader, feed = observer()
    feed(0.5, 0.0, 0.0)
    for _ in range(20):
        feed(1.5, 0.0, 0.0)
        with pytest.raises(ImplausibleReading):
            reader.measured("joint_position")
        feed(0.5, 0.0, 0.0)


def test_a_joint_may_move_as_fast_as_it_can_and_far_in_a_gap() -> None:
    check = JumpCheck(["a"], np.array([3.0]), Turns(["a"]))
    position, now_ns = 0.0, 0
    for passed_ns in (STEP_NS, STEP_NS, 0, STEP_NS, 500_000_000):
        now_ns += passed_ns
        position += 3.0 * passed_ns * 1e-9
        check.check(np.array([position]), now_ns, now_ns)


def test_nothing_is_looked_for_without_limits() -> None:
    reader, feed = observer(joint_velocity_limits=None)
    feed(0.5, -1.2, 1.4)
    feed(0.0, 0.0, 0.0)
    np.testing.assert_array_equal(reader.measured("joint_position"), 0.0)


def test_a_continuous_joint_goes_over_the_seam_without_a_jump_and_is_interpolated_there() -> None:
    """Kinovarobotics/ros2_kortex#32."""
    reader, feed = observer(continuous=["a"])
    feed(3.13, 0.0, 0.0)
    feed(-3.13, 0.0, 0.0)
    np.testing.assert_allclose(reader.measured("joint_position"), [-3.13, 0.0, 0.0])
    buffer = StampedBuffer(8, turns=Turns(["a", "b"], ["a"]))
    buffer.put(Sample(0, np.array([3.13, 3.13])))
    buffer.put(Sample(STEP_NS, np.array([-3.13, -3.13])))
    for share in (0.25, 0.75):
        found = buffer.at(int(share * STEP_NS), "linear")
        assert found is not None
        seen = found[0]
        expected = 3.13 + share * 2 * (math.pi - 3.13)
        assert math.cos(seen[0] - expected) == pytest.approx(1.0)
        assert seen[1] == pytest.approx(3.13 - share * 6.26)


@pytest.mark.parametrize(
    "wrong",
    [{"continuous": ["d"]}, {"joint_velocity_limits": 0}, {"joint_velocity_limits": [1, 2]}],
)
def test_limits_and_continuous_joints_are_those_of_the_robot(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(Ros2Config, {**CONTRACT, **wrong})


def test_changes_go_over_the_seam_and_are_recorded_as_they_were() -> None:
    """Kinovarobotics/ros2_kortex#32: the target was 0.2 rad ahead, the recorded action -6.08."""
    config = from_mapping(Ros2Config, {**CONTRACT, "continuous": ["a"]})
    free, turns = np.full(3, np.inf), Turns(config.joints, config.continuous)
    targets = make_targets(groups_of(config)[0].action, 0.02, 3, -free, free, turns)
    change = np.array([0.02, 0.0, 0.0])
    for measured in (3.11, 3.13, -3.13, -3.11):
        target, executed = targets.next(change, np.array([measured, 0.0, 0.0]))
        np.testing.assert_allclose(executed, change, atol=1e-12)
        assert 0.0 < target.values[0] - measured <= 0.03, "ahead of the joint, on its side"
    held = targets.hold(np.array([3.13, 0.0, 0.0]))  # a little back, over the seam
    assert held is not None
    assert held.values[0] == 3.13


def test_home_is_reached_the_short_way_round() -> None:
    joint, sent = np.array([3.0]), []

    def go(target: Target, duration_s: float) -> None:
        sent.append(float(target.values[0]))
        joint[0] = math.remainder(target.values[0], 2 * math.pi)

    config = HomeConfig(joints=(-3.0,), speed_rad_s=5.0, rate_hz=200.0, timeout_s=2.0)
    turns = Turns(["a"], ["a"])
    Homing(config, go, joint.copy, False, ("a",), 0.3, turns).go(np.random.default_rng(0))
    assert joint[0] == pytest.approx(-3.0)
    assert all(abs(position) > 2.9 for position in sent), "not by way of zero"


def test_what_is_commanded_is_not_read() -> None:
    action = {
        **CONTRACT["action"],
        "command": {"topic": "joint_states", "type": "sensor_msgs/msg/JointState"},
    }
    with pytest.raises(ConfigError, match=r"action\.command\.topic.*joint_position reads"):
        from_mapping(Ros2Config, {**CONTRACT, "action": action})
