"""`user check robot` and `user robots`, on robots that need no ROS."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rich.console import Console

from user_core import plugins
from user_hal.cli import check, propose, robots
from user_hal.proposing.questions import Question
from user_hal.robot_file import find_robot_file
from user_testing.worlds.robots.small_arm import SmallArm


class Terminal:
    """A console whose text can be read afterwards."""

    def __init__(self) -> None:
        self.console = Console(record=True, width=200, force_terminal=False)

    @property
    def text(self) -> str:
        return self.console.export_text(clear=False)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def write(folder: Path, text: str) -> str:
    path = folder / "robot.yaml"
    path.write_text(text)
    return str(path)


def test_a_robot_that_keeps_its_promises(tmp_path: Path, terminal: Terminal) -> None:
    config = write(tmp_path, "robot: {plugin: gymnasium, params: {env_id: Pendulum-v1}}\n")
    assert check.main([config, "--steps", "5"], terminal.console) == 0
    assert "sees  state: float32 3" in terminal.text
    assert "ok   connect reaches the robot" in terminal.text
    assert "0 broken" in terminal.text


def test_choices_are_told_and_held_and_numbers_that_nothing_can_take_are_named(
    tmp_path: Path, terminal: Terminal
) -> None:
    config = write(tmp_path, "robot: {plugin: gymnasium, params: {env_id: CartPole-v1}}\n")
    assert check.main([config, "--steps", "5"], terminal.console) == 0
    assert "takes discrete: element 0 (2 choices)" in terminal.text
    assert "no policy of this suite" not in terminal.text
    (tmp_path / "counting.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Counting(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)\n"
        "    action_space = gymnasium.spaces.Box(0, 100_000, (1,), np.int32)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        return np.zeros(2, np.float32), 0.0, False, False, {}\n"
        "gymnasium.register('UserChecked-v0', Counting)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        config = write(
            tmp_path, "robot: {plugin: gymnasium, params: {env_id: 'counting:UserChecked-v0'}}\n"
        )
        check.main([config, "--steps", "5"], terminal.console)
    finally:
        sys.path.remove(str(tmp_path))
    assert "no policy of this suite can take these actions" in terminal.text
    assert "integers that are no choices (int32" in terminal.text.replace("\n", " ")


def test_cameras_of_the_file_are_part_of_the_robot(tmp_path: Path, terminal: Terminal) -> None:
    (tmp_path / "still.py").write_text(
        "import numpy as np\n"
        "from dataclasses import replace\n"
        "from user_core.fakes import FakeCamera\n"
        "class Still(FakeCamera):\n"
        "    def read(self):\n"
        "        frame = super().read()\n"
        "        return replace(frame, image_hwc=np.zeros_like(frame.image_hwc))\n"
    )
    config = write(
        tmp_path,
        "robot: {plugin: fake}\ncameras:\n  devices:\n    side: {plugin: still:Still, params: {width: 8}}\n",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert check.main([config], terminal.console) == 0
    assert "sees  image_side: uint8 48x8x3" in terminal.text


def test_a_robot_that_breaks_one_is_told_with_the_reason(
    tmp_path: Path, terminal: Terminal
) -> None:
    module = tmp_path / "forgetful.py"
    module.write_text(
        "from user_core.fakes import FakeRobot\n"
        "class Forgetful(FakeRobot):\n"
        "    def reset(self, seed=None):\n"
        "        return super().reset()\n"
    )
    config = write(tmp_path, "robot: {plugin: forgetful:Forgetful}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert check.main([config], terminal.console) == 1
    assert "FAIL reset counts episodes; equal seeds give equal starts" in terminal.text
    assert "differs after two resets with seed 0" in terminal.text
    assert "1 broken" in terminal.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robot: {plugin: mujocco}\n", "did you mean 'mujoco'?"),
        (
            "robot: {plugin: gymnasium, params: {env: Pendulum-v1}}\n",
            "unknown key 'robot.params.env'",
        ),
        ("robot: {plugin: gymnasium, params: {env_id: Pendulm-v1}}\n", "Did you mean: `Pendulum`"),
        ("diver: fake\n", "unknown key 'diver'"),
        ("robot: {plugin: fake}\nrobot: {plugin: fake}\n", "key 'robot' occurs twice"),
        ("robot: {plugin: fake}\nsafety: {watchdog_s: 0}\n", "safety.watchdog_s"),
        (
            "robot: {plugin: fake}\ncameras: {devices: {side: {plugin: fakee}}}\n",
            "no plugin 'fakee' among cameras",
        ),
        (
            "robot: {plugin: fake}\ncameras: {devices: {side: {plugin: fake, params: {wide: 3}}}}\n",
            "unknown key 'cameras.devices.side.params.wide'",
        ),
    ],
)
def test_a_wrong_file_is_told_and_nothing_is_tried(
    tmp_path: Path, terminal: Terminal, text: str, message: str
) -> None:
    assert check.main([write(tmp_path, text)], terminal.console) == 2
    assert message in terminal.text


def test_a_file_that_is_not_there_lists_the_ready_ones(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2] / "user_bringup")
    assert check.main(["ur"], terminal.console) == 2
    assert "no robot configuration 'ur': expected a path, or one of" in terminal.text
    assert "ur_ros2_control" in terminal.text
    assert find_robot_file("ur_ros2_control").name == "ur_ros2_control.yaml"


ARM = "robot: {plugin: 'user_testing.worlds.robots.small_arm:SmallArm', params: {%s}}\n"


def test_a_real_robot_does_not_move_unasked(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[object] = []
    monkeypatch.setattr(SmallArm, "command", lambda self, action: commands.append(action))
    config = [write(tmp_path, ARM % ""), "--seconds", "0.2"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert check.main(config, terminal.console) == 1  # it takes wrong commands
    assert "not moved: there is no terminal to ask at" in terminal.text
    assert "takes joint_delta: j1, j2" in terminal.text
    for answer in ("n", ""):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr(terminal.console, "input", lambda _, answer=answer: answer)
        check.main(config, terminal.console)
    assert terminal.text.count("not moved: nobody agreed") == 2
    check.main([*config, "--no-motion", "--yes"], terminal.console)
    assert "not moved (--no-motion)" in terminal.text
    assert "reset returns" not in terminal.text
    assert len(commands) == 4 * 4, "only the wrong commands, which a driver has to refuse"


def test_readings_that_fail_and_motion_are_told(tmp_path: Path, terminal: Terminal) -> None:
    config = write(tmp_path, ARM % "follows: [1.0, 0.0], fails_every: 20")
    status = check.main([config, "--yes", "--seconds", "1", "--steps", "2"], terminal.console)
    assert status == 1
    share = re.search(r"FAIL ([\d.]+) % of (\d+) readings failed", terminal.text)
    assert share, terminal.text
    # Each twentieth, from wherever the count stood when reading began.
    assert abs(float(share[1]) / 100 * int(share[2]) - int(share[2]) / 20) <= 1.1, terminal.text
    assert "small arm: got a loose wire" in terminal.text


def test_a_dead_joint_is_told_and_as_json_too(tmp_path: Path, terminal: Terminal) -> None:
    config = write(tmp_path, ARM % "follows: [1.0, 0.0]")
    words = [config, "--yes", "--seconds", "0.2", "--steps", "2", "--json"]
    assert check.main(words, terminal.console) == 1
    data = json.loads(terminal.text)
    assert data["passed"] is False and data["counts"]["fail"] == 1
    motion = next(s for s in data["sections"] if s["title"] == "Moves when told")
    assert [row["verdict"] for row in motion["table"]] == ["moved", "did not move"]


def test_robots_lists_drivers_finds_and_failures(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "brittle.py").write_text(
        "from user_core.fakes import FakeRobot\n"
        "class Brittle(FakeRobot):\n"
        "    @classmethod\n"
        "    def discover(cls):\n"
        "        raise OSError('no bus')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    real = plugins.available

    def available(kind: str) -> dict[str, EntryPoint]:
        more = {
            "lab_arm": EntryPoint("lab_arm", "no_such_module:Arm", "user.robots"),
            "brittle": EntryPoint("brittle", "brittle:Brittle", "user.robots"),
        }
        return {**real(kind), **(more if kind == "robots" else {})}

    monkeypatch.setattr(plugins, "available", available)
    monkeypatch.setattr(robots, "available", available)
    assert robots.main(["--all", "--no-ros"], terminal.console) == 0
    for text in (
        "fake", "a point on a plane", "Pendulum-v1", "more", "OSError: no bus",
        "Install the Python module 'no_such_module'", "Cameras", "ros_topic",
    ):  # fmt: skip
        assert text in terminal.text, text


def test_robots_list_shows_the_ready_ones(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2] / "user_bringup")
    assert robots.main(["list"], terminal.console) == 0
    assert "ur_ros2_control" in terminal.text and "panda_sim" in terminal.text
    assert "Universal_Robots_ROS2_Driver" in terminal.text


def test_a_person_answers_what_is_asked(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["", "2", "/other", "[0.0, 0.04]", "7"])
    monkeypatch.setattr(terminal.console, "input", lambda _: next(answers))
    ask = propose._asker(terminal.console)
    choice = Question("action", "Which topic?", "/a", ("/a", "/b"))
    assert [ask(choice) for _ in range(3)] == [None, "/b", None]
    numbers = Question("gripper", "Which numbers?", [0.0, 1.0])
    assert [ask(numbers) for _ in range(2)] == [[0.0, 0.04], 7]
    assert "none of these" in terminal.text and "2  /b" in terminal.text
