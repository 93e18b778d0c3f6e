"""Topics over time: rates, gaps, clocks, and the smallest skew that would do."""

from __future__ import annotations

import pytest

from user_hal.checking.streams import (
    Stream,
    StreamWatch,
    rounded_up,
    skew_of,
    streams_of,
    topic_uses,
)
from user_hal.checking.tables import streams_section
from user_hal.fakes.local_topics import Header, JointState, LocalTopics, Time

NOW_NS = 1_800_000_000_000_000_000


def stream(topic: str, period_s: float, phase_s: float, count: int = 50, **more: object) -> Stream:
    found = Stream((topic,), topic, **more)  # type: ignore[arg-type]
    for index in range(count):
        at_ns = NOW_NS + int((phase_s + index * period_s) * 1e9)
        found.take(at_ns, at_ns + 1_000_000, at_ns + 1_000_000)
    return found


def test_rate_age_and_gap() -> None:
    one = stream("/a", 0.01, 0.0)
    assert one.rate_hz == pytest.approx(100.0)
    assert one.ages_s[0] == pytest.approx(0.001)
    assert one.largest_gap_s == pytest.approx(0.01)
    assert Stream((), "/b").rate_hz == 0.0


@pytest.mark.parametrize("phase_ms", [0, 20, 50, 80])
def test_two_topics_at_10_hz_are_as_far_apart_as_their_phases(phase_ms: int) -> None:
    """Whichever is newest, the other one's nearest message is at most half a period away."""
    skew = skew_of([stream("/a", 0.1, 0.0), stream("/b", 0.1, phase_ms / 1000)], 0.04)
    assert skew is not None
    # the common moment is the older newest: the newer topic's nearest is one phase off
    assert skew.largest_s == pytest.approx(min(phase_ms, 100 - phase_ms) / 1000, abs=1e-6)
    assert (skew.share > 0) == (skew.largest_s > 0.04)


def test_a_missing_message_makes_the_largest_skew_and_names_its_topic() -> None:
    gapped = stream("/b", 0.1, 0.07, 10)
    for later in range(11, 30):  # one is missing
        at_ns = NOW_NS + int((0.07 + later * 0.1) * 1e9)
        gapped.take(at_ns, at_ns + 1_000_000, at_ns + 1_000_000)
    skew = skew_of([stream("/a", 0.1, 0.0, 30), gapped], 0.05)
    assert skew is not None and skew.topic == "/b"
    assert skew.largest_s == pytest.approx(0.07)
    assert skew.share == pytest.approx(0.03 / 2.9, rel=0.1)


def test_topics_that_do_not_lead_and_silent_ones_have_no_skew() -> None:
    assert skew_of([Stream((), "/a")], 0.05) is None
    alone = skew_of([stream("/a", 0.1, 0.0), stream("/b", 1.0, 0.0, 5, leads=False)], 0.05)
    assert alone is not None and alone.largest_s == 0.0
    assert rounded_up(0.0501) == pytest.approx(0.052) and rounded_up(0.05) >= 0.051


@pytest.mark.parametrize(
    ("shift_s", "text"),
    [(3.0, "ahead of this machine's"), (-3.0, "come 3.001 s after their stamps"), (0.0, "")],
)
def test_clocks_are_told_apart(shift_s: float, text: str) -> None:
    one = stream("/a", 0.1, 0.0)
    one.stamps_ns = [stamp_ns + int(shift_s * 1e9) for stamp_ns in one.stamps_ns]
    fault, cure = one.clock_fault()
    assert text in fault if text else not fault
    assert bool(cure) == bool(text)
    section = streams_section([one])
    assert section.failed == bool(text)
    assert section.rows[0][:3] == ("/a", "/a", "10.0")


def test_a_clock_that_stands_still() -> None:
    one = stream("/a", 0.1, 0.0)
    one.stamps_ns = [one.stamps_ns[0]] * one.count
    assert "stamps stand still" in one.clock_fault()[0]


def test_topics_are_found_wherever_they_stand() -> None:
    uses = list(
        topic_uses(
            {
                "observation": {
                    "joint_position": {"parts": [{"topic": "/l", "type": "x"}, {"topic": "/r"}]},
                    "wrench": {"topic": "/ft", "resample": "latest", "max_age_s": 1.0},
                },
                "groups": {
                    "left": {
                        "observation": {"tcp_pose": {"topic": "/l", "stamp": "arrival"}},
                        "action": {
                            "command": {"topic": "/l/cmd", "type": "y"},
                            "gripper": {"topic": "/l/hand"},
                        },
                    }
                },
                "cameras": {"devices": {"wrist": {"params": {"topic": "/image"}}}},
                "stop_when": [{"topic": "/safety", "latched": True}],
                "home": {"command": {"topic": "/home"}},
            }
        )
    )
    read = {use.topic for use in uses if use.read}
    assert read == {"/l", "/r", "/ft", "/image", "/safety"}
    assert {use.topic for use in uses if not use.read} == {"/l/cmd", "/l/hand", "/home"}
    streams = {stream.topic: stream for stream in streams_of(uses)}
    assert streams["/l"].leads and not streams["/l"].by_arrival
    assert not streams["/ft"].leads and streams["/ft"].max_age_s == 1.0
    assert not streams["/image"].leads and streams["/image"].camera
    assert streams["/safety"].latched


def test_it_records_messages_with_their_stamps() -> None:
    io = LocalTopics(lambda: NOW_NS)
    one = Stream(("joint_position",), "/joint_states", "sensor_msgs/msg/JointState")
    with StreamWatch(io, [one, Stream((), "/nobody")]):
        publisher = io.publisher("/joint_states", "sensor_msgs/msg/JointState")
        publisher.publish(JointState(Header(Time(1_799_999_999, 5))))
        publisher.publish(JointState(Header(Time())))
    publisher.publish(JointState())
    assert one.count == 2 and one.stamped
    assert one.stamps_ns == [1_799_999_999_000_000_005, NOW_NS]


def test_images_have_a_skew_of_their_own() -> None:
    states, images = stream("/a", 0.01, 0.0, 200), stream("/image", 0.1, 0.003, 20)
    images.leads, images.camera = False, True
    skew = skew_of([states, images], 0.05, cameras=True)
    assert skew is not None and skew.topic == "/image"
    assert skew.largest_s == pytest.approx(0.1, abs=0.011), "just before the next one comes"
    assert skew.share == pytest.approx(0.5, abs=0.1)
    assert skew_of([states], 0.05, cameras=True) is None
    alone = skew_of([states, images], 0.05)
    assert alone is not None and alone.largest_s == 0.0
