"""`user check robot` and `user robots propose` on robots that speak real topics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from user_comm.topic_io import open_topic_io
from user_core.config import load_yaml
from user_hal.cli import check, robots
from user_hal.proposing.draft import draft_of
from user_hal.proposing.questions import Question
from user_hal.proposing.survey import survey
from user_hal.topic_io import TopicIo
from user_testing.waiting import wait_until
from user_testing.worlds.robots.proposed_robots import (
    LEFT,
    RIGHT,
    UR_JOINTS,
    like_ur,
    namesakes,
    two_arms,
    two_halves,
)
from user_testing.worlds.robots.ros_driver import Driver, RosDriver

JOINT_STATE = "sensor_msgs/msg/JointState"
#: For a machine with other work: what is late for seconds does not stop the robot.
PATIENT = {"connect_timeout_s": 20.0, "max_age_s": 3.0, "max_skew_s": 0.5}


def run(*words: str) -> tuple[int, str]:
    console = Console(record=True, width=200, force_terminal=False)
    status = check.main(list(words), console)
    return status, console.export_text()


def patient(path: Path, **more: Any) -> Path:
    """A contract with time for a machine that has other work; ``more`` of its parameters."""
    data = load_yaml(path)
    params = data["robot"]["params"]
    params["timing"] = {**PATIENT, **more.pop("timing", {})}
    if "cameras" in params:
        params["cameras"]["max_skew_s"] = 1.0
        for device in params["cameras"]["devices"].values():
            device["params"]["max_age_s"] = 3.0
    params.update(more)
    data["safety"]["max_observation_age_s"] = 3.0
    data["safety"]["watchdog_s"] = 3.0
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@contextmanager
def proposed(driver: Driver, path: Path) -> Iterator[dict[str, Any]]:
    """The parameters of what is proposed for a robot, which runs meanwhile."""
    with RosDriver(driver), open_topic_io("waiting") as io:
        wait_for(driver, io)
        console = Console(record=True, width=200, force_terminal=False)
        words = ["propose", "--seconds", "1.5", "-o", str(path), "--no-questions"]
        assert robots.main(words, console) == 0, console.export_text()
        assert "TODO" in console.export_text()
        yield load_yaml(path)["robot"]["params"]


def wait_for(driver: Driver, io: TopicIo) -> None:
    """Until everything of a robot is in the graph."""
    servers = [
        f"{command.topic}/_action/send_goal" if "/action/" in command.type else ""
        for command in driver.commands
    ] + [service.name for service in driver.services]

    def there() -> bool:
        services = io.service_types()
        return (
            all(name in services for name in servers if name)
            and all(io.endpoints(state.topic)[0] for state in driver.states)
            and all(io.endpoints(c.topic)[1] for c in driver.commands if "/msg/" in c.type)
        )

    wait_until(there)


def test_an_arm_like_a_ur_is_proposed_right_but_for_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "ur.yaml"
    with proposed(like_ur(), path) as params:
        assert params["robot"] == "ur5e" and params["base_frame"] == "base"
        assert params["joints"] == list(UR_JOINTS), "the URDF's order, not the message's"
        assert params["joint_velocity_limits"] == 3.14
        seen = params["observation"]
        assert seen["joint_position"] == {
            "topic": "/joint_states", "type": JOINT_STATE, "field": "position",
        }  # fmt: skip
        assert seen["tcp_pose"]["topic"] == "/tcp_pose_broadcaster/pose"
        assert seen["wrench"]["frame"] == "tool0_controller"
        assert seen["gripper"]["names"] == ["robotiq_knuckle"], "not the one that mimics it"
        assert seen["gripper"]["scale"] == -1.25 and seen["gripper"]["offset"] == 1.0
        action = params["action"]
        assert action["command"]["topic"] == "/scaled_joint_trajectory_controller/joint_trajectory"
        assert (action["kind"], action["target_low"], action["target_high"]) == ("joint_delta", -6.28, 6.28)  # fmt: skip
        assert action["gripper"]["topic"] == "/robotiq_gripper_controller/gripper_cmd"
        assert (action["gripper"]["closed"], action["gripper"]["opened"]) == (0.8, 0.0)
        devices = params["cameras"]["devices"]
        assert devices["wrist"]["params"]["topic"] == "/wrist/color/image_raw"
        assert devices["wrist_depth"]["params"]["kind"] == "depth"
        text = path.read_text()
        for question in ("Which topic commands", "How far may one action", "Which number closes",
                         "Where does an episode start"):  # fmt: skip
            assert f"# TODO: {question}" in text
        assert "/servo_node/delta_twist_cmds" in text
        status, report = run(str(patient(path)), "--no-motion", "--seconds", "2")
        assert status == 0, report
        assert "controller scaled_joint_trajectory_controller is active" in report
        status, report = run(str(path), "--yes", "--seconds", "1", "--steps", "3")
        assert status == 0, report
        assert "7 of 7 moved as told, there and back" in report


def test_an_inactive_controller_is_named_and_nothing_moves(tmp_path: Path) -> None:
    path = tmp_path / "ur.yaml"

    def answer(question: Question) -> Any:
        choices = question.choices
        return "/forward_position_controller/commands" if choices else question.default

    joints = UR_JOINTS[:2]  # each that does not move is waited for
    with RosDriver(like_ur(joints=joints)) as robot, open_topic_io("proposing") as io:
        wait_for(robot.driver, io)
        draft = draft_of(survey(io, 1.0), answer)
        assert not draft.open, "everything was answered"
        assert "# TODO" not in str(draft.comments) or "inactive" in str(draft.comments)
        path.write_text(yaml.safe_dump(draft.data, sort_keys=False))
        status, report = run(str(patient(path, cameras={"devices": {}})), "--yes", "--seconds", "1")
        assert status == 1
        assert "FAIL controller forward_position_controller" in report
        assert "is inactive; scaled_joint_trajectory_controller has its joints" in report
        assert "switch_controllers --activate forward_position_controller --deactivate" in report
        assert f"did not move: {', '.join(joints)}" in report
        assert "1 of 3 moved as told" in report, "the gripper's controller is active"


def test_two_arms_are_two_groups_with_a_gripper_each(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    with proposed(two_arms(), path) as params:
        groups = params["groups"]
        assert list(groups) == ["left", "right"] and "joints" not in params
        for name, joints in (("left", LEFT), ("right", RIGHT)):
            group = groups[name]
            assert group["joints"] == list(joints)
            assert group["action"]["command"]["topic"] == f"/{name}_arm_controller/joint_trajectory"
            assert group["action"]["gripper"]["topic"] == f"/{name}_gripper_controller/gripper_cmd"
            assert group["action"]["gripper"]["opened"] == 0.04
            assert params["observation"][f"{name}.gripper"]["names"] == [f"{name}_finger"]
        status, report = run(str(patient(path)), "--yes", "--seconds", "1", "--steps", "3")
        assert status == 0, report
        assert "8 of 8 moved as told, there and back" in report


def test_two_arms_in_halves_are_told_apart_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "halves.yaml"
    with proposed(two_halves(), path) as params:
        parts = params["observation"]["joint_position"]["parts"]
        assert [part["topic"] for part in parts] == ["/left/joint_states", "/right/joint_states"]
        assert {n: g["action"]["command"]["topic"] for n, g in params["groups"].items()} == {
            "left": "/left/commands", "right": "/right/commands",
        }  # fmt: skip
        assert "joints, in this order?" in path.read_text()
        status, report = run(str(patient(path)), "--no-motion", "--seconds", "1")
        assert status == 0, report


def test_two_arms_with_the_same_names_of_joints_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "namesakes.yaml"
    with proposed(namesakes(), path) as params:
        assert params["groups"]["right"]["joints"] == [f"right_joint{n}" for n in (1, 2, 3)]
        status, report = run(str(patient(path)), "--yes", "--seconds", "1", "--steps", "3")
        assert status == 0, report
        assert "6 of 6 moved as told, there and back" in report


# --- readings, qualities of service, clocks, names ---

CONTRACT = """
robot:
  plugin: ros2
  params:
    robot: two_topics
    joints: [a, b]
    observation:
      joint_position: {topic: joints, type: sensor_msgs/msg/JointState, field: position%s}
      other: {topic: others, type: sensor_msgs/msg/JointState, field: position, size: 1, low: 0, high: 1}
    action:
      kind: joint_delta
      low: -0.05
      high: 0.05
      command: {topic: commands, type: std_msgs/msg/Float64MultiArray}
    timing: {connect_timeout_s: 20.0, max_age_s: 3.0, max_skew_s: %s}
safety: {watchdog_s: 2.0, max_observation_age_s: 2.0}
"""


@contextmanager
def publishing(
    namespace: str = "", apart_s: float = 0.01, simulated: bool = False, reliable: bool = True
) -> Iterator[TopicIo]:
    """Two topics at 10 Hz, stamped 10 ms apart, but ``apart_s`` once in 8 times; joints go at once
    where they are told. With ``simulated`` the clock began 100 s ago, and is published."""
    end = threading.Event()
    with open_topic_io("robot", namespace=namespace) as io:
        position = [0.1, 0.2]
        joints = io.publisher("joints", JOINT_STATE, reliable=reliable)
        others = io.publisher("others", JOINT_STATE)
        clock = io.publisher("/clock", "rosgraph_msgs/msg/Clock") if simulated else None
        io.subscribe(
            "commands",
            "std_msgs/msg/Float64MultiArray",
            lambda message: position.__setitem__(slice(0, 2), list(message.data)),
        )
        begin_ns = io.now_ns() - 100_000_000_000 if simulated else 0

        def send(publisher: Any, names: list[str], values: list[float], stamp_ns: int) -> None:
            message = publisher.new()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
            message.name, message.position = names, values
            publisher.publish(message)

        def play() -> None:
            # what is late is late, but none is left out: stamps are as they should be
            first_ns = (io.now_ns() - begin_ns) // 100_000_000 * 100_000_000 + 100_000_000
            counts = [0, 0]
            while not end.wait(0.005):
                now_ns = io.now_ns() - begin_ns
                if clock is not None:
                    message = clock.new()
                    message.clock.sec, message.clock.nanosec = divmod(now_ns, 10**9)
                    clock.publish(message)
                later_s = apart_s if counts[1] % 8 == 0 else 0.01
                due = [first_ns + count * 100_000_000 for count in counts]
                due[1] += int(later_s * 1e9)
                if now_ns >= due[0]:
                    send(joints, ["a", "b"], list(position), due[0])
                    counts[0] += 1
                if now_ns >= due[1]:
                    send(others, ["x"], [0.5], due[1])
                    counts[1] += 1

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        try:
            yield io
        finally:
            end.set()
            thread.join()


def write(tmp_path: Path, skew_s: float, joints: str = "") -> str:
    path = tmp_path / "robot.yaml"
    path.write_text(CONTRACT % (joints, skew_s))
    return str(path)


def test_readings_that_fail_are_counted_and_the_smallest_skew_is_named(tmp_path: Path) -> None:
    """Connecting succeeds, for mostly stamps are 10 ms apart; once in 8 times they are 40."""
    with publishing(apart_s=0.04):
        status, report = run(write(tmp_path, 0.035), "--no-motion", "--seconds", "3")
        assert status == 1, report
        assert "readings failed" in report and "topics are up to" in report
        assert "further than timing.max_skew_s (0.035)" in report
        needed = float(report.partition("timing.max_skew_s: ")[2].partition(" is the")[0])
        assert 0.04 < needed < 0.062
        status, report = run(write(tmp_path, 0.062), "--no-motion", "--seconds", "2")
        assert "further than" not in report, report


def test_it_takes_ros_arguments(tmp_path: Path) -> None:
    ns = ("--ros-args", "-r", "__ns:=/r0")
    with publishing(namespace="/r0"):
        config = write(tmp_path, 0.5)
        status, report = run(config, "--yes", "--seconds", "1", "--steps", "3", *ns)
        assert status == 0, report
        assert "2 of 2 moved as told, there and back" in report


def test_it_moves_a_robot_in_simulated_time(tmp_path: Path) -> None:
    words = ("--ros-args", "-p", "use_sim_time:=true")
    with publishing(simulated=True):
        config = write(tmp_path, 0.5)
        status, report = run(config, "--yes", "--seconds", "1", "--steps", "3", *words)
        assert status == 0, report
        assert "2 of 2 moved as told, there and back" in report
        path = Path(config)
        path.write_text(
            path.read_text().replace("connect_timeout_s: 20.0", "connect_timeout_s: 3.0")
        )
        status, report = run(config, "--no-motion", "--seconds", "1")
        assert status == 1 and "use_sim_time" in report, report


def test_what_does_not_fit_is_named_by_its_policy(tmp_path: Path) -> None:
    path = Path(write(tmp_path, 0.5, ", reliability: reliable"))
    path.write_text(path.read_text().replace("connect_timeout_s: 20.0", "connect_timeout_s: 1"))
    with publishing(reliable=False):
        status, report = run(str(path), "--no-motion", "--seconds", "1")
    assert status == 1
    why = "does not fit: reliability: best_effort offered, reliable asked for"
    assert f"joints: /robot publishes it, and {why}" in report


def test_several_publishers_are_named(tmp_path: Path) -> None:
    with publishing(), open_topic_io("second") as io, other(io, "/joints"):
        _, report = run(write(tmp_path, 0.5), "--no-motion", "--seconds", "1")
    assert "joints has 2 publishers: /robot, /second" in report


@contextmanager
def other(io: TopicIo, topic: str) -> Iterator[Callable[[], None]]:
    """One more publisher, which says nothing."""
    publisher = io.publisher(topic, JOINT_STATE)
    try:
        yield publisher.close
    finally:
        publisher.close()


def test_nothing_is_called_while_nothing_may_move(tmp_path: Path) -> None:
    """A contract switches its controller when it connects: not before somebody agreed."""
    path = tmp_path / "ur.yaml"
    with RosDriver(like_ur("active")) as driver, open_topic_io("proposing") as io:
        wait_for(driver.driver, io)
        draft = draft_of(survey(io, 1.0), lambda question: question.default)
        path.write_text(yaml.safe_dump(draft.data, sort_keys=False))
        call = {"service": "/controller_manager/list_controllers",
                "type": "controller_manager_msgs/srv/ListControllers"}  # fmt: skip
        config = str(patient(path, cameras={"devices": {}}, before=[call]))
        driver.received.clear()
        status, report = run(config, "--no-motion", "--seconds", "1")
        assert status == 0, report
        assert "the calls of before were not made" in report
        assert "controller forward_position_controller is active" in report
        heard = set(driver.received) - {"/controller_manager/list_controllers"}
        assert not heard, "no command, not even a stop"
        config = str(patient(path, before=[{"service": "/nobody"}]))
        status, report = run(config, "--no-motion", "--seconds", "1")
        assert status == 1 and "/nobody: nobody answers it (before[0]" in report
