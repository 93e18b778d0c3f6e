"""Several publishers of one topic: rivals, halves, and those that say nothing of the robot."""

from __future__ import annotations

from typing import Any

import pytest

from user_core.reasons import SEVERAL_PUBLISHERS
from user_hal.fakes import LocalTopics
from user_hal.robots.ros2.commanding.senders import other_commanders
from user_hal.robots.ros2.reading import writers
from user_hal.robots.ros2.reading.writers import Writers
from user_hal.topic_io import Ours

A, B = b"A", b"B"


class Subscription:
    """What the graph says of the topic."""

    topic = "/joint_states"

    def __init__(self, **nodes: str) -> None:
        self._nodes = {number.encode(): node for number, node in nodes.items()}

    @property
    def publisher_nodes(self) -> list[str]:
        return sorted(self._nodes.values())

    def writers(self) -> dict[bytes, str]:
        return self._nodes


BOTH: Any = Subscription(A="/arm", B="/phantom")


def heard(*messages: tuple[bytes, tuple[int, ...]]) -> Writers:
    found = Writers("topic '/joint_states'")
    for writer, columns in messages:
        found.note(writer, columns, BOTH)
    return found


def test_two_that_publish_the_same_joints_are_named_and_logged_once(caplog) -> None:
    found = heard((A, (0, 1)), (B, (0, 1)), (A, (0, 1)), (B, (0, 1)), (A, (0, 1)))
    suspicion = found.suspicion(BOTH)
    assert suspicion.code == SEVERAL_PUBLISHERS
    assert "/arm and /phantom publish the same joints" in suspicion.text
    assert caplog.text.count("/arm, /phantom") == 1


def test_halves_and_publishers_of_other_joints_are_as_they_should_be() -> None:
    assert not heard(*[(A, (0, 1)), (B, (2, 3))] * 3).suspicion(BOTH)
    assert not heard(*[(A, (0, 1)), (B, ())] * 3).suspicion(BOTH)


def test_a_publisher_that_says_nothing_is_named_as_long_as_it_is_there() -> None:
    found = heard((A, (0, 1)), (A, (0, 1)))
    assert "if two of them" in found.suspicion(BOTH).text
    assert not found.suspicion(Subscription(A="/arm"))  # type: ignore[arg-type]


def test_a_publisher_that_took_the_place_of_another_is_no_rival(monkeypatch) -> None:
    found = heard((A, (0,)), (A, (0,)), (B, (0,)), (B, (0,)))
    assert not found.rivals
    monkeypatch.setattr(writers, "_GONE_S", 0.0)  # it comes back, but after a long time
    found.note(A, (0,), BOTH)
    assert not found.rivals


def test_without_numbers_the_nodes_are_named() -> None:
    class Old:
        topic = "/joint_states"
        publisher_nodes = ("/arm", "/phantom")

    found = heard((b"", (0, 1)), (b"", (0, 1)))
    assert "if two of them" in found.suspicion(Old()).text  # type: ignore[arg-type]


@pytest.mark.parametrize("nodes", [{}, {"A": "/arm"}])
def test_one_publisher_is_no_suspicion(nodes) -> None:
    assert not heard((A, (0,))).suspicion(Subscription(**nodes))  # type: ignore[arg-type]


def test_who_else_commands_a_topic_is_named() -> None:
    number = "std_msgs/msg/Float64MultiArray"
    follow = "control_msgs/action/FollowJointTrajectory"

    class Graph(LocalTopics):
        graph = "domain 7"

        def endpoints(self, topic: str) -> Any:
            ends = [Ours(number, node="/joystick"), Ours("std_msgs/msg/Bool", node="/other")]
            return (ends if topic == "/arm" else []), []

    said = other_commanders(Graph(), [("/arm", number), ("/lift", number), ("/a", follow)])
    assert said == ["/arm is commanded by others, too: /joystick; end them while USER drives"]
    assert other_commanders(LocalTopics(), [("/arm", number)]) == []
