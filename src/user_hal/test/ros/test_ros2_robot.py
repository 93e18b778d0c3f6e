"""The contract-driven driver against the simulated ROS robot, another process, over real DDS."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from user_comm.topic_io import RosTopicIo, open_topic_io
from user_core.config import from_mapping, load_yaml
from user_core.conformance import check_robot
from user_core.errors import DeviceTimeout
from user_core.reasons import SEVERAL_PUBLISHERS
from user_core.specs import check_arrays
from user_hal.cameras.ros_topic import RosTopicCamera, RosTopicCameraConfig
from user_hal.robots.ros2.commanding.targets import way
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until
from user_testing.worlds.robots.sim_ros_robot import SimProcess, failure

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo")


CONTRACTS = Path(__file__).parents[3] / "user_bringup" / "config" / "robots"
TRAJECTORY = {
    "topic": "/joint_trajectory_controller/joint_trajectory",
    "type": "trajectory_msgs/msg/JointTrajectory",
}
POSITIONS = {
    "topic": "/forward_position_controller/commands", "type": "std_msgs/msg/Float64MultiArray",
}  # fmt: skip
VELOCITIES = {
    "topic": "/forward_velocity_controller/commands", "type": "std_msgs/msg/Float64MultiArray",
}  # fmt: skip
JOINT_STATE = {"topic": "/joint_commands", "type": "sensor_msgs/msg/JointState"}
TWIST = {"topic": "/servo_node/delta_twist_cmds", "type": "geometry_msgs/msg/TwistStamped"}
POSE = {"topic": "/cartesian_controller/target_pose", "type": "geometry_msgs/msg/PoseStamped"}
#: On a busy machine a message may be late, which is refused; what is refused is tested with less.
PATIENT = {"connect_timeout_s": 60.0, "max_age_s": 2.0, "max_skew_s": 1.0}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimProcess]:
    params = {"arm": "ur5e", "task": "pick_place", "cameras": "[wrist]"}
    with SimProcess(tmp_path_factory.mktemp("sim"), params) as process:
        yield process


@pytest.fixture(scope="module")
def io() -> Iterator[RosTopicIo]:
    with open_topic_io("hal") as topics:
        yield topics


def contract(**action: Any) -> dict[str, Any]:
    """The ready contract of this robot, with another action, and without images."""
    params: dict[str, Any] = copy.deepcopy(
        load_yaml(CONTRACTS / "sim_ros_robot.yaml")["robot"]["params"]
    )
    params.pop("cameras")
    params["timing"] = dict(PATIENT)
    if action:
        params["action"] = {"low": -0.05, "high": 0.05, **action}
        params["home"].pop("gripper")
    return params


_made: list[Ros2Robot] = []


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    """A test that fails does not keep the robot from the next one."""
    yield
    while _made:
        _made.pop().close()


def connected(io: RosTopicIo, params: dict[str, Any]) -> Ros2Robot:
    robot = Ros2Robot(from_mapping(Ros2Config, params))
    _made.append(robot)
    robot.attach(io)
    robot.connect()
    return robot


def rest(robot: Ros2Robot) -> Any:
    """Wait until the robot stands still; returns the observation."""
    wait_until(lambda: np.abs(robot.read().arrays["joint_velocity"]).max() < 0.01)
    return robot.read()


def goes(robot: Ros2Robot, there: np.ndarray, *, within: float) -> None:
    """Wait until the joints are somewhere, and stay there. The last command may be late: it rests before that, too."""
    far = lambda: np.abs(robot.read().arrays["joint_position"] - there).max()  # noqa: E731
    wait_until(lambda: far() < within, "it is there", seen=far)
    np.testing.assert_allclose(rest(robot).arrays["joint_position"], there, atol=within)


def test_the_ready_contract_keeps_all_promises(sim: SimProcess, io: RosTopicIo) -> None:
    params = contract()
    robot = Ros2Robot(from_mapping(Ros2Config, params))
    robot.attach(io)
    report = check_robot(robot, steps=10)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("joint_delta", TRAJECTORY), ("joint_delta", POSITIONS), ("joint_delta", JOINT_STATE),
        ("joint_velocity", TRAJECTORY),
    ],
)  # fmt: skip
def test_joint_commands_arrive_where_they_say(
    sim: SimProcess, io: RosTopicIo, kind: str, command: dict[str, Any]
) -> None:
    robot = connected(io, contract(kind=kind, command=command))
    robot.reset()
    before = rest(robot).arrays["joint_position"].astype(float)
    total = np.zeros(6)
    action = np.array([0.05, 0.0, -0.03, 0.0, 0.02, 0.0], np.float32)
    for _ in range(6):
        total += robot.command(action)
        time.sleep(0.1)
    scale = 0.1 if kind == "joint_velocity" else 1.0
    assert np.abs(total).max() > 0.25
    goes(robot, before + total * scale, within=0.006)
    robot.close()


def test_joint_positions(sim: SimProcess, io: RosTopicIo) -> None:
    params = contract(kind="joint_position", command=TRAJECTORY, low=-6.28, high=6.28)
    robot = connected(io, params)
    first = robot.reset().arrays["joint_position"]
    goal = first + np.array([0.05, 0.05, -0.05, 0, 0, 0.1], np.float32)
    np.testing.assert_array_equal(robot.command(goal), goal)
    wait_until(lambda: np.abs(robot.read().arrays["joint_position"] - goal).max() < 0.01)
    robot.close()


def test_joint_velocities_go_on_until_the_stop(sim: SimProcess, io: RosTopicIo) -> None:
    params = contract(kind="joint_velocity", command=VELOCITIES, low=-0.3, high=0.3)
    robot = connected(io, params)
    robot.reset()
    before = rest(robot).arrays["joint_position"]
    robot.command(np.array([0.2, 0, 0, 0, 0, 0], np.float32))
    wait_until(lambda: robot.read().arrays["joint_position"][0] > before[0] + 0.06)
    robot.stop()
    stopped = rest(robot).arrays["joint_position"]
    time.sleep(0.3)
    np.testing.assert_allclose(robot.read().arrays["joint_position"], stopped, atol=0.003)
    robot.close()


@pytest.mark.parametrize("command", [TWIST, POSE])
def test_tool_changes_move_the_tool_in_the_base_frame(
    sim: SimProcess, io: RosTopicIo, command: dict[str, Any]
) -> None:
    robot = connected(io, contract(kind="ee_delta", command=command))
    robot.reset()
    before = rest(robot).arrays["tcp_pose"].astype(float)
    total, deadline_s, late_s = np.zeros(6), time.monotonic(), 0.0
    for _ in range(8):
        total += robot.command(np.array([0.008, -0.006, 0.004, 0, 0, 0.03], np.float32))
        deadline_s += 0.1
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        late_s = max(late_s, time.monotonic() - deadline_s)

    def moved() -> Any:
        return way(before, robot.read().arrays["tcp_pose"].astype(float))

    def arrived() -> bool:
        return np.allclose(moved()[:3], total[:3], atol=0.012) and np.allclose(
            moved()[3:], total[3:], atol=0.06
        )

    if command is POSE or late_s < 0.02:  # a twist that is held for longer goes further
        wait_until(arrived, seen=lambda: f"{moved()}, told {total}, {late_s:.3f} s late")
    robot.stop()
    rest(robot)
    ways = [moved()[:3], total[:3]]
    cosine = float(np.dot(*ways) / np.prod(np.linalg.norm(ways, axis=1)))
    assert cosine > 0.97 and np.linalg.norm(moved()[:3]) > 0.03, f"{moved()}, told {total}"
    robot.close()


def test_absolute_poses(sim: SimProcess, io: RosTopicIo) -> None:
    robot = connected(io, contract(kind="ee_pose", command=POSE, low=-1.0, high=1.0))
    goal = robot.reset().arrays["tcp_pose"].copy()
    goal[:3] += [0.03, 0.03, -0.02]
    robot.command(goal)
    wait_until(lambda: np.abs(robot.read().arrays["tcp_pose"][:3] - goal[:3]).max() < 0.004)
    robot.close()


def test_the_gripper_closes_and_opens(sim: SimProcess, io: RosTopicIo) -> None:
    robot = connected(io, contract())
    robot.reset()
    still = np.zeros(7, np.float32)
    wait_until(lambda: robot.read().arrays["gripper"][0] > 0.9)
    robot.command(still)
    wait_until(lambda: robot.read().arrays["gripper"][0] < 0.1)
    still[-1] = 1.0
    robot.command(still)
    wait_until(lambda: robot.read().arrays["gripper"][0] > 0.9)
    robot.close()


def test_images_belong_to_the_state(sim: SimProcess, io: RosTopicIo) -> None:
    params = load_yaml(CONTRACTS / "sim_ros_robot.yaml")["robot"]["params"]
    params["cameras"]["max_skew_s"] = 1.0
    params["timing"] = PATIENT
    robot = connected(io, params)
    for _ in range(5):
        observation = robot.read()
        check_arrays(observation.arrays, robot.spec.observation)
        time.sleep(0.05)
    assert observation.arrays["image_wrist"].std() > 5
    sim.set(io, "silent", ["/wrist_camera/image_raw"])
    wait_until(lambda: "camera 'wrist'" in failure(robot.read))
    sim.set(io, "silent", [""])
    wait_until(lambda: not failure(robot.read))
    robot.close()


def test_raw_and_compressed_images_show_the_same(sim: SimProcess, io: RosTopicIo) -> None:
    images = []
    for topic in ("/wrist_camera/image_raw", "/wrist_camera/image_raw/compressed"):
        config = RosTopicCameraConfig(topic=topic, width=128, height=96)
        camera = RosTopicCamera(config)
        camera.attach(io)
        camera.connect()
        frame = camera.read()
        assert abs(time.time_ns() - frame.stamp_ns) < 10**9
        images.append(frame.image_hwc.astype(int))
        camera.close()
    assert np.abs(images[0] - images[1]).mean() < 6
    found = {item.name for item in RosTopicCamera.discover_on(io)}
    assert "/wrist_camera/image_raw" in found


@pytest.mark.parametrize(
    "topic", ["/joint_states", "/tcp_pose_broadcaster/pose",
              "/force_torque_sensor_broadcaster/wrench"],
)  # fmt: skip
def test_a_topic_that_goes_silent_is_named_and_forgiven(
    sim: SimProcess, io: RosTopicIo, topic: str
) -> None:
    robot = connected(io, contract())
    try:
        sim.set(io, "silent", [topic])
        wait_until(lambda: f"topic '{topic}'" in failure(robot.read))
        assert "1 publishers" in failure(robot.read)
        robot.stop()
    finally:
        sim.set(io, "silent", [""])
    wait_until(lambda: not failure(robot.read))
    robot.command(np.zeros(7, np.float32))
    robot.close()


def test_late_states_are_refused(sim: SimProcess, io: RosTopicIo) -> None:
    params = contract()
    params["timing"]["max_age_s"] = 0.5
    robot = connected(io, params)
    try:
        sim.set(io, "delay_s", 0.8)
        wait_until(lambda: "a newest message 0." in failure(robot.read))
        time.sleep(1.0)
        assert "expected at most 0.5 s" in failure(robot.read), "late, not silent"
    finally:
        sim.set(io, "delay_s", 0.0)
    wait_until(lambda: not failure(robot.read))
    robot.close()


def test_a_robot_that_dies_and_comes_back_needs_no_new_driver(
    io: RosTopicIo, tmp_path: Path
) -> None:
    params = contract(kind="joint_delta", command={**TRAJECTORY, "topic": "/second/commands"})
    params["home"] = {}
    params["observation"] = {
        "joint_position": {**params["observation"]["joint_position"],
                           "topic": "/second/joint_states"},
    }  # fmt: skip
    names = {
        "joint_states": "/second/joint_states",
        "joint_trajectory_controller/joint_trajectory": "/second/commands",
        "__node": "second_robot",
    }
    with SimProcess(tmp_path, {"arm": "ur5e"}, names) as second:
        robot = connected(io, params)
        robot.read()
        second.kill()
        wait_until(lambda: "topic '/second/joint_states'" in failure(robot.read))
        second.start()
        wait_until(lambda: not failure(robot.read))
        robot.command(np.full(6, 0.01, np.float32))
        robot.close()
        assert second.interrupt() == 0


def test_topics_that_are_not_there_are_told_with_those_that_are(
    sim: SimProcess, io: RosTopicIo
) -> None:
    params = contract()
    params["timing"]["connect_timeout_s"] = 1.0
    params["observation"]["wrench"]["topic"] = "/ft_sensor_broadcaster/wrench"
    with pytest.raises(
        DeviceTimeout, match=r"'/ft_sensor_broadcaster/wrench'.*nobody publishes"
    ) as e:
        connected(io, params)
    assert "['/force_torque_sensor_broadcaster/wrench']" in str(e.value)


def test_several_publishers_of_the_joints_are_named(sim: SimProcess, io: RosTopicIo) -> None:
    """automaticaddison/yahboom_rosmaster#4, frankarobotics/franka_ros#230."""
    robot = connected(io, contract())
    assert robot.warnings() == []
    with open_topic_io("second_driver", namespace="/cell") as other:
        publisher = other.publisher("/joint_states", "sensor_msgs/msg/JointState")
        # the graph knows a publisher a little sooner than the name of its node
        wait_until(lambda: any("/cell/second_driver" in w.text for w in robot.warnings()))
        (warning,) = robot.warnings()
        assert warning.code == SEVERAL_PUBLISHERS
        assert "/sim_ros_robot" in warning.text
        if int(version("rclpy").partition(".")[0]) < 8:
            pytest.skip("rclpy of Jazzy does not tell whose a message is")
        message = publisher.new()
        message.name, message.position = ["a_finger_of_somebody"], [0.0]

        def speak_until(condition: Any) -> None:
            def spoken() -> bool:
                publisher.publish(message)
                return bool(condition())

            wait_until(spoken)

        speak_until(lambda: robot.warnings() == [])  # it has joints of its own
        message.header.stamp.sec, message.name = 1, ["elbow_joint"]
        speak_until(lambda: any("the same joints" in w.text for w in robot.warnings()))
        (warning,) = robot.warnings()
        assert "/cell/second_driver and /sim_ros_robot" in warning.text
        publisher.close()
    robot.close()
