"""Topics that stop the robot: a protective stop, a safety mode, a door."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault, DeviceTimeout, SafetyError
from user_hal.fakes import LocalTopics, local_topics
from user_hal.fakes.local_topics import Bool, Float64, Int32
from user_hal.fakes.topic_arm import TopicArm
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.robots.ros2.stop_conditions import FREE, StopConditions, StopWhenConfig
from user_hal.safety.stops import SafetyState
from user_testing.waiting import wait_until
from user_testing.worlds.robots.hal import LiveHal

BOOL, INT, FLOAT = "std_msgs/msg/Bool", "std_msgs/msg/Int32", "std_msgs/msg/Float64"
DOOR = {"topic": "/door", "type": BOOL, "field": "data", "equals": True, "reason": "door open"}


class World:
    """Conditions on topics."""

    def __init__(self, *conditions: dict[str, Any]) -> None:
        self.io = LocalTopics()
        self.conditions = StopConditions(
            [from_mapping(StopWhenConfig, {"field": "data", **c}) for c in conditions]
        )
        self.conditions.open(self.io)

    def say(self, topic: str, type_name: str, message: Any) -> str:
        self.io.publisher(topic, type_name).publish(message)
        return self.conditions.check().reason.text


@pytest.mark.parametrize(
    ("rule", "stops", "moves"),
    [
        ({"equals": 3}, [3], [0, 2, 4]),
        ({"equals": [3, 8]}, [3, 8], [0, 4]),
        ({"not_equals": 1}, [0, 2], [1]),
        ({"not_equals": [1, 2]}, [0, 3], [1, 2]),
        ({"above": 5}, [6], [5, -9]),
        ({"below": 5}, [4], [5, 9]),
        ({"above": 5, "below": 1}, [6, 0], [1, 5]),
    ],
)
def test_the_comparisons(rule: dict[str, Any], stops: list[int], moves: list[int]) -> None:
    world = World({"topic": "/mode", "type": INT, **rule})
    for value in [*moves, *stops, *moves]:
        assert bool(world.say("/mode", INT, Int32(value))) is (value in stops), value


def test_it_says_what_was_said_where() -> None:
    world = World(DOOR)
    assert world.conditions.check().reason.code == "robot_stop"
    assert world.conditions.check().reason.text == "nothing was heard of '/door' yet"
    text = world.say("/door", BOOL, Bool(True))
    assert text == "door open: '/door' says data = True (stop when equals True)"
    assert world.say("/door", BOOL, Bool(False)) == ""
    assert world.conditions.check() == FREE


@dataclass
class Diagnostics:
    """Like diagnostic_msgs/msg/DiagnosticArray."""

    status: list[Any] = field(default_factory=list)


def test_a_status_by_its_name_among_messages_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    monkeypatch.setitem(local_topics.MESSAGES, kind, Diagnostics)
    world = World(
        {"topic": "/diagnostics", "type": kind, "field": "status[name=arm].level", "above": 1}
    )

    def say(**levels: int) -> str:
        status = [
            SimpleNamespace(name=name, level=bytes([level])) for name, level in levels.items()
        ]
        return world.say("/diagnostics", kind, Diagnostics(status))

    assert "nothing was heard" in say(camera=2)
    assert say(camera=2, arm=0) == ""
    assert say(camera=2) == "", "it is about others"
    assert "status[name=arm].level = 2" in say(arm=2)
    assert "status[name=arm].level = 2" in say(camera=0)
    assert say(arm=1) == ""


@dataclass
class Answer:
    """Of a service that tells a safety mode."""

    mode: int = 0
    NORMAL: ClassVar[int] = 1


ASKED = {
    "service": "/safety_mode",
    "type": "std_srvs/srv/Trigger",
    "field": "mode",
    "every_s": 0.02,
}


def test_a_service_is_asked_again_and_again() -> None:
    world = World()
    said = [Answer(1)]

    def serve(request: Any) -> Any:
        return said[0] if said else raised()

    def raised() -> Any:
        raise DeviceTimeout("service '/safety_mode'", got="no answer")

    config = from_mapping(StopWhenConfig, {**ASKED, "not_equals": "NORMAL", "max_age_s": 0.1})
    conditions = StopConditions([config])
    conditions.open(world.io)
    try:
        with pytest.raises(
            DeviceTimeout, match=r"service '/safety_mode' \(stop_when\): got no answer"
        ):
            conditions.wait(0.0, 0.1)
        assert "nothing was heard of '/safety_mode' yet" in conditions.check().reason.text
        world.io.services["/safety_mode"] = serve
        wait_until(lambda: conditions.check() == FREE)
        conditions.wait(0.0, 0.1)
        said[0] = Answer(3)
        wait_until(lambda: "'/safety_mode' says mode = 3" in conditions.check().reason.text)
        said[0] = Answer(1)
        wait_until(lambda: conditions.check() == FREE)
        said.clear()
        wait_until(lambda: "silent for" in conditions.check().reason.text)
        assert "no answer" in conditions.check().reason.text
    finally:
        conditions.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topic": "/mode"}, "one of the two"),
        ({"service": ""}, "one of the two"),
        ({"type": "std_msgs/msg/Bool"}, "package/srv/Name"),
        (
            {"service": "", "topic": "/mode", "type": "std_msgs/msg/Bool", "request": {"a": 1}},
            "none",
        ),
    ],
)
def test_a_service_that_cannot_be_asked_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(StopWhenConfig, {**ASKED, "equals": 1, **change})


def test_an_answer_without_the_field_stops_and_says_which_there_are() -> None:
    world = World()
    world.io.services["/safety_mode"] = lambda request: Answer(1)
    conditions = StopConditions(
        [from_mapping(StopWhenConfig, {**ASKED, "field": "md", "equals": 3})]
    )
    conditions.open(world.io)
    try:
        wait_until(lambda: "did you mean 'mode'" in conditions.check().reason.text)
    finally:
        conditions.close()


@dataclass
class Mode:
    """Like ur_dashboard_msgs/msg/SafetyMode, and the fields of many joints."""

    data: int = 0
    level: bytes = b"\0"
    joints: list[SimpleNamespace] = field(default_factory=list)
    NORMAL: ClassVar[int] = 1
    REDUCED: ClassVar[int] = 2


MODE = "ur_dashboard_msgs/msg/SafetyMode"


def test_constants_bytes_and_lists_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(local_topics.MESSAGES, MODE, Mode)
    mode = {"topic": "/mode", "type": MODE}
    world = World({**mode, "not_equals": ["NORMAL", "REDUCED"]})
    assert [bool(world.say("/mode", MODE, Mode(n))) for n in (1, 2, 3)] == [False, False, True]
    world = World({**mode, "field": "level", "above": 1})
    assert [bool(world.say("/mode", MODE, Mode(level=b))) for b in (b"\1", b"\2")] == [False, True]
    world = World({**mode, "field": "joints[*].error", "not_equals": 0})

    def errors(*codes: int) -> bool:
        joints = [SimpleNamespace(error=code) for code in codes]
        return bool(world.say("/mode", MODE, Mode(joints=joints)))

    assert (errors(0, 0), errors(0, 7, 0), errors()) == (False, True, True)


def test_what_is_no_number_stops() -> None:
    world = World({"topic": "/force", "type": FLOAT, "above": 5.0})
    assert world.say("/force", FLOAT, Float64(1.0)) == ""
    assert world.say("/force", FLOAT, Float64(float("nan")))


def test_silence_stops_if_it_is_to() -> None:
    world = World({**DOOR, "max_age_s": 0.05})
    assert world.say("/door", BOOL, Bool(False)) == ""
    wait_until(lambda: "is silent for" in world.conditions.check().reason.text)
    assert world.say("/door", BOOL, Bool(False)) == ""


def test_silence_is_not_latched() -> None:
    world = World({**DOOR, "latched": True, "max_age_s": 0.05})
    assert world.conditions.check().reason and not world.conditions.check().latched
    world.say("/door", BOOL, Bool(False))
    wait_until(lambda: "is silent for" in world.conditions.check().reason.text)
    assert not world.conditions.check().latched


def test_a_latched_condition_is_remembered_until_somebody_has_seen_to_it() -> None:
    world = World({**DOOR, "latched": True})
    world.say("/door", BOOL, Bool(True))
    assert world.say("/door", BOOL, Bool(False)).startswith("door open")
    assert world.conditions.check().latched
    world.conditions.acknowledge()
    assert world.conditions.check() == FREE
    world.say("/door", BOOL, Bool(True))
    world.conditions.acknowledge()
    assert world.conditions.check().latched  # it still holds


def test_a_latched_one_is_told_before_others() -> None:
    world = World({**DOOR, "topic": "/gate"}, {**DOOR, "latched": True})
    world.say("/gate", BOOL, Bool(True))
    world.say("/door", BOOL, Bool(True))
    assert world.conditions.check().latched
    assert "/door" in world.conditions.check().reason.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"equals": None}, "no comparison|expected one of"),
        ({"not_equals": 1}, r"\['equals', 'not_equals'\]"),
        ({"field": "a b"}, "path of a field"),
    ],
)
def test_conditions_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(StopWhenConfig, {**DOOR, **keys})


def test_a_field_that_is_not_there_is_refused_when_it_connects() -> None:
    with pytest.raises(ConfigError, match="field 'value'.*no 'value'"):
        World({**DOOR, "field": "value"})


# --- in the driver, and behind the HAL --------------------------------------------------------


def contract(**changes: Any) -> dict[str, Any]:
    return {
        "robot": "toy",
        "joints": ["shoulder", "elbow", "wrist"],
        "period_s": 0.02,
        "timing": {"connect_timeout_s": 1.0, "max_age_s": 0.5},
        "observation": {
            "joint_position": {
                "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
            },
        },
        "action": {
            "kind": "joint_delta", "low": -0.05, "high": 0.05,
            "command": {"topic": "/positions/commands", "type": "std_msgs/msg/Float64MultiArray"},
        },
        "home": {"joints": [0.1, 0.0, 0.0], "speed_rad_s": 3.0, "rate_hz": 100},
        **changes,
    }  # fmt: skip


class Cell:
    """An arm behind a door."""

    def __init__(self) -> None:
        self.io = LocalTopics()
        self._publisher = self.io.publisher("/door", BOOL)
        self._open = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def door(self, is_open: bool) -> None:
        self._open = is_open
        self._publisher.publish(Bool(is_open))

    def _run(self) -> None:  # a driver that repeats what it says
        while not self._end.wait(0.01):
            self._publisher.publish(Bool(self._open))

    def __enter__(self) -> Cell:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def robot(self, **changes: Any) -> Ros2Robot:
        robot = Ros2Robot(from_mapping(Ros2Config, contract(**changes)))
        robot.attach(self.io)
        return robot


@pytest.fixture
def cell() -> Iterator[Cell]:
    with Cell() as cell, TopicArm(cell.io):
        yield cell


def act(*values: float) -> Any:
    return np.array(values, np.float32)


def test_the_driver_moves_nothing_while_it_holds(cell: Cell) -> None:
    robot = cell.robot(stop_when=[DOOR])
    assert "/door" in robot.topics_read  # nothing of ours may go there
    robot.connect()
    robot.command(act(0.01, 0, 0))
    cell.door(True)
    with pytest.raises(DeviceFault, match="motion of 'toy': got door open"):
        robot.command(act(0.01, 0, 0))
    with pytest.raises(DeviceFault, match="door open"):
        robot.reset()
    assert robot.trouble().code == "robot_stop"
    cell.door(False)
    robot.command(act(0.01, 0, 0))
    robot.close()


def test_it_ends_a_way_home(cell: Cell) -> None:
    robot = cell.robot(stop_when=[DOOR], home={"joints": [3.0, 0, 0], "speed_rad_s": 0.5})
    robot.connect()
    threading.Timer(0.1, lambda: cell.door(True)).start()
    with pytest.raises(DeviceFault, match="door open"):
        robot.reset()
    assert robot.read().arrays["joint_position"][0] < 1.0
    robot.close()


def test_a_topic_that_was_never_heard_keeps_it_from_connecting(cell: Cell) -> None:
    robot = cell.robot(stop_when=[{**DOOR, "topic": "/nobody"}],
                       timing={"connect_timeout_s": 0.1})  # fmt: skip
    with pytest.raises(DeviceTimeout, match=r"topic '/nobody' \(stop_when\): got no message"):
        robot.connect()
    robot = cell.robot(stop_when=[{**DOOR, "topic": "/nobody", "required": False}])
    robot.connect()
    robot.command(act(0.01, 0, 0))
    robot.close()


def test_a_reset_recovers_what_had_stopped(cell: Cell) -> None:
    calls: list[str] = []

    def clear(_: Any) -> Any:
        calls.append("clear")
        cell.door(False)
        return SimpleNamespace(success=True)

    cell.io.services["/clear"] = clear
    robot = cell.robot(stop_when=[DOOR], recover=[{"service": "/clear"}])
    robot.connect()
    robot.reset()
    assert calls == []  # nothing was wrong
    cell.door(True)
    robot.reset()
    assert calls == ["clear"]
    robot.reset()
    assert calls == ["clear"]
    robot.close()


def test_calls_surround_a_connection_and_a_way_home(cell: Cell) -> None:
    calls: list[str] = []

    def serve(name: str) -> None:
        def call(_: Any) -> Any:
            calls.append(name)
            return SimpleNamespace(success=True)

        cell.io.services[f"/{name}"] = call

    for name in ("on", "off", "bye", "mode", "unmode", "zero"):
        serve(name)
    robot = cell.robot(
        before=[{"service": "/on", "undo": {"service": "/off"}}],
        after=[{"service": "/bye"}],
        home={"joints": [0.1, 0, 0], "speed_rad_s": 3.0,
              "before": [{"service": "/mode", "undo": {"service": "/unmode"}}],
              "after": [{"service": "/zero"}]},
    )  # fmt: skip
    robot.connect()
    robot.reset()
    robot.close()
    robot.close()
    assert calls == ["on", "mode", "zero", "unmode", "off", "bye"]
    calls.clear()
    cell.io.services["/on"] = lambda _: SimpleNamespace(success=False, message="e-stop pressed")
    with pytest.raises(DeviceFault, match="'/on': got no: e-stop pressed"):
        robot.connect()
    assert calls == ["bye"]


def test_the_hal_stops_says_why_and_goes_on_when_it_ends(cell: Cell) -> None:
    with LiveHal.running(cell.robot(stop_when=[DOOR])) as hal:
        cell.door(True)
        hal.wait_for(lambda: hal.stopped_for("robot_stop"))
        status = hal.loop.status()
        assert "door open" in status.cause.text and status.present
        cell.door(False)
        hal.wait_for(hal.active)


def test_a_reset_behind_the_hal_recovers(cell: Cell) -> None:
    def clear(_: Any) -> Any:
        cell.door(False)
        return SimpleNamespace(success=True)

    cell.io.services["/clear"] = clear
    robot = cell.robot(stop_when=[DOOR], recover=[{"service": "/clear"}])
    with LiveHal.running(robot) as hal:
        cell.door(True)
        hal.wait_for(lambda: hal.stopped_for("robot_stop"))
        hal.loop.reset(None).result(60)
        hal.wait_for(hal.active)


def test_a_latched_one_needs_a_person(cell: Cell) -> None:
    with LiveHal.running(cell.robot(stop_when=[{**DOOR, "latched": True}])) as hal:
        cell.door(True)
        hal.wait_for(lambda: hal.loop.status().state is SafetyState.EMERGENCY)
        assert "door open" in hal.loop.status().cause.text
        hal.loop.reset_emergency()  # while it holds
        hal.wait_for(lambda: hal.loop.path.emergency_pressed)
        cell.door(False)
        with pytest.raises(SafetyError, match="latched emergency stop"):
            hal.loop.reset(None).result(60)
        assert hal.loop.status().state is SafetyState.EMERGENCY
        hal.loop.reset_emergency()
        hal.wait_for(hal.active)
