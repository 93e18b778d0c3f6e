"""Clock faults of robots, told apart, each with its amount and its cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from user_core.config import from_mapping
from user_core.errors import DeviceError, DeviceFault, DeviceTimeout
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import MESSAGES, Float64, Header, JointState, Time
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.reading.observations import Observer

STATE = "sensor_msgs/msg/JointState"
SECOND_NS = 10**9
NOW_NS = 10**18


class OneMoment(LocalTopics):
    """Topics of which all messages arrive at the moment at which they are read: amounts are exact."""

    def monotonic_ns(self) -> int:
        return SECOND_NS


class HeldUp(LocalTopics):
    """Topics whose reader is held up after a look at the clock, while ``meanwhile`` happens."""

    meanwhile: Callable[[], None] | None = None

    def now_ns(self) -> int:
        now_ns, happens, self.meanwhile = super().now_ns(), self.meanwhile, None
        if happens is not None:
            happens()
        return now_ns


def told(
    stamps_ns: list[int], now_ns: int, io: LocalTopics | None = None, **entry: Any
) -> DeviceError | None:
    """What is said about messages with these stamps; None when they can be read."""
    try:
        observed(stamps_ns, io or OneMoment(lambda: now_ns), **entry).read()
    except DeviceError as error:
        return error
    return None


def observed(stamps_ns: list[int], io: LocalTopics, **entry: Any) -> Observer:
    """Who has heard messages with these stamps."""
    config = from_mapping(
        Ros2Config,
        {
            "robot": "toy",
            "joints": ["a"],
            "observation": {
                "joint_position": {"topic": "/q", "type": STATE, "field": "position", **entry}
            },
            "action": {
                "kind": "joint_delta", "low": -0.05, "high": 0.05,
                "command": {"topic": "/c", "type": "std_msgs/msg/Float64MultiArray"},
            },
        },
    )  # fmt: skip
    observer = Observer(config)
    observer.subscribe(io)
    publisher = io.publisher("/q", STATE)
    for stamp_ns in stamps_ns:
        publisher.publish(JointState(Header(Time(*divmod(stamp_ns, SECOND_NS))), ["a"], [0.5]))
    return observer


FROZEN = [NOW_NS - 2 * SECOND_NS] * 8


@pytest.mark.parametrize(
    ("stamps_ns", "now_ns", "kind", "texts"),
    [
        ([NOW_NS - 3 * SECOND_NS], NOW_NS, DeviceTimeout,
         ["3.000 s after their stamps", "behind", "chrony or PTP"]),
        ([NOW_NS + 3 * SECOND_NS], NOW_NS, DeviceFault,
         ["3.000 s ahead of this machine's clock", "chrony or PTP"]),
        (FROZEN, NOW_NS, DeviceTimeout,
         ["stamps stand still: the last 8 have the same, 2.000 s ago", "Repair the stamps"]),
        ([5000 * SECOND_NS], NOW_NS, DeviceTimeout, ["switched on (5000.0 s)", "system time"]),
        ([NOW_NS], 42 * SECOND_NS, DeviceFault,
         ["stamps are of real time, but this node's clock is simulated", "for both or for neither"]),
        ([42 * SECOND_NS], 0, DeviceFault,
         ["this node's clock stands at 0", "nobody publishes /clock", "use_sim_time: false"]),
    ],
)  # fmt: skip
def test_a_clock_fault_is_told_with_amount_and_cure(
    stamps_ns: list[int], now_ns: int, kind: type[DeviceError], texts: list[str]
) -> None:
    error = told(stamps_ns, now_ns)
    assert isinstance(error, kind)
    for text in [*texts, "/q"]:
        assert text in str(error)
    if "use_sim_time" not in str(error):
        assert "stamp: arrival" in str(error)
    assert told(stamps_ns, now_ns, stamp="arrival") is None


def test_simulated_time_is_told_from_time_since_boot_by_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MESSAGES, "rosgraph_msgs/msg/Clock", Float64)
    io = LocalTopics(lambda: NOW_NS)
    io.publisher("/clock", "rosgraph_msgs/msg/Clock")
    error = told([42 * SECOND_NS], NOW_NS, io)
    assert "simulated time (42.0 s; /clock is published)" in str(error)
    assert "Set use_sim_time: true for this node as well, or set stamp: arrival" in str(error)


@pytest.mark.parametrize("stamps_ns", [[0], [NOW_NS - SECOND_NS // 10], [NOW_NS] * 20])
def test_what_is_no_fault(stamps_ns: list[int]) -> None:
    assert told(stamps_ns, NOW_NS) is None


def test_a_message_that_came_after_the_clock_was_read_is_not_ahead_of_it() -> None:
    """Seen on a busy machine: a robot was stopped since its stamps were 0.242 s ahead of its own clock."""
    now_ns = [NOW_NS]
    io = HeldUp(lambda: now_ns[0])
    observer = observed([NOW_NS], io)

    def a_third_of_a_second_passes() -> None:
        now_ns[0] += SECOND_NS // 3
        header = Header(Time(*divmod(now_ns[0], SECOND_NS)))
        io.publisher("/q", STATE).publish(JointState(header, ["a"], [0.75]))

    io.meanwhile = a_third_of_a_second_passes
    arrays, stamp_ns = observer.read()
    assert (arrays["joint_position"].tolist(), stamp_ns) == ([0.75], now_ns[0])
