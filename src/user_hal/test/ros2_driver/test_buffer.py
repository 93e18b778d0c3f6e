"""The stamped buffer and resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.specs import Array
from user_hal.robots.ros2.buffer import CLOCK_STEP_NS, Sample, StampedBuffer, slerp

MS = 1_000_000


def about_z(angle: float) -> Array:
    return np.array([0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)])


def angle_between(a: Array, b: Array) -> float:
    return 2 * math.acos(min(1.0, abs(float(a @ b))))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10**9), min_size=2, max_size=40, unique=True),
    st.integers(-(10**8), 11 * 10**8),
)
def test_linear_motion_is_reproduced_and_the_distance_to_the_nearest_told(
    stamps: list[int], asked: int
) -> None:
    stamps = sorted(stamps)
    buffer = StampedBuffer(64)
    for stamp in stamps:
        buffer.put(Sample(stamp, np.array([stamp * 2e-9, 1.0 - stamp * 1e-9])))
    values, skew_ns = buffer.at(asked, "linear")  # type: ignore[misc]
    inside = min(max(asked, stamps[0]), stamps[-1])
    np.testing.assert_allclose(values, [inside * 2e-9, 1.0 - inside * 1e-9], atol=1e-9)
    assert skew_ns == min(abs(stamp - asked) for stamp in stamps)
    nearest, same_skew_ns = buffer.at(asked, "nearest")  # type: ignore[misc]
    assert same_skew_ns == skew_ns
    assert round(nearest[0] / 2e-9) in (asked - skew_ns, asked + skew_ns)
    latest, distance_ns = buffer.at(asked, "latest")  # type: ignore[misc]
    assert latest[0] == stamps[-1] * 2e-9 and distance_ns == abs(asked - stamps[-1])


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(0, 1), st.booleans(), st.booleans())
def test_rotations_go_the_short_way_at_constant_speed(
    start: float, turn: float, share: float, flip_a: bool, flip_b: bool
) -> None:
    a, b = about_z(start), about_z(start + turn)
    middle = slerp(-a if flip_a else a, -b if flip_b else b, share)
    assert np.linalg.norm(middle) == pytest.approx(1.0, abs=1e-9)
    assert angle_between(a, middle) == pytest.approx(share * abs(turn), abs=2e-4)
    assert angle_between(b, middle) == pytest.approx((1 - share) * abs(turn), abs=2e-4)


def test_poses_in_a_buffer_turn_on_the_great_circle_and_keep_their_sign() -> None:
    buffer = StampedBuffer(8, rotation=slice(3, 7))
    buffer.put(Sample(0, np.concatenate([[0, 0, 0], about_z(0.0)])))
    buffer.put(Sample(10 * MS, np.concatenate([[1, 0, 0], -about_z(1.0)])))  # the same, other sign
    pose, _ = buffer.at(5 * MS, "linear")  # type: ignore[misc]
    np.testing.assert_allclose(pose, [0.5, 0, 0, *about_z(0.5)], atol=1e-9)
    newest = buffer.newest()
    assert newest is not None
    np.testing.assert_allclose(newest.values[3:], about_z(1.0))


def test_order_capacity_and_a_clock_that_is_set() -> None:
    buffer = StampedBuffer(3)
    assert buffer.newest() is None and buffer.at(0, "linear") is None
    for stamp in (10, 30, 20, 30, 40, 50):
        buffer.put(Sample(stamp * MS, np.array([float(stamp)]), arrival_ns=stamp))
    assert buffer.dropped == 1
    values, skew_ns = buffer.at(0, "nearest")  # type: ignore[misc]
    assert values[0] == 30.0 and skew_ns == 30 * MS  # 10 has left the ring, 30 is there once
    buffer.put(Sample(50 * MS - CLOCK_STEP_NS - 1, np.array([-1.0])))
    newest = buffer.newest()
    assert newest is not None and newest.values[0] == -1.0
    assert buffer.at(50 * MS, "nearest")[0][0] == -1.0  # type: ignore[index]
    buffer.clear()
    assert buffer.newest() is None
