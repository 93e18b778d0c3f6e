"""The campaign of the invariant: it runs, shows the same again, and finds what is broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from user_core.reasons import NO_REASON
from user_hal.robots.ros2.commanding.drives import Drive
from user_hal.robots.ros2.commanding.grippers import GripperSender
from user_hal.robots.ros2.commanding.targets import JointTargets, _Progress
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.runtime.command_path import CommandPath
from user_hal.runtime.leases import LeaseBook
from user_hal.safety.group_gate import GroupGate
from user_hal.safety.rules import AccelerationRule, StepRule, VelocityRule
from user_hal.safety.stops import CommandWatchdog, EmergencyStop
from user_testing.invariant.campaign import WORLD_STEPS, Tally, run, run_world, virtual_time
from user_testing.invariant.robots import ROBOTS, CampaignRobot

#: What breaks one safeguard must be found within so many steps.
SOON = 8000


def test_some_thousand_steps_on_every_robot_violate_nothing() -> None:
    tally = run(20, len(ROBOTS) * 300, steps_a_world=300)
    assert not tally.found, "\n".join(f"{found.text}: {found.replay}" for found in tally.found)
    assert len(tally.robots) == len(ROBOTS)
    assert tally.commands > tally.steps // 2, "a campaign that hardly commands proves nothing"
    assert len(tally.faults) > 30


def robots_named(*parts: str) -> list[CampaignRobot]:
    return [robot for robot in ROBOTS if all(part in robot.name for part in parts)]


def never(*_: Any, **__: Any) -> bool:
    return False


def nothing(*_: Any, **__: Any) -> None:
    return None


def no_reason(*_: Any, **__: Any) -> Any:
    return NO_REASON


def whole(*_: Any) -> float:
    return 1.0


def reported_as_asked(self: GripperSender, opening: float) -> float:
    _send(self, opening)
    return opening


_send = GripperSender.send
_next = JointTargets.next


def action_as_asked(self: JointTargets, action: Any, *rest: Any) -> Any:
    target, _ = _next(self, action, *rest)
    return target, action


def without_lead(self: JointTargets, start: Any, measured: Any) -> Any:
    return np.minimum(self._low, start), np.maximum(self._high, start)


def no_topics(self: Ros2Robot) -> tuple[str, ...]:
    return ()


def always(*_: Any, **__: Any) -> bool:
    return True


MUTATIONS: dict[str, tuple[type, str, Any, list[CampaignRobot]]] = {
    "velocities are not limited": (VelocityRule, "limit", never, robots_named("joint_velocity")),
    "steps are not limited": (StepRule, "limit", never, robots_named("joint_delta")[:2]),
    "accelerations are not limited": (AccelerationRule, "limit", never, robots_named("ee_delta")),
    "no lead holds": (JointTargets, "_reach", without_lead, robots_named("joint_delta by F")[:1]),
    "a stop goes where it is measured": (
        JointTargets, "stands", always, robots_named("joint_delta by F")[:1]
    ),
    "stops do nothing": (Drive, "hold", nothing, robots_named("TwistStamped")),
    "the gate does not hear what was carried out": (
        CommandPath, "executed", nothing, robots_named("joint_delta by F")[:1]
    ),
    "the gate forgets no motion at a stop": (
        GroupGate, "hold", nothing, robots_named("joint_delta by F")[:1]
    ),
    "velocities last for a period each": (
        _Progress, "share", whole, robots_named("joint_velocity by JointT")
    ),
    "leases are not looked at": (LeaseBook, "check", nothing, robots_named("joint_delta")[:2]),
    "the emergency stop is not looked at": (
        EmergencyStop, "check", no_reason, robots_named("joint_delta")[:2]
    ),
    "the watchdog sleeps": (CommandWatchdog, "check", no_reason, robots_named("TwistStamped")),
    "the node hears itself": (
        Ros2Robot, "topics_read", property(no_topics), robots_named("joint_delta by F")[:1]
    ),
    "what one group could not plan moves the other": (
        Drive, "unplan", nothing, robots_named("left:")
    ),
    "grippers are reported as told": (
        GripperSender, "send", reported_as_asked, robots_named("joint_delta by F")[:1]
    ),
    "commands are reported as told": (
        JointTargets, "next", action_as_asked, robots_named("joint_delta by J")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_safeguard_that_is_missing_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, instead, robots = MUTATIONS[name]
    monkeypatch.setattr(owner, attribute, instead)
    tally = run(1, SOON, stop_at=1, robots=robots)
    assert tally.found, f"{name}: not found in {tally.steps} steps"
    print(f"{name}: after {tally.steps} steps, {tally.found[0].text}")


def test_a_violation_is_shown_again_by_its_world_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VelocityRule, "limit", never)
    robots = robots_named("joint_velocity")
    (found,) = run(3, SOON, stop_at=1, robots=robots).found
    assert f"--world {found.world} --steps {found.step + 1}" in found.replay
    with virtual_time() as time:
        again = run_world(3, found.world, found.step + 1, time, Tally(), robots=robots)
    assert again == found
    assert found.step < WORLD_STEPS
