"""When a person counts as driving."""

from __future__ import annotations

import pytest

from user_core.errors import ConfigError
from user_hal.teleops.hand_device import Engagement, EngagementConfig


def test_a_dead_man_switch_counts_while_it_is_held_and_not_a_moment_longer() -> None:
    engagement = Engagement(EngagementConfig(hold_s=10.0))
    assert [engagement.update(held, 1.0, i) for i, held in enumerate([False, True, True, False])] == [
        False, True, True, False,
    ]  # fmt: skip


def test_without_a_switch_deflection_takes_over_with_hysteresis_and_hold_time() -> None:
    engagement = Engagement(EngagementConfig(enter=0.2, leave=0.1, hold_s=0.5))
    course = [
        (0.0, 0.15, False),  # not enough
        (0.1, 0.25, True),
        (0.2, 0.15, True),  # between the thresholds: goes on
        (0.3, 0.05, True),  # below: held for a while
        (0.6, 0.05, True),
        (0.65, 0.15, True),  # and came back in time
        (1.0, 0.0, True),
        (1.16, 0.0, False),  # let go
        (1.2, 0.15, False),
    ]
    assert [engagement.update(None, d, t) for t, d, _ in course] == [e for _, _, e in course]


def test_a_device_without_a_switch_may_not_be_asked_for_one() -> None:
    engagement = Engagement(EngagementConfig(deadman=False, enter=0.2))
    assert not engagement.update(True, 0.1, 0.0)  # the switch does not count
    assert engagement.update(False, 0.3, 0.1)


def test_thresholds_must_make_sense() -> None:
    with pytest.raises(ConfigError, match="at most enter"):
        EngagementConfig(enter=0.1, leave=0.2)
