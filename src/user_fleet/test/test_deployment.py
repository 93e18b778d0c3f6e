import pytest
import yaml

from user_core.errors import ConfigError
from user_fleet.deployment import (
    command_line,
    load_deployment,
    parse_overrides,
    start_order,
    stop_order,
    write_parameters,
)

TEXT = """
name: sim
description: one arm
arguments:
  robot: {default: panda, choices: [panda, ur5e], doc: Arm.}
  rate_hz: 10
processes:
  - name: learner
    package: user_learner
    executable: learner_node
    order: 3
    depends_on: [replay]
  - name: hal
    package: user_hal
    executable: hal_node
    namespace: /robot0
    order: 1
    parameters:
      include: robots/${robot}.yaml
      rate_hz: ${rate_hz}
      label: ${robot} at ${rate_hz} Hz in ${run_dir}
  - {name: replay, package: user_learner, executable: replay_node, order: 2}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "robots").mkdir()
    (tmp_path / "robots" / "panda.yaml").write_text(
        "robot: mujoco\nrate_hz: 1\nlimits: {force_n: 40}\n"
    )
    (tmp_path / "sim.yaml").write_text(TEXT)
    return tmp_path


def load(folder, **overrides):
    return load_deployment(folder / "sim.yaml", overrides, {"run_dir": "/r"})


def test_arguments_are_substituted_with_their_types_and_files_are_included(folder):
    hal = load(folder, rate_hz=20).process("hal")
    assert hal.parameters == {
        "robot": "mujoco",
        "rate_hz": 20,
        "limits": {"force_n": 40},
        "label": "panda at 20 Hz in /r",
    }
    assert hal.node_name == "/robot0/hal"


def test_order_follows_what_each_depends_on(folder):
    processes = load(folder).processes
    assert [p.name for p in start_order(processes)] == ["hal", "replay", "learner"]
    assert [p.name for p in stop_order(processes)] == ["learner", "replay", "hal"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "executable: hal_node",
            "executible: hal_node",
            ["sim.yaml:13", "hal.executible", "did you mean 'executable'"],
        ),
        ("order: 3", "order: -1", ["sim.yaml:11", "learner.order", ">= 0"]),
        ("[replay]", "[reply]", ["learner.depends_on", "'reply'", "replay"]),
        ("name: hal\n", "name: replay\n", ["'replay' twice"]),
        ("name: hal\n", "name: Hal 1\n", ["'Hal 1'", "lower-case"]),
        ("/robot0", "robot0/", ["namespace", "/robot0"]),
        ("${rate_hz}\n", "${rate}\n", ["sim.yaml:20", "'rate'", "did you mean 'rate_hz'"]),
        ("robots/${robot}", "robots/none", ["cannot read", "none.yaml"]),
        ("name: sim", "nmae: sim", ["'nmae'", "did you mean 'name'"]),
    ],
)
def test_a_wrong_deployment_is_named(folder, old, new, words):
    assert old in TEXT
    (folder / "sim.yaml").write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(folder)
    for word in words:
        assert word in str(caught.value)


def test_wrong_arguments_are_named(folder):
    with pytest.raises(ConfigError, match=r"'robto'.*\['rate_hz', 'robot'\]"):
        load(folder, robto="panda")
    with pytest.raises(ConfigError, match="'robot' of sim.yaml.*'spot'.*ur5e"):
        load(folder, robot="spot")
    assert parse_overrides(["a:=1", "b:=x", "c:=[1, 2]", "d:="]) == {
        "a": 1,
        "b": "x",
        "c": [1, 2],
        "d": "",
    }
    with pytest.raises(ConfigError, match="name:=value"):
        parse_overrides(["a=1"])


def test_some_keys_of_a_file_can_be_included(folder):
    text = TEXT.replace(
        "include: robots/${robot}.yaml", "include: {file: robots/panda.yaml, only: [limits]}"
    )
    (folder / "sim.yaml").write_text(text)
    parameters = load(folder).process("hal").parameters
    assert parameters["limits"] == {"force_n": 40}
    assert "robot" not in parameters


def test_files_that_include_each_other_are_refused(folder):
    (folder / "robots" / "panda.yaml").write_text("include: robots/panda.yaml\n")
    with pytest.raises(ConfigError, match="include each other"):
        load(folder)


def test_a_circle_is_refused(folder):
    text = TEXT.replace("order: 2}", "order: 2, depends_on: [learner]}")
    (folder / "sim.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"circle among \['replay', 'learner'\]"):
        start_order(load(folder).processes)


def test_the_command_is_what_ros2_run_would_make(folder, tmp_path):
    hal = load(folder).process("hal")
    command = command_line(hal, "/x/hal_node", tmp_path / "hal.yaml")
    assert command.words == (
        "/x/hal_node", "--ros-args", "-r", "__node:=hal", "-r", "__ns:=/robot0",
        "--params-file", str(tmp_path / "hal.yaml"),
    )  # fmt: skip


def test_parameters_are_written_as_ros_reads_them(folder, tmp_path):
    hal = load(folder).process("hal")
    parameters = {
        "robot": {"plugin": "mujoco", "params": {"task": "reach", "size": [1, 2]}},
        "empty": [],
        "mixed": [1, 2.5],
        "cameras": [{"name": "front"}],
        "none_in_it": {},
        "odd": {"image/front": 1},
        "nothing": None,
        "deep": {"force_n": 3.0, "names": ["a", "b"]},
    }
    hal = hal.replace(parameters=parameters)
    file = write_parameters(hal, tmp_path / "config" / "hal.yaml")
    written = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
    assert written["robot"] == parameters["robot"]  # mappings stay mappings
    assert written["cameras"] == "!yaml [{name: front}]"
    assert written["empty"] == "!yaml []"
    assert written["none_in_it"] == "!yaml {}"
    assert written["odd"] == "!yaml {image/front: 1}"
    assert written["mixed"] == [1.0, 2.5]
    assert written["nothing"] == "!yaml null"
    assert written["deep"] == {"force_n": 3.0, "names": ["a", "b"]}
