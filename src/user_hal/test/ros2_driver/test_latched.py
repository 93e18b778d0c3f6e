"""Topics that are published once and kept, and qualities of service that do not fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceTimeout
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import Bool, Float64MultiArray
from user_hal.robots.ros2.commanding.senders import require_listener, unheard_commands
from user_hal.robots.ros2.contract import Ros2Config, groups_of
from user_hal.robots.ros2.reading.observations import Observer

NUMBERS, BOOL = "std_msgs/msg/Float64MultiArray", "std_msgs/msg/Bool"


def contract(**running: Any) -> Ros2Config:
    entry = {"topic": "/running", "type": BOOL, "field": "data", "size": 1, **running}
    return from_mapping(
        Ros2Config,
        {
            "robot": "toy",
            "joints": ["a", "b"],
            "observation": {
                "joint_position": {"topic": "/q", "type": NUMBERS, "field": "data"},
                "running": entry,
            },
            "action": {
                "kind": "joint_delta", "low": -0.05, "high": 0.05,
                "command": {"topic": "/c", "type": NUMBERS},
            },
            "timing": {"max_age_s": 0.05, "connect_timeout_s": 0.5},
        },
    )  # fmt: skip


@pytest.mark.parametrize("kept", [True, False])
def test_a_bool_that_was_published_once_counts_whatever_its_age(kept: bool) -> None:
    """UR ROS2#973. Whether it is offered as kept or not is found out."""
    io = LocalTopics()
    state = io.publisher("/q", NUMBERS)
    running = io.publisher("/running", BOOL, latched=kept)
    running.publish(Bool(True))
    observer = Observer(contract(latched=True))
    observer.subscribe(io)
    if not kept:
        observer._settle(io)
        running.publish(Bool(True))
    time.sleep(0.06)
    state.publish(Float64MultiArray([0.1, 0.2]))
    arrays, _ = observer.read()
    np.testing.assert_array_equal(arrays["running"], [1.0])
    assert any("/running" in note and "latched" in note for note in observer.notes())
    observer.close()


def test_without_the_key_the_kept_message_is_heard_and_its_age_told() -> None:
    io = LocalTopics()
    io.publisher("/running", BOOL, latched=True).publish(Bool(True))
    observer = Observer(contract())
    observer.subscribe(io)
    io.publisher("/q", NUMBERS).publish(Float64MultiArray([0.1, 0.2]))
    observer._settle(io)
    np.testing.assert_array_equal(observer.read()[0]["running"], [1.0])
    time.sleep(0.06)
    with pytest.raises(DeviceTimeout, match="published once and kept.*write latched: true"):
        observer.measured("running")
    observer.close()


def test_latched_beside_an_age_or_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="none beside latched"):
        contract(latched=True, max_age_s=1.0)
    whole = contract(latched=True)
    with pytest.raises(ConfigError, match="latest everywhere"):
        whole.replace(observation={
            "joint_position": whole.observation["joint_position"].replace(latched=True)
        })  # fmt: skip


@dataclass(frozen=True)
class End:
    """An endpoint of another node."""

    node: str
    type_name: str = NUMBERS
    reliability: str = "reliable"
    durability: str = "volatile"
    deadline_s: float = 0.0
    liveliness: str = "automatic"


class Graph(LocalTopics):
    """A graph with ends of other nodes that DDS does not connect to ours."""

    def __init__(self, publishers: list[End], subscriptions: list[End]) -> None:
        super().__init__()
        self.ends = publishers, subscriptions

    def endpoints(self, topic: str) -> tuple[list[End], list[End]]:  # type: ignore[override]
        return ([], self.ends[1]) if topic == "/c" else (self.ends[0], [])


def test_a_policy_that_does_not_fit_is_named() -> None:
    config = contract()
    position = config.observation["joint_position"].replace(reliability="reliable")
    config = config.replace(observation={"joint_position": position})
    io = Graph([End("/driver", reliability="best_effort")], [])
    observer = Observer(config)
    with pytest.raises(
        DeviceTimeout,
        match="nothing comes from /driver: reliability: best_effort offered, reliable asked for",
    ):
        observer.open(io)
    assert observer.misfits()[0].startswith("/q: /driver: reliability")
    observer.close()


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (End("/controller", deadline_s=0.1), "deadline: none offered, 0.1 s asked for"),
        (End("/controller", durability="transient_local"), "durability: volatile offered"),
    ],
)
def test_a_controller_that_does_not_hear_is_told_by_policy(end: End, text: str) -> None:
    io = Graph([], [end])
    with pytest.raises(
        DeviceTimeout, match=f"command topic '/c'.*not heard by /controller: {text}"
    ):
        require_listener(io, io.publisher("/c", NUMBERS), NUMBERS, 0.1)
    commands = [(topic, kind) for _, topic, kind in groups_of(contract())[0].topics()]
    unheard = unheard_commands(io, commands)
    assert len(unheard) == 1
    assert unheard[0].startswith(f"commands on /c are not heard by /controller: {text}")
    io.ends[1].append(End("/robot"))  # somebody hears: the other one is a bystander
    assert unheard_commands(io, commands) == []
