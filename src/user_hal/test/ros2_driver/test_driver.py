"""The contract-driven driver, against an ideal arm on topics in this process."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.conformance import check_robot
from user_core.errors import (
    ConfigError,
    DeviceError,
    DeviceFault,
    DeviceNotConnected,
    DeviceTimeout,
    SpecError,
    SuiteError,
    TransportError,
)
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import Float64, Header, JointState, Time
from user_hal.fakes.topic_arm import JOINTS, TopicArm
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.topic_io import GET_STATE
from user_testing.waiting import wait_until

TRAJECTORY = {"topic": "/trajectory", "type": "trajectory_msgs/msg/JointTrajectory"}
POSITIONS = {"topic": "/positions/commands", "type": "std_msgs/msg/Float64MultiArray"}
VELOCITIES = {"topic": "/velocities/commands", "type": "std_msgs/msg/Float64MultiArray"}
JOINT_STATE = {"topic": "/joint_commands", "type": "sensor_msgs/msg/JointState"}
TWIST = {"topic": "/servo/twist", "type": "geometry_msgs/msg/TwistStamped"}
POSE = {"topic": "/servo/pose", "type": "geometry_msgs/msg/PoseStamped"}
GRIPPER = {
    "topic": "/gripper", "type": "control_msgs/action/GripperCommand",
    "closed": 0.0, "opened": 0.04, "max_effort": 20.0,
}  # fmt: skip
CONTRACT: dict[str, Any] = {
    "robot": "toy",
    "joints": list(JOINTS),
    "base_frame": "base",
    "period_s": 0.02,
    "observation": {
        "joint_position": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
        },
        "tcp_pose": {
            "topic": "/tcp_pose_broadcaster/pose", "type": "geometry_msgs/msg/PoseStamped",
            "field": "pose", "frame": "base",
        },
        "gripper": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
            "names": ["finger"], "scale": [25.0], "low": 0, "high": 1,
        },
    },
    "action": {"kind": "joint_delta", "low": -0.1, "high": 0.1, "command": TRAJECTORY},
    "timing": {"connect_timeout_s": 0.5, "max_age_s": 0.25},
}  # fmt: skip


def contract(**changes: Any) -> dict[str, Any]:
    """The contract with values put in at dotted paths; ``None`` takes a key away."""
    result = copy.deepcopy(CONTRACT)
    for path, value in changes.items():
        *way, last = path.replace("__", ".").split(".")
        place = result
        for key in way:
            place = place.setdefault(key, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return result


def action_of(kind: str, command: dict[str, Any], **rest: Any) -> dict[str, Any]:
    bound = 0.1 if kind != "ee_pose" else 1.0
    return {"kind": kind, "low": -bound, "high": bound, "command": command, **rest}


@pytest.fixture
def io() -> LocalTopics:
    return LocalTopics()


@pytest.fixture
def arm(io: LocalTopics) -> Iterator[TopicArm]:
    with TopicArm(io) as arm:
        yield arm


def make(io: LocalTopics, **changes: Any) -> Ros2Robot:
    robot = Ros2Robot(from_mapping(Ros2Config, contract(**changes)))
    robot.attach(io)
    return robot


def connected(io: LocalTopics, **changes: Any) -> Ros2Robot:
    robot = make(io, **changes)
    robot.connect()
    return robot


def test_the_spec_is_known_without_topics() -> None:
    spec = Ros2Robot(from_mapping(Ros2Config, contract(action__gripper=GRIPPER))).spec
    assert spec.observation["joint_position"].names == JOINTS
    assert spec.observation["joint_position"].unit == "rad"
    assert spec.observation["tcp_pose"].frame == "base"
    assert spec.observation["gripper"].shape == (1,)
    assert spec.action.names == (*JOINTS, "gripper")
    assert spec.action.low == (-0.1, -0.1, -0.1, 0.0) and spec.action.high == (0.1, 0.1, 0.1, 1.0)
    assert not spec.lockstep and not spec.task_reward


def test_an_observation_has_all_topics_at_one_moment(io: LocalTopics, arm: TopicArm) -> None:
    arm.joints, arm.gripper_m = np.array([0.1, 0.2, 0.3]), 0.02
    robot = connected(io)
    wait_until(lambda: np.allclose(robot.read().arrays["joint_position"], [0.1, 0.2, 0.3]))
    observation = robot.read()
    np.testing.assert_allclose(observation.arrays["gripper"], [0.5])
    np.testing.assert_allclose(observation.arrays["tcp_pose"], arm.pose)
    assert 0 <= io.now_ns() - observation.stamp_ns < 25 * 10**7
    robot.close()
    with pytest.raises(DeviceNotConnected):
        robot.read()


@pytest.mark.parametrize("command", [TRAJECTORY, POSITIONS, JOINT_STATE])
def test_joint_changes_move_the_joints(
    io: LocalTopics, arm: TopicArm, command: dict[str, Any]
) -> None:
    robot = connected(io, action=action_of("joint_delta", command))
    for _ in range(3):
        sent = robot.command(np.array([0.05, -0.2, 0.0], np.float32))
        np.testing.assert_allclose(sent, [0.05, -0.1, 0.0], atol=1e-7)
    np.testing.assert_allclose(arm.joints, [0.15, -0.3, 0.0], atol=1e-6)
    applied = robot.read().applied
    assert applied is not None and applied.changed and applied.sequence == 3
    if command is TRAJECTORY:
        point = arm.received["/trajectory"][-1].points[0]
        assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 20_000_000)
    robot.close()


def test_joint_positions_and_their_limits(io: LocalTopics, arm: TopicArm) -> None:
    action = action_of("joint_position", POSITIONS, target_high=0.05)
    robot = connected(io, action=action)
    sent = robot.command(np.array([0.08, -0.08, 0.0], np.float32))
    np.testing.assert_allclose(sent, [0.05, -0.08, 0.0], atol=1e-7)
    np.testing.assert_allclose(arm.joints, sent, atol=1e-7)
    robot.close()


@pytest.mark.parametrize("command", [VELOCITIES, JOINT_STATE])
def test_joint_velocities_and_their_stop(
    io: LocalTopics, arm: TopicArm, command: dict[str, Any]
) -> None:
    robot = connected(io, action=action_of("joint_velocity", command))
    robot.command(np.array([0.1, 0.0, -0.1], np.float32))
    wait_until(lambda: arm.joints[0] > 0.01 and arm.joints[2] < -0.01)
    robot.stop()
    before = arm.joints.copy()
    time.sleep(0.05)
    np.testing.assert_array_equal(arm.joints, before)
    robot.close()


def test_tool_changes_as_twists_and_their_stop(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(io, action=action_of("ee_delta", TWIST, rotation=False))
    robot.command(np.array([0.002, 0.0, -0.001], np.float32))
    message = arm.received["/servo/twist"][-1]
    assert message.header.frame_id == "base"
    assert message.twist.linear.x == pytest.approx(0.1, rel=1e-5)
    robot.stop()
    robot.stop()
    assert [m.twist.linear.x for m in arm.received["/servo/twist"][1:]] == [0.0, 0.0]
    robot.close()


def test_tool_changes_as_poses_and_absolute_poses(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(io, action=action_of("ee_delta", POSE))
    sent = robot.command(np.array([0.01, 0, -0.02, 0, 0, 0.1], np.float32))
    np.testing.assert_allclose(arm.pose[:3], [0.41, 0.0, 0.28], atol=1e-6)
    np.testing.assert_allclose(sent, [0.01, 0, -0.02, 0, 0, 0.1], atol=1e-6)
    robot.close()
    robot = connected(io, action=action_of("ee_pose", POSE))
    sent = robot.command(np.array([0.5, 0.1, 0.2, 0.0, 1.0, 0.0, 0.0], np.float32))
    np.testing.assert_allclose(arm.pose, [0.5, 0.1, 0.2, 0.0, 1.0, 0.0, 0.0], atol=1e-6)
    with pytest.raises(SpecError, match="quaternion"):
        robot.command(np.zeros(7, np.float32))
    robot.close()


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        (GRIPPER, [0.04, 0.01]),
        ({"topic": "/grip", "type": "std_msgs/msg/Float64", "closed": 255, "opened": 0}, [0, 191.25]),
        (
            {"topic": "/grip", "type": "std_msgs/msg/Float64MultiArray", "closed": 0, "opened": 1},
            [[1.0], [0.25]],
        ),
        (
            {"topic": "/grip", "type": "sensor_msgs/msg/JointState", "closed": 0, "opened": 0.04,
             "joints": ["l", "r"]},
            [[0.04, 0.04], [0.01, 0.01]],
        ),
        (
            {"topic": "/grip", "type": "trajectory_msgs/msg/JointTrajectory", "closed": 0,
             "opened": 0.8, "joints": ["knuckle"]},
            [[0.8], [0.2]],
        ),
        (
            {"topic": "/grip", "type": "control_msgs/action/ParallelGripperCommand", "closed": 0.8,
             "opened": 0, "joints": ["knuckle"], "max_effort": 5},
            [[0.0], [0.6]],
        ),
    ],
)  # fmt: skip
def test_every_kind_of_gripper(
    io: LocalTopics, arm: TopicArm, changes: dict[str, Any], values: list[Any]
) -> None:
    got: list[Any] = []
    if changes["type"].startswith("control_msgs/action/"):
        take = lambda goal: got.append(goal.command.position)  # noqa: E731
        io.serve(changes["topic"], changes["type"], take)
    else:
        io.subscribe("/grip", changes["type"], lambda m: got.append(_gripper_value(m)))
    robot = connected(io, action__gripper=changes)
    for opening, held in ((1.0, 1.0), (0.999, 1.0), (0.25, 0.25), (0.25, 0.25)):
        sent = robot.command(np.array([0, 0, 0, opening], np.float32))
        assert sent[3] == pytest.approx(held)
    assert got == [pytest.approx(value) for value in values]
    robot.close()


def _gripper_value(message: Any) -> Any:
    for field in ("data", "position"):
        if hasattr(message, field):
            return getattr(message, field)
    return message.points[0].positions


def test_conformance(io: LocalTopics, arm: TopicArm) -> None:
    report = check_robot(make(io, home__joints=[0.1, 0.0, -0.1], home__speed_rad_s=5.0))
    assert report.passed, str(report)


# -- home, services, stop ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        action_of("joint_delta", TRAJECTORY), action_of("joint_position", POSITIONS),
        action_of("joint_velocity", VELOCITIES), action_of("joint_delta", JOINT_STATE),
    ],
)  # fmt: skip
def test_reset_goes_home_at_limited_speed(
    io: LocalTopics, arm: TopicArm, action: dict[str, Any]
) -> None:
    home = [0.2, -0.1, 0.05]
    robot = connected(io, action=action, home__joints=home, home__speed_rad_s=1.0)
    steps: list[float] = []
    last = [arm.joints.copy(), time.monotonic()]

    def watch(message: Any) -> None:
        now = time.monotonic()
        if now > last[1] + 0.02:
            steps.append(float(np.abs(arm.joints - last[0]).max() / (now - last[1])))
            last[:] = [arm.joints.copy(), now]

    io.subscribe("/joint_states", "sensor_msgs/msg/JointState", watch)
    start_s = time.monotonic()
    first = robot.reset()
    duration_s = time.monotonic() - start_s
    np.testing.assert_allclose(first.arrays["joint_position"], home, atol=0.021)
    assert duration_s > 0.15, "0.2 rad at 1 rad/s"
    assert np.median(steps) < 1.6
    assert first.episode == 1 and robot.reset().episode == 2
    robot.close()


def test_home_by_the_tool_and_by_another_topic(io: LocalTopics, arm: TopicArm) -> None:
    pose = [0.42, 0.02, 0.31, 1.0, 0.0, 0.0, 0.0]
    for command in (TWIST, POSE):
        arm.pose = np.array([0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
        robot = connected(io, action=action_of("ee_delta", command), home__pose=pose)
        robot.reset()
        np.testing.assert_allclose(arm.pose[:3], pose[:3], atol=0.006)
        robot.close()
    robot = connected(
        io, action=action_of("ee_delta", TWIST), home__joints=[0.1, 0, 0], home__command=TRAJECTORY
    )
    robot.reset()
    np.testing.assert_allclose(arm.joints, [0.1, 0, 0], atol=0.021)
    robot.close()


def test_a_seed_makes_the_start_reproducible(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(
        io, home__joints=[0.0] * 3, home__noise=0.1, home__speed_rad_s=5.0,
        home__tolerance_rad=0.001,
    )  # fmt: skip
    starts = [robot.reset(seed).arrays["joint_position"] for seed in (1, 2, 1)]
    np.testing.assert_allclose(starts[0], starts[2], atol=0.003)
    assert np.abs(starts[0] - starts[1]).max() > 0.01
    robot.close()


def test_a_blocked_way_home_is_a_timeout_that_says_what_is_off(
    io: LocalTopics, arm: TopicArm
) -> None:
    robot = connected(io, home__joints=[0.0, 0.5, 0.0], home__timeout_s=0.5, home__speed_rad_s=5.0)
    arm.blocked = True
    with pytest.raises(DeviceTimeout, match=r"home is not reached.*elbow is \+0\.500 rad off"):
        robot.reset()
    furthest = max(message.points[0].positions[1] for message in arm.received["/trajectory"])
    assert 0.3 <= furthest <= 0.3 + 5.0 / 50, "targets ran away from a blocked joint"
    assert arm.received["/trajectory"][-1].points[0].positions[1] == pytest.approx(0.0)
    arm.blocked = False
    robot.reset()
    robot.close()


def test_stop_from_another_thread_ends_the_way_home(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(io, home__joints=[3.0, 0.0, 0.0], home__speed_rad_s=0.5)
    timer = threading.Timer(0.1, robot.stop)
    timer.start()
    with pytest.raises(DeviceError, match="the robot was stopped"):
        robot.reset()
    timer.join()
    before = arm.joints.copy()
    time.sleep(0.05)
    np.testing.assert_array_equal(arm.joints, before)
    assert 0 < before[0] < 1.0
    robot.close()


def test_services_before_and_after(io: LocalTopics, arm: TopicArm) -> None:
    calls: list[str] = []

    def answer(name: str, success: bool) -> Any:
        def serve(_: Any) -> Any:
            calls.append(name)
            return SimpleNamespace(success=success, message="no power")

        return serve

    io.services["/zero_ft"] = answer("/zero_ft", True)
    io.services["/ready"] = answer("/ready", False)
    robot = connected(io, home__before=[{"service": "/zero_ft"}])
    robot.reset()
    assert calls == ["/zero_ft"]
    robot.close()
    robot = connected(
        io, home__before=[{"service": "/zero_ft"}], home__after=[{"service": "/ready"}]
    )
    with pytest.raises(DeviceFault, match="service '/ready': got no: no power"):
        robot.reset()
    robot.close()
    robot = connected(io, home__before=[{"service": "/nope"}])
    with pytest.raises(DeviceTimeout, match="/nope"):
        robot.reset()
    robot.close()


def test_stop_holds_where_the_robot_is_and_close_stops(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(io)
    robot.command(np.array([0.05, 0, 0], np.float32))
    arm.joints = np.array([0.3, 0.3, 0.3])
    wait_until(lambda: np.allclose(robot.read().arrays["joint_position"], 0.3))
    robot.stop()
    np.testing.assert_allclose(arm.received["/trajectory"][-1].points[0].positions, [0.3] * 3)
    arm.joints = np.array([0.29, 0.3, 0.3])  # it sags, and is not left there by a second stop
    wait_until(lambda: np.allclose(robot.read().arrays["joint_position"][0], 0.29))
    robot.stop()
    np.testing.assert_allclose(arm.joints, [0.3] * 3)
    wait_until(lambda: np.allclose(robot.read().arrays["joint_position"], 0.3))
    robot.command(np.array([0.05, 0, 0], np.float32))
    np.testing.assert_allclose(arm.joints, [0.35, 0.3, 0.3], atol=1e-6)
    count = len(arm.received["/trajectory"])
    robot.close()
    assert len(arm.received["/trajectory"]) == count + 1
    robot.stop()
    robot.close()


# -- what bad input gets -------------------------------------------------------------------------


def expect_recovery(robot: Ros2Robot, message: str, error: type[SuiteError]) -> None:
    def failure() -> str:
        try:
            robot.read()
        except error as caught:
            return str(caught)
        return ""

    wait_until(lambda: failure())
    with pytest.raises(error, match=message):
        robot.read()


@pytest.mark.parametrize("topic", ["/joint_states", "/tcp_pose_broadcaster/pose"])
def test_a_silent_topic_is_named_and_forgiven_when_it_speaks(
    io: LocalTopics, arm: TopicArm, topic: str
) -> None:
    robot = connected(io)
    arm.silent.add(topic)
    expect_recovery(robot, f"topic '{topic}'.*a newest message .* s old", DeviceTimeout)
    if topic == "/joint_states":
        with pytest.raises(DeviceTimeout, match=topic):
            robot.command(np.zeros(3, np.float32))
    robot.stop()  # blind, and still possible
    arm.silent.clear()
    wait_until(lambda: _reads(robot))
    robot.command(np.zeros(3, np.float32))
    robot.close()


def _reads(robot: Ros2Robot) -> bool:
    try:
        robot.read()
    except DeviceError:
        return False
    return True


def test_numbers_that_are_not_finite_and_foreign_frames(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(io)
    arm.joints = np.array([0.0, np.nan, 0.0])
    expect_recovery(robot, r"'/joint_states'.*'position': elbow: got nan", DeviceFault)
    arm.joints = np.zeros(3)
    wait_until(lambda: _reads(robot))
    robot.close()
    with pytest.raises(DeviceFault, match=r"header.frame_id: got 'base', expected world"):
        connected(io, observation__tcp_pose__frame="world")


def test_clocks_that_are_not_synchronised_are_told(io: LocalTopics) -> None:
    arm = TopicArm(io)
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.002):
            arm.publish(io.now_ns() + 3 * 10**9)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with pytest.raises(
            DeviceFault, match=r"stamps (2\.9|3\.0).* s ahead.*Synchronise the clocks"
        ):
            connected(io)
        by_arrival = {f"observation__{name}__stamp": "arrival" for name in CONTRACT["observation"]}
        connected(io, **by_arrival).close()
    finally:
        stop.set()
        thread.join()


def subscribe(robot: Ros2Robot, io: LocalTopics) -> None:
    """As connect does, without waiting for anything."""
    robot._observer.subscribe(io)


def test_simulated_time_is_recognised(io: LocalTopics) -> None:
    arm = TopicArm(io)
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.002):
            arm.publish(7 * 10**9)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with pytest.raises(
            DeviceTimeout, match=r"simulated time .use_sim_time..*set stamp: arrival"
        ):
            connected(io)
    finally:
        stop.set()
        thread.join()


def test_topics_that_do_not_fit_in_time_are_told() -> None:
    now = [10**18]
    io = LocalTopics(lambda: now[0])
    arm = TopicArm(io)
    robot = make(io, timing__max_skew_s=0.01, timing__connect_timeout_s=0.05)
    robot._drives[0].open(io)
    subscribe(robot, io)
    arm.silent = {"/tcp_pose_broadcaster/pose"}
    for age_ms in (50, 30, 0):
        arm.publish(10**18 - age_ms * 10**6)
    arm.silent = {"/joint_states"}
    arm.publish(10**18 - 15 * 10**6)
    with pytest.raises(DeviceTimeout, match="joint_states.*no message nearer than 0.015 s"):
        robot.read()
    now[0] += 10**6
    arm.silent = set()
    arm.publish(now[0])
    assert robot.read().stamp_ns == now[0]


def test_linear_resampling_to_the_common_moment() -> None:
    now = [10**18]
    io = LocalTopics(lambda: now[0])
    arm = TopicArm(io)
    robot = make(io)
    robot._drives[0].open(io)
    subscribe(robot, io)
    arm.silent = {"/tcp_pose_broadcaster/pose"}
    for age_ms, joint in ((20, 1.0), (10, 2.0), (0, 3.0)):
        arm.joints = np.full(3, joint)
        arm.publish(10**18 - age_ms * 10**6)
    arm.silent = {"/joint_states"}
    arm.publish(10**18 - 4 * 10**6)
    observation = robot.read()
    assert observation.stamp_ns == 10**18 - 4 * 10**6
    np.testing.assert_allclose(observation.arrays["joint_position"], 2.6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"observation__joint_position__topic": "/joint_state"},
            DeviceTimeout,
            r"'/joint_state' \(observation 'joint_position'\): got nobody publishes it within 0.5 s, "
            r"expected sensor_msgs/msg/JointState; .*\['/joint_commands', '/joint_states'\]; did you mean "
            r"'/joint_states'",
        ),
        (
            {"observation__joint_position__topic": "/tcp_pose_broadcaster/pose"},
            DeviceTimeout,
            "it carries geometry_msgs/msg/PoseStamped",
        ),
        (
            {"observation__joint_position__field": "positions"},
            ConfigError,
            r"field 'positions': got sensor_msgs/msg/JointState has no 'positions'.*did you mean",
        ),
        (
            {"observation__gripper__names": ["fingr"]},
            DeviceFault,
            r"none with \['fingr'\] in 'name'.*\['elbow', 'finger', .*did you mean 'finger'",
        ),
        (
            {"observation__effort": {"topic": "/joint_states", "field": "effort",
                                     "type": "sensor_msgs/msg/JointState"}},
            DeviceFault,
            "'effort': got .* with names and no numbers.*The publisher leaves it empty",
        ),
        (
            {"observation__gripper__type": "sensor_msgs/msg/JointStates"},
            TransportError,
            "interface 'sensor_msgs/msg/JointStates'",
        ),
        (
            {"action__command": {**TRAJECTORY, "topic": "/arm/joint_trajectory"}},
            DeviceTimeout,
            r"command topic '/arm/joint_trajectory': got nobody listens to it within 0.5 s, "
            r"expected a controller .*\['/trajectory'\]. Activate the controller",
        ),
        (
            {"action__gripper": {**GRIPPER, "topic": "/no_gripper"}},
            DeviceTimeout,
            "'/no_gripper': got nobody listens",
        ),
        (
            {"cameras__devices": {"wrist": {"plugin": "user_hal.cameras.ros_topic:RosTopicCamera",
                "params": {"topic": "/cam", "width": 8, "height": 8, "connect_timeout_s": 0.05}}}},
            DeviceTimeout,
            "camera 'wrist': camera '/cam': got nobody published it",
        ),
    ],
)  # fmt: skip
def test_a_contract_that_names_what_is_not_there(
    io: LocalTopics, arm: TopicArm, changes: dict[str, Any], error: type[SuiteError], message: str
) -> None:
    robot = make(io, **changes)
    with pytest.raises(error, match=message):
        robot.connect()
    with pytest.raises(DeviceNotConnected):
        robot.read()
    assert not [end for end in io._publishers if end.topic == "/trajectory"], "left open"


def test_what_is_there_later_can_be_connected_to_later(io: LocalTopics) -> None:
    robot = make(io, timing__connect_timeout_s=0.05)
    with pytest.raises(DeviceTimeout, match="nobody publishes it"):
        robot.connect()
    with TopicArm(io):
        robot.connect()
        robot.read()
        robot.close()


def test_wrong_actions_are_refused_before_anything_is_sent(io: LocalTopics, arm: TopicArm) -> None:
    robot = connected(io)
    for wrong in (
        np.zeros(4, np.float32), np.zeros(3), np.full(3, np.nan, np.float32),
        np.zeros((1, 3), np.float32),
    ):  # fmt: skip
        with pytest.raises(SpecError, match="action of 'toy'"):
            robot.command(wrong)
    assert "/trajectory" not in arm.received
    robot.close()


def test_topics_are_needed() -> None:
    robot = Ros2Robot(from_mapping(Ros2Config, CONTRACT))
    with pytest.raises(DeviceNotConnected, match="attach"):
        robot.connect()
    with pytest.raises(DeviceNotConnected, match="connect"):
        robot.command(np.zeros(3, np.float32))


def test_a_topic_of_plain_numbers_without_a_header(io: LocalTopics, arm: TopicArm) -> None:
    publisher = io.publisher("/force", "std_msgs/msg/Float64")
    source = {"topic": "/force", "type": "std_msgs/msg/Float64", "field": "data",
              "layout": "scalar", "resample": "latest", "max_age_s": 5.0, "unit": "N"}  # fmt: skip
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            publisher.publish(Float64(7.5))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        robot = connected(io, observation__force=source)
        assert robot.read().arrays["force"].tolist() == [7.5]
        robot.close()
    finally:
        stop.set()
        thread.join()


def test_partial_joint_states_from_two_publishers(io: LocalTopics) -> None:
    """An arm and a gripper that share /joint_states, each with its own joints."""
    publisher = io.publisher("/joint_states", "sensor_msgs/msg/JointState")
    other = TopicArm(io)
    other.silent = {"/joint_states"}
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.002):
            stamp = Header(Time(*divmod(io.now_ns(), 10**9)))
            publisher.publish(JointState(stamp, list(JOINTS), [1.0, 2.0, 3.0]))
            publisher.publish(JointState(stamp, ["finger"], [0.01]))
            other.publish()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        robot = connected(io)
        arrays = robot.read().arrays
        np.testing.assert_allclose(arrays["joint_position"], [1.0, 2.0, 3.0])
        np.testing.assert_allclose(arrays["gripper"], [0.25])
        robot.close()
    finally:
        stop.set()
        thread.join()


def test_discover_tells_what_could_be_a_robot(io: LocalTopics, arm: TopicArm) -> None:
    found = {item.name: item.detail for item in Ros2Robot.discover_on(io)}
    assert "/trajectory" in found["/joint_states"]


def test_a_managed_node_behind_a_silent_topic_is_named(io: LocalTopics, arm: TopicArm) -> None:
    arm.silent.add("/joint_states")
    real = io.service_types
    io.service_types = lambda: {**real(), "/local_1/get_state": [GET_STATE]}  # type: ignore[method-assign]
    with pytest.raises(DeviceTimeout, match="/local_1 is a managed node, silent unless active"):
        connected(io)
