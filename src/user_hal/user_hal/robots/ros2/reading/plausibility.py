"""Readings that cannot be true: of joints, their velocities, and the tool.

Each check sees every message of a stream and raises for what the robot cannot have done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from user_core.errors import ImplausibleReading
from user_core.mobility import Mobility
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.contract.actions import command_quantity
from user_hal.robots.ros2.contract.groups import groups_of
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.joints import JumpCheck, Turns
from user_hal.safety import rotation

#: A velocity is measured worse than a position: it may be this much above what is allowed.
_VELOCITY_MARGIN = 1.5


class ReadingCheck(Protocol):
    """Looks for readings that cannot be true."""

    def check(self, values: Array, stamp_ns: int, arrival_ns: int) -> None:
        """Judge the next reading; raises ImplausibleReading."""


class SpeedCheck:
    """Finds joint velocities that no joint has.

    Args:
        joints: Their names.
        limits: Fastest that they can move, (n,) rad/s.
        margin: Factor on the limits.
    """

    def __init__(self, joints: Sequence[str], limits: Array, margin: float) -> None:
        self._joints, self._limits = list(joints), limits * margin

    def check(self, values: Array, stamp_ns: int, arrival_ns: int) -> None:
        """Judge the next reading, (n,) rad/s; raises ImplausibleReading."""
        over = np.abs(values) - self._limits
        worst = int(np.argmax(over))
        if over[worst] > 0:
            raise ImplausibleReading(
                f"velocity of joint {self._joints[worst]!r}",
                got=f"{values[worst]:.3f} rad/s",
                expected=f"at most {self._limits[worst]:.3f} rad/s",
                hint="Look at the units of the topic, and at joint_velocity_limits",
            )


class PoseJumpCheck(JumpCheck):
    """Finds poses that the tool cannot have reached since the one before.

    Args:
        limits: The fastest that the tool can move and turn, (2,) m/s and rad/s.
        margin: Factor on the limits.
        settled: Readings in a row that must fit each other after a jump.
    """

    def __init__(self, limits: Array, margin: float, settled: int) -> None:
        super().__init__((), limits, Turns(), margin, settled)

    def _ways(self, before: Array, now: Array) -> Array:
        shift = float(np.linalg.norm(now[:3] - before[:3]))
        back = rotation.conjugate((before[3], before[4], before[5], before[6]))
        turn = rotation.multiply((now[3], now[4], now[5], now[6]), back)
        return np.array([shift, float(np.linalg.norm(rotation.to_vector(turn)))])

    def _describe(self, which: int, before: Array, now: Array) -> tuple[str, str, str]:
        part, unit = (slice(0, 3), "m") if which == 0 else (slice(3, 7), "rad")
        texts = ("[" + ", ".join(f"{v:.3f}" for v in pose[part]) + "]" for pose in (before, now))
        return "the tool", " to ".join(texts), unit


def check_for(
    contract: Contract, name: str, elements: Sequence[str], turns: Turns
) -> ReadingCheck | None:
    """What looks for readings of some elements of an array that cannot be true; None: nothing is
    known of what they can do.

    Args:
        contract: What is known.
        name: Of the array.
        elements: Names of the joints; empty where they are not known, or the array has none.
        turns: Which of them turn without an end.
    """
    quantity, timing = name.rpartition(".")[2], contract.timing
    if quantity == "tcp_pose" and contract.tool_velocity_limits:
        limits = np.array(contract.tool_velocity_limits)
        return PoseJumpCheck(limits, timing.jump_margin, timing.settled_readings)
    fastest = _fastest(contract, elements) if elements else None
    if fastest is None or quantity not in ("joint_position", "joint_velocity"):
        return None
    if quantity == "joint_velocity":
        return SpeedCheck(elements, fastest, timing.jump_margin * _VELOCITY_MARGIN)
    return JumpCheck(elements, fastest, turns, timing.jump_margin, timing.settled_readings)


def mobility_of_contract(contract: Contract) -> Mobility:
    """What a contract knows of how the joints can move, for the safety gate."""
    fastest: dict[str, tuple[float, ...]] = {}
    continuous: dict[str, tuple[int, ...]] = {}
    for name in contract.observation:
        if name.rpartition(".")[2] != "joint_position":
            continue
        joints = contract.joints_of(name)
        elements = contract.elements(name) or joints
        if not set(elements) <= set(joints):
            continue
        speeds = _fastest(contract, elements)
        if speeds is not None:
            fastest[name] = tuple(speeds.tolist())
        if endless := [i for i, joint in enumerate(elements) if joint in contract.continuous]:
            continuous[name] = tuple(endless)
    goes_on = tuple(
        group.name
        for group in groups_of(contract)
        if group.action.kind in (ActionKind.JOINT_DELTA, ActionKind.EE_DELTA)
        and command_quantity(group.action, group.action.command) in ("velocities", "twist")
    )
    summed = tuple(
        group.name
        for group in groups_of(contract)
        if group.action.kind in (ActionKind.JOINT_VELOCITY, ActionKind.EE_TWIST)
        and command_quantity(group.action, group.action.command) in ("positions", "pose")
    )
    return Mobility(fastest, continuous, goes_on, contract.prismatic, summed)


def _fastest(contract: Contract, joints: Sequence[str]) -> Array | None:
    """The fastest that some joints can move, (n,) rad/s; None where nobody says."""
    limits, every = contract.joint_velocity_limits, contract.joint_names
    if limits is None:
        return None
    known = np.broadcast_to(np.asarray(limits, float), (len(every),))
    return known[[every.index(joint) for joint in joints]]
