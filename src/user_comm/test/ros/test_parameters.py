"""Parameters of a real node, declared from a configuration class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rcl_interfaces.msg import ParameterType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient

from user_comm.parameter_values import flatten
from user_comm.parameters import ConfigParameters
from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice


class Mode(str, Enum):
    FAST = "fast"
    SAFE = "safe"


class Gate(Config):
    max_age_s: float = setting(0.2, doc="Age.", unit="s", gt=0, read_only=False)
    gains: tuple[float, ...] = setting((), doc="Gains.", ge=0, read_only=False)


class Camera(Config):
    name: str = setting(doc="Name.")


class Robot(Config):
    robot: str = setting(doc="Which robot.")
    rate_hz: float = setting(20.0, doc="Rate.", unit="Hz", ge=1, le=1000, read_only=False)
    retries: int = setting(3, doc="Retries.", ge=0, read_only=False)
    mode: Mode = setting(Mode.SAFE, doc="Mode.", read_only=False)
    limit: float | None = setting(None, doc="Limit.", read_only=False)
    gate: Gate = setting(factory=Gate, doc="Gate.")
    params: dict[str, Any] = setting(factory=dict, doc="Of the driver.")
    cameras: tuple[Camera, ...] = setting((), doc="Cameras.")
    ratio: float | None = setting(1.0, doc="Ratio; without a number, any.", gt=0, read_only=False)

    def validate(self) -> None:
        if self.limit is not None and self.limit < self.rate_hz:
            raise ConfigError("limit", got=self.limit, expected=f">= rate_hz {self.rate_hz}")


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


class Nodes:
    """Makes nodes with overrides, as a launch file or a command line would."""

    def __init__(self) -> None:
        self.made: list[Node] = []
        self.changes: list[tuple[Robot, Robot]] = []

    def __call__(self, **overrides: Any) -> tuple[Node, ConfigParameters[Robot]]:
        values = [Parameter(k.replace("__", "."), value=v) for k, v in overrides.items()]
        node = Node("robot", parameter_overrides=values)
        self.made.append(node)
        return node, ConfigParameters(node, Robot, lambda *c: self.changes.append(c))


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    for node in nodes.made:
        node.destroy_node()


def test_overrides_become_the_configuration(nodes: Nodes) -> None:
    _, parameters = nodes(
        robot="panda", rate_hz=50, mode="fast", limit=100, gate__max_age_s=1, gate__gains=[1, 2],
        params__arm="left", params__pid__p=2.0, cameras="[{name: front}, {name: wrist}]",
    )  # fmt: skip
    assert parameters.read() == Robot(
        robot="panda", rate_hz=50.0, mode=Mode.FAST, limit=100.0, gate=Gate(max_age_s=1.0, gains=(1.0, 2.0)),
        params={"arm": "left", "pid": {"p": 2.0}}, cameras=(Camera(name="front"), Camera(name="wrist")),
    )  # fmt: skip


def test_what_flatten_gives_comes_back_through_a_node(nodes: Nodes) -> None:
    config = Robot(robot="ur5e", rate_hz=10.0, retries=0, mode=Mode.FAST, limit=None, gate=Gate(max_age_s=0.5, gains=(3.0,)), params={"a": {"b": [1, 2]}},
                   cameras=(Camera(name="x"),))  # fmt: skip
    values = {key.replace(".", "__"): value for key, value in flatten(config).items()}
    assert nodes(**values)[1].read() == config


def test_an_empty_text_is_none_where_there_may_be_none(nodes: Nodes) -> None:
    node, parameters = nodes(robot="panda", ratio="", limit="")
    assert (parameters.read().ratio, parameters.read().limit) == (None, None)
    assert node.set_parameters([Parameter("ratio", value=2.0)])[0].successful
    assert parameters.read().ratio == 2.0
    with pytest.raises(ConfigError, match="retries"):
        nodes(robot="panda", retries="")[1].read()


def test_defaults_need_no_override(nodes: Nodes) -> None:
    assert nodes(robot="panda")[1].read() == Robot(robot="panda")


def test_what_must_be_given_and_is_not_is_named(nodes: Nodes) -> None:
    with pytest.raises(ConfigError, match="robot"):
        nodes()[1].read()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rate_hz": 5000.0}, ["rate_hz", "5000", "<= 1000"]),
        ({"rate_hz": "fast"}, ["rate_hz", "fast", "float"]),
        ({"rate_hz": True}, ["rate_hz", "True"]),
        ({"retries": 1.5}, ["retries", "1.5", "int"]),
        ({"retries": -1}, ["retries", "-1", ">= 0"]),
        ({"gate__max_age_s": 0.0}, ["gate.max_age_s", "> 0"]),
        ({"gate__gains": [1.0, -1.0]}, ["gate.gains[1]", "-1.0"]),
        ({"gate__gains": 3.0}, ["gate.gains", "float[]"]),
        ({"mode": "wild"}, ["mode", "wild", "fast", "safe"]),
        ({"limit": 2.0}, ["limit", "rate_hz"]),
        ({"cameras": "[{nam: x}]"}, ["cameras[0].nam", "name"]),
        ({"cameras": "[{"}, ["cameras", "YAML"]),
    ],
)
def test_a_wrong_override_makes_a_node_that_can_say_so(
    nodes: Nodes, overrides: dict[str, Any], words: list[str]
) -> None:
    _, parameters = nodes(robot="panda", **overrides)
    with pytest.raises(ConfigError) as caught:
        parameters.read()
    for word in words:
        assert word in str(caught.value)


def test_a_typing_error_is_found_with_what_was_meant(nodes: Nodes) -> None:
    _, parameters = nodes(robot="panda", rate_Hz=3.0, use_sim_time=True, something_else=1)
    assert parameters.unknown == {"rate_Hz": "rate_hz", "something_else": ""}


def set_one(node: Node, name: str, value: Any) -> Any:
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_changes_are_checked_applied_and_told(nodes: Nodes) -> None:
    node, parameters = nodes(robot="panda")
    before = parameters.read()
    assert set_one(node, "gate.max_age_s", 0.7).successful
    assert set_one(node, "gate.gains", [1.0, 2.0]).successful
    assert set_one(node, "mode", "fast").successful
    after = Robot(robot="panda", mode=Mode.FAST, gate=Gate(max_age_s=0.7, gains=(1.0, 2.0)))
    assert parameters.read() == after
    assert nodes.changes[0][0] == before and nodes.changes[-1][1] == after


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rate_hz", 0.5, ["rate_hz"]),
        ("gate.max_age_s", 0.0, ["gate.max_age_s", "> 0"]),
        ("gate.gains", [-1.0], ["gate.gains[0]"]),
        ("gate.gains", "many", ["gate.gains"]),
        ("mode", "wild", ["mode", "fast"]),
        ("limit", 3.0, ["limit", "rate_hz"]),
        ("limit", "high", ["limit"]),
        ("robot", "ur5e", ["read-only"]),
        ("params.arm", "x", ["read-only"]),
    ],
)
def test_a_wrong_change_is_refused_with_the_reason(
    nodes: Nodes, name: str, value: Any, words: list[str]
) -> None:
    node, parameters = nodes(robot="panda", params__arm="left")
    before = parameters.read()
    result = set_one(node, name, value)
    assert not result.successful
    for word in words:
        assert word in result.reason
    assert parameters.read() == before and not nodes.changes


def test_values_that_only_fit_together_can_be_set_together(nodes: Nodes) -> None:
    node, parameters = nodes(robot="panda", limit=30.0)
    parameters.read()
    assert not set_one(node, "rate_hz", 40.0).successful
    both = [Parameter("rate_hz", value=40.0), Parameter("limit", value=50.0)]
    assert node.set_parameters_atomically(both).successful
    assert parameters.read().rate_hz == 40.0 and len(nodes.changes) == 1


def test_a_parameter_cannot_be_unset(nodes: Nodes) -> None:
    node, parameters = nodes(robot="panda", limit=30.0)
    assert not node.set_parameters([Parameter("limit")])[0].successful
    assert parameters.read().limit == 30.0


def test_parameters_of_others_are_left_to_them(nodes: Nodes) -> None:
    node, parameters = nodes(robot="panda")
    parameters.read()
    node.declare_parameter("foreign", 1)
    assert set_one(node, "foreign", 2).successful
    assert not nodes.changes


# --- plugins, parameter files, and the services by which `ros2 param` works ---


class Chooser(Config):
    robot: PluginChoice = setting(
        PluginChoice(plugin="fake", params={"episode_steps": 7}), doc="The robot."
    )
    cameras: tuple[Camera, ...] = setting((), doc="Cameras.")
    gate: Gate = setting(factory=Gate, doc="Gate.")


class Served:
    """A node whose parameters come from a file, spun beside one that asks for them."""

    def __init__(self, file: Path) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=["--ros-args", "--params-file", str(file)], context=self.context)
        self.node = Node("chooser", context=self.context)
        self.parameters = ConfigParameters(self.node, Chooser)
        self.asker = Node("asker", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.asker)
        self.client = AsyncParameterClient(self.asker, "chooser")

    def ask(self, future: Any) -> Any:
        self.executor.spin_until_future_complete(future, timeout_sec=30)
        assert future.done()
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.asker.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Served]]:
    made: list[Served] = []

    def serve(parameters: dict[str, Any]) -> Served:
        file = tmp_path / f"{len(made)}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        made.append(Served(file))
        return made[-1]

    yield serve
    for one in made:
        one.close()


FILE = {
    "robot": {"plugin": "fake", "params": {"episode_steps": 12, "image_size": 32}},
    "cameras": "!yaml [{name: front}]",
    "gate": {"gains": [1, 2]},
}


def test_mappings_in_a_parameter_file_reach_the_configuration(served: Any) -> None:
    assert served(FILE).parameters.read() == Chooser(
        robot=PluginChoice(plugin="fake", params={"episode_steps": 12, "image_size": 32}),
        cameras=(Camera(name="front"),),
        gate=Gate(gains=(1.0, 2.0)),
    )
    only_name = {"robot": {"plugin": "other"}}
    assert served(only_name).parameters.read().robot == PluginChoice(plugin="other")
    assert served({"robot": {"params": "!yaml {}"}}).parameters.read().robot.params == {}
    assert served({"gate": {"gains": "!yaml []"}}).parameters.read() == Chooser()


def test_a_wrong_parameter_of_a_plugin_is_named(served: Any) -> None:
    wrong = {"robot": {"plugin": "fake", "params": {"episode_steps": "many"}}}
    with pytest.raises(ConfigError, match=r"robot\.params\.episode_steps.*many"):
        served(wrong).parameters.read()


def test_parameters_are_listed_read_and_set_by_service(served: Any) -> None:
    it = served(FILE)
    it.parameters.read()
    names = it.ask(it.client.list_parameters([], 0)).result.names
    assert {"robot.plugin", "robot.params.episode_steps", "gate.max_age_s", "cameras"} <= {*names}
    assert "robot.params" not in names
    got = it.ask(it.client.get_parameters(["robot.params.episode_steps", "gate.gains"])).values
    assert got[0].integer_value == 12 and list(got[1].double_array_value) == [1.0, 2.0]
    described = it.ask(it.client.describe_parameters(["robot.params.episode_steps"])).descriptors[0]
    assert described.type == ParameterType.PARAMETER_INTEGER and described.description
    assert described.read_only
    results = it.ask(
        it.client.set_parameters(
            [Parameter("gate.max_age_s", value=0.5), Parameter("gate.max_age_s", value=-1.0),
             Parameter("robot.params.episode_steps", value=3)]
        )
    ).results  # fmt: skip
    assert [result.successful for result in results] == [True, False, False]
    assert "gate.max_age_s" in results[1].reason and "read-only" in results[2].reason
    assert it.parameters.read().gate.max_age_s == 0.5
