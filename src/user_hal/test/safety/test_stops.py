"""Reasons for a safe stop, and which of them counts."""

from __future__ import annotations

import math

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.reasons import NO_REASON, Reason
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_hal.safety import Refused, SafetyConfig
from user_hal.safety.config import ForceConfig
from user_hal.safety.stops import (
    BoundaryStop,
    CommandWatchdog,
    EmergencyStop,
    ForceStop,
    ObservationAge,
    SafetyState,
    SafetySupervisor,
)
from user_testing.worlds.robots.safety import reading, robot

SECOND_NS = 1_000_000_000


def test_force_stops_with_hysteresis() -> None:
    force = ForceStop(ForceConfig(stop_n=20.0, resume_n=10.0))
    course = [(19.9, False), (20.0, True), (15.0, True), (10.1, True), (9.9, False), (15.0, False)]
    for newtons, stopped in course:
        force.observe(reading(wrench=(0.0, newtons, 0.0, 99.0, 0.0, 0.0)))
        assert bool(force.check(0)) is stopped, newtons


def test_torque_stops_too_and_goes_on_below_sixty_percent() -> None:
    force = ForceStop(ForceConfig(stop_n_m=5.0))
    for newton_metres, stopped in [(4.9, False), (5.1, True), (3.1, True), (2.9, False)]:
        force.observe(reading(wrench=(500.0, 0.0, 0.0, 0.0, 0.0, newton_metres)))
        assert bool(force.check(0)) is stopped
    assert math.isinf(force._stop_at[0])


def test_force_needs_a_robot_that_feels() -> None:
    spec = RobotSpec("numb", {"x": ArraySpec((1,))}, ArraySpec((1,)))
    with pytest.raises(ConfigError, match="wrench"):
        ForceStop.all_for(SafetyConfig(force=ForceConfig(stop_n=1.0)), spec)


def test_the_watchdog_watches_from_the_first_command_to_the_stop() -> None:
    watchdog = CommandWatchdog(0.5)
    assert not watchdog.check(10 * SECOND_NS) and watchdog.due_ns is None
    watchdog.sent(10 * SECOND_NS)
    assert watchdog.due_ns == 10.5 * SECOND_NS
    assert not watchdog.check(int(10.49 * SECOND_NS))
    assert watchdog.check(int(10.51 * SECOND_NS))
    watchdog.disarm()
    assert not watchdog.check(99 * SECOND_NS)


def test_a_reading_is_as_old_as_its_stamp_says() -> None:
    age = ObservationAge(0.5)
    assert age.check(0)  # none yet
    age.observed(int(0.3 * SECOND_NS), 10 * SECOND_NS)
    assert not age.check(int(10.1 * SECOND_NS))
    assert age.check(int(10.3 * SECOND_NS))
    age.suspend()
    assert not age.check(99 * SECOND_NS)
    age.observed(-SECOND_NS, 100 * SECOND_NS)  # a stamp from the future is no younger than now
    assert age.check(int(100.6 * SECOND_NS))


@pytest.mark.parametrize(
    ("kind", "config", "out", "code"),
    [
        (
            ActionKind.JOINT_DELTA,
            {"workspace": {"low": [0.2, -0.3, 0.0], "high": [0.7, 0.3, 0.6]}},
            {"tcp": (0.4, 0.0, 0.63)},
            "workspace",
        ),
        (
            ActionKind.EE_DELTA,
            {"joint_limits": {"margin": 0.1}},
            {"joints": (0.0, 0.0, 0.0, -2.78, 0.0, 0.0, 0.0)},
            "joint_limits",
        ),
    ],
)
def test_what_cannot_be_cut_is_watched(kind, config, out, code) -> None:
    (stop,) = BoundaryStop.all_for(from_mapping(SafetyConfig, config), robot(kind))
    stop.observe(reading())
    assert not stop.check(0)
    stop.observe(reading(**out))
    found = stop.check(0)
    assert found.code == code and "outside" in found.text
    stop.observe(reading())
    assert not stop.check(0)


def test_what_the_gate_cuts_is_not_watched_besides() -> None:
    box = {"workspace": {"low": [0.2, -0.3, 0.0], "high": [0.7, 0.3, 0.6]}}
    assert BoundaryStop.all_for(from_mapping(SafetyConfig, box), robot(ActionKind.EE_DELTA)) == []
    joints = {"joint_limits": {"margin": 0.1}}
    assert (
        BoundaryStop.all_for(from_mapping(SafetyConfig, joints), robot(ActionKind.JOINT_DELTA))
        == []
    )


class Switch:
    """A condition that a test turns on and off."""

    def __init__(self, code: str) -> None:
        self.code, self.on = code, False

    def check(self, now_ns: int) -> Reason:
        return Reason(self.code, "on") if self.on else NO_REASON


@pytest.fixture
def parts() -> tuple[EmergencyStop, Switch, Switch, SafetySupervisor]:
    emergency, first, second = EmergencyStop(), Switch("first"), Switch("second")
    return emergency, first, second, SafetySupervisor(emergency, [first, second])


def test_a_stop_is_made_once_and_ends_with_the_next_command(parts) -> None:
    _, first, _, supervisor = parts
    supervisor.sent()
    first.on = True
    assert supervisor.check(0) and not supervisor.check(1)
    assert (supervisor.state, supervisor.present) == (SafetyState.STOPPED, True)
    with pytest.raises(Refused, match="first: on"):
        supervisor.admit()
    first.on = False
    assert not supervisor.check(2)
    assert supervisor.state is SafetyState.STOPPED and supervisor.cause.code == "first"
    supervisor.admit()
    supervisor.sent()
    assert supervisor.state is SafetyState.ACTIVE and not supervisor.cause


def test_the_first_condition_is_the_cause_and_the_emergency_stop_outranks_all(parts) -> None:
    emergency, first, second, supervisor = parts
    second.on = True
    assert supervisor.check(0) and supervisor.cause.code == "second"
    first.on = True
    assert not supervisor.check(1) and supervisor.cause.code == "first"
    emergency.press("me")
    assert supervisor.check(2), "it stops the robot once more, whatever was before"
    assert supervisor.state is SafetyState.EMERGENCY
    with pytest.raises(Refused) as caught:
        supervisor.admit()
    assert caught.value.code == "emergency_stop"
    emergency.reset()
    assert not supervisor.check(3)
    assert (supervisor.state, supervisor.cause.code) == (SafetyState.STOPPED, "first")


def test_an_event_does_not_hide_a_cause_that_is_still_there(parts) -> None:
    _, first, _, supervisor = parts
    supervisor.sent()
    assert supervisor.trip(Reason("watchdog", "no command"))
    assert supervisor.state is SafetyState.STOPPED and not supervisor.present
    supervisor.admit()
    first.on = True
    supervisor.check(0)
    assert not supervisor.trip(Reason("watchdog", "no command"))
    assert supervisor.cause.code == "first" and supervisor.present
