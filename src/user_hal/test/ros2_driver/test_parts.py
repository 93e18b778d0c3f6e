"""Arrays that come from several topics, messages and fields; each part has its own age."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault, DeviceTimeout, ImplausibleReading
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import (
    MESSAGES,
    Float64,
    Float64MultiArray,
    Header,
    JointState,
    Time,
)
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.field_paths import FieldPath
from user_hal.robots.ros2.reading.observations import Observer

STATE, NUMBERS, NUMBER = (
    "sensor_msgs/msg/JointState",
    "std_msgs/msg/Float64MultiArray",
    "std_msgs/msg/Float64",
)
JOINTS = ["l1", "l2", "r1", "r2"]
START_NS = 10**18


@dataclass
class MotorState:
    """unitree_go/msg/MotorState, the fields that matter."""

    q: float = 0.0
    label: str = ""


@dataclass
class LowState:
    """unitree_go/msg/LowState, likewise; its motors are of a fixed number."""

    motor_state: list[MotorState] = field(default_factory=lambda: [MotorState() for _ in range(4)])


class World:
    """A robot's topics, and an observer that reads them; time goes on by ``tick``."""

    def __init__(self, joint_position: dict[str, Any], **changes: Any) -> None:
        self.now_ns = START_NS
        self.io = LocalTopics(lambda: self.now_ns)
        self.observer = Observer(contract(joint_position, **changes))
        self.observer.subscribe(self.io)

    def send(self, topic: str, message: Any, type_name: str = STATE) -> None:
        self.io.publisher(topic, type_name).publish(message)

    def state(self, topic: str, age_s: float = 0.0, **positions: float) -> None:
        stamp = Time(*divmod(self.now_ns - int(age_s * 1e9), 10**9))
        self.send(topic, JointState(Header(stamp), list(positions), list(positions.values())))

    def read(self) -> np.ndarray:
        return self.observer.read()[0]["joint_position"]


def contract(joint_position: dict[str, Any], **changes: Any) -> Ros2Config:
    return from_mapping(
        Ros2Config,
        {
            "robot": "toy",
            "joints": JOINTS,
            "observation": {"joint_position": joint_position},
            "action": {
                "kind": "joint_delta",
                "low": -0.05,
                "high": 0.05,
                "command": {"topic": "/c", "type": NUMBERS},
            },
            "timing": {"max_age_s": 0.5, "max_skew_s": 0.05, "connect_timeout_s": 0.2},
            **changes,
        },
    )


def whole(**keys: Any) -> dict[str, Any]:
    return {"topic": "/joint_states", "type": STATE, "field": "position", **keys}


TWO_TOPICS = {"type": STATE, "field": "position", "parts": [{"topic": "/l"}, {"topic": "/r"}]}


def test_halves_on_one_topic_are_merged_by_name() -> None:
    world = World(whole())
    world.state("/joint_states", r2=4.0, r1=3.0)
    with pytest.raises(DeviceFault, match=r"1 messages, none with \['l1', 'l2'\]"):
        world.read()
    world.state("/joint_states", l1=1.0, l2=2.0)
    np.testing.assert_array_equal(world.read(), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(world.observer.measured("joint_position"), [1, 2, 3, 4])
    assert "2 messages" in world.observer.notes()[0]


def test_halves_on_two_topics_are_merged_by_name_or_by_what_the_parts_name() -> None:
    for parts in (
        [{"topic": "/l"}, {"topic": "/r"}],
        [{"topic": "/l", "names": ["l1", "l2"]}, {"topic": "/r", "names": ["r1", "r2"]}],
        [{"topic": "/r", "names": ["r1", "r2"]}, {"topic": "/l"}],
    ):
        world = World({**TWO_TOPICS, "parts": parts})
        world.state("/l", l2=2.0, l1=1.0)
        world.state("/r", r1=3.0, r2=4.0)
        np.testing.assert_array_equal(world.read(), [1.0, 2.0, 3.0, 4.0])


def test_names_that_are_the_same_on_both_sides_become_elements() -> None:
    side = {"names": ["j1", "j2"]}
    parts = [
        {"topic": "/l", **side, "elements": ["l1", "l2"], "scale": 0.5},
        {"topic": "/r", **side, "elements": ["r2", "r1"], "scale": [1.0, 2.0]},
    ]
    config = contract({**TWO_TOPICS, "parts": parts})
    np.testing.assert_array_equal(config.scaling("joint_position")[0], [0.5, 0.5, 2.0, 1.0])
    world = World({**TWO_TOPICS, "parts": parts})
    world.state("/l", j1=1.0, j2=2.0)
    world.state("/r", j1=4.0, j2=3.0)
    np.testing.assert_array_equal(world.read(), [0.5, 1.0, 6.0, 4.0])


def test_a_lift_beside_an_arm_has_its_own_age() -> None:
    world = World(
        {
            "field": "data",
            "parts": [
                {"topic": "/arm", "type": NUMBERS, "size": 3},
                {"topic": "/lift", "type": NUMBER, "elements": ["r2"], "max_age_s": 60.0,
                 "resample": "latest", "scale": 0.001},
            ],
        }
    )  # fmt: skip
    world.send("/arm", Float64MultiArray([1.0, 2.0, 3.0]), NUMBERS)
    world.send("/lift", Float64(400.0), NUMBER)
    np.testing.assert_allclose(world.read(), [1.0, 2.0, 3.0, 0.4])
    world.now_ns += 10**10  # the arm goes on, the lift need not
    world.send("/arm", Float64MultiArray([1.5, 2.0, 3.0]), NUMBERS)
    np.testing.assert_allclose(world.read(), [1.5, 2.0, 3.0, 0.4])


def test_a_part_that_falls_silent_is_named() -> None:
    world = World(TWO_TOPICS)
    world.state("/l", l1=1.0, l2=2.0)
    with pytest.raises(DeviceTimeout, match=r"'/r' .observation 'joint_position'"):
        world.read()
    world = World(whole())
    world.state("/joint_states", age_s=3.0, l1=1.0, l2=2.0)
    world.state("/joint_states", r1=3.0, r2=4.0)
    with pytest.raises(DeviceTimeout, match=r"joint_position': l1, l2\): got stamps 3\.0"):
        world.read()


def test_parts_that_are_too_far_apart_are_told() -> None:
    world = World(TWO_TOPICS)
    world.state("/l", age_s=0.2, l1=1.0, l2=2.0)
    world.state("/r", age_s=0.3, r1=3.0, r2=4.0)
    world.state("/r", r1=3.0, r2=4.0)
    with pytest.raises(DeviceTimeout, match=r"'/r'.*0\.100 s to the other topics"):
        world.read()
    world.state("/l", l1=1.0, l2=2.0)
    np.testing.assert_array_equal(world.read(), [1.0, 2.0, 3.0, 4.0])


def test_a_whole_message_once_does_not_hide_halves_that_go_on() -> None:
    world = World(whole(max_age_s=0.2))
    world.state("/joint_states", **dict.fromkeys(JOINTS, 0.0))
    source = world.observer.sources["joint_position"]
    stream = next(iter(source.parts[0].streams.values()))
    sample = stream.newest()
    assert sample is not None
    stream.buffer.clear()  # as if it had come long ago
    stream.buffer.put(type(sample)(sample.stamp_ns, sample.values, sample.arrival_ns - 10**9))
    world.state("/joint_states", l1=1.0, l2=2.0)
    world.state("/joint_states", r1=3.0, r2=4.0)
    np.testing.assert_array_equal(world.read(), [1.0, 2.0, 3.0, 4.0])


def test_a_jump_of_one_half_is_a_fault_of_that_half() -> None:
    world = World(whole(stamp="header"), joint_velocity_limits=[1.0, 1.0, 2.0, 2.0])
    for step in range(3):
        world.now_ns += 20_000_000
        world.state("/joint_states", l1=1.0, l2=2.0)
        world.state("/joint_states", r1=3.0, r2=0.0 if step == 2 else 4.0)
    with pytest.raises(ImplausibleReading, match=r"joint 'r2'.*jump from 4\.000 to 0\.000"):
        world.read()


def test_a_bad_half_is_not_forgiven_by_the_other() -> None:
    world = World(whole())
    world.state("/joint_states", l1=float("nan"), l2=2.0)
    world.state("/joint_states", r1=3.0, r2=4.0)
    with pytest.raises(DeviceFault, match="'position': l1: got nan.*not_finite"):
        world.read()


@pytest.mark.parametrize(
    ("source", "message", "type_name"),
    [
        ({"type": NUMBERS, "field": "data"}, Float64MultiArray([1.0, 2.0, 3.0, 4.0]), NUMBERS),
        ({"type": NUMBERS, "field": "data", "indices": [3, 2, 1, 0]},
         Float64MultiArray([4.0, 3.0, 2.0, 1.0, 9.0]), NUMBERS),
        ({"type": STATE, "field": "position", "size": 4},
         JointState(position=[1.0, 2.0, 3.0, 4.0]), STATE),
        ({"type": "unitree_go/msg/LowState", "field": "motor_state[*].q"},
         LowState([MotorState(1.0), MotorState(2.0), MotorState(3.0), MotorState(4.0)]),
         "unitree_go/msg/LowState"),
        ({"type": "unitree_go/msg/LowState", "field": "motor_state[*].q", "names": JOINTS,
          "names_field": "motor_state[*].label"},
         LowState([MotorState(4.0, "r2"), MotorState(1.0, "l1"), MotorState(3.0, "r1"),
                   MotorState(2.0, "l2")]), "unitree_go/msg/LowState"),
    ],
)  # fmt: skip
def test_joints_without_names_and_in_nested_fields(
    source: dict[str, Any], message: Any, type_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MESSAGES, "unitree_go/msg/LowState", LowState)
    world = World({"topic": "/state", **source})
    world.send("/state", message, type_name)
    np.testing.assert_array_equal(world.read(), [1.0, 2.0, 3.0, 4.0])
    assert world.observer.specs["joint_position"].names == tuple(JOINTS)


def test_a_joint_state_without_names_is_told_what_to_write() -> None:
    world = World(whole())
    world.send("/joint_states", JointState(position=[1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(DeviceFault, match=r"none with \['l1'.*names.*size: 4, or indices"):
        world.read()


def test_another_number_of_elements_is_a_fault() -> None:
    world = World({"topic": "/state", "type": NUMBERS, "field": "data"})
    world.send("/state", Float64MultiArray([1.0, 2.0, 3.0]), NUMBERS)
    with pytest.raises(DeviceFault, match="'data': got 3 numbers, expected 4"):
        world.read()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("motor_state[*].p", r"motor_state\[\*\] has no 'p'.*'q'"),
        ("motor_state[2].p", r"motor_state\[2\] has no 'p'"),
        ("motor_state.q", "no 'q'"),
        ("motor_state[*].q[0]", r"q is no list"),
    ],
)
def test_nested_fields_are_checked_before_any_message(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FieldPath(path).check(LowState, "unitree_go/msg/LowState")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"topic": "/l", "names": ["l1"]}, {"topic": "/r", "names": ["r1", "r2"]}],
         r"parts: got nothing for \['l2'\]"),
        ([{"topic": "/l", "names": ["l1", "l2"]}, {"topic": "/r", "names": ["l2", "r1", "r2"]}],
         r"parts\[1\]: got 'l2', which parts\[0\] gives as well"),
        ([{"topic": "/l", "names": ["l1_", "l2"]}, {"topic": "/r"}], r"'l1_'.*Did you mean 'l1'"),
        ([{"topic": "/l", "type": NUMBERS, "field": "data", "size": 3},
          {"topic": "/r", "type": NUMBERS, "field": "data", "size": 2}],
         r"parts\[1\]: got 2 more elements, expected at most 1"),
        ([{"topic": "/l", "type": NUMBERS, "field": "data"}, {"topic": "/r"}],
         r"parts\[0\]: got a vector of unknown size"),
        ([{"topic": "/l", "names": ["l1", "l2"], "elements": ["l1"]}, {"topic": "/r"}],
         "different numbers of elements"),
        ([{"topic": "/l", "names": ["l1", "l2"], "scale": [1.0, 2.0, 3.0]}, {"topic": "/r"}],
         r"parts\[0\].scale: got 3 numbers, expected 1 or 2"),
        ([{"topic": "/l", "names": ["l1", "l1"]}, {"topic": "/r"}], r"'l1', which parts\[0\] gives"),
        ([{"names": ["l1", "l2"]}, {"topic": "/r"}], "topic of sensor_msgs/msg/JointState"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(parts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract({**TWO_TOPICS, "parts": parts})


def test_infinities_that_mean_something_are_replaced() -> None:
    """REP-117: +inf is nothing within range, -inf is too near."""
    config = contract(
        whole(),
        observation={
            "joint_position": whole(),
            "ranges": {
                "topic": "/scan", "type": NUMBERS, "field": "data", "size": 4, "scale": 0.001,
                "not_finite": {"inf": 10_000.0, "-inf": 0.0, "nan": 5.0},
            },
        },
    )  # fmt: skip
    observer, io = Observer(config), LocalTopics()
    observer.subscribe(io)
    inf = float("inf")
    io.publisher("/scan", NUMBERS).publish(Float64MultiArray([inf, -inf, float("nan"), 7.0]))
    values = observer.measured("ranges")
    np.testing.assert_allclose(values, [10.0, 0.0, 0.005, 0.007])


@pytest.mark.parametrize("bad", [{"inf": float("inf")}, {"infinity": 1.0}])
def test_a_replacement_is_a_number_for_something_that_is_none(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not_finite"):
        contract(whole(not_finite=bad))


@pytest.mark.parametrize(
    ("entry", "key"),
    [({"names": ["l1", "l1", "r1", "r2"]}, "names"), ({"indices": [0, 1, 1, 2]}, "indices")],
)
def test_an_element_that_is_taken_twice_is_refused(entry: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"joint_position.{key}: got .*expected each once"):
        contract(whole(**entry))
