"""Readings that cannot be true: of joints, their velocities, and the tool.

Each check sees every message of a stream and raises for what the robot cannot have done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from user_core.body.mobility import Mobility
from user_core.errors import ImplausibleReading
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.contract.actions import command_quantity
from user_hal.robots.ros2.contract.groups import groups_of
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.joints import JumpCheck, Turns
from user_hal.safety import rotation

#: A velocity is measured worse than a position: it may be this much above what is allowed.
_VELOCITY_MARGIN = 1.5
#: A joint may be measured this share of its range beyond its limits; farther is another unit.
_BEYOND = 0.5
#: Bounds from here on are none.
_NO_LIMIT = 1e4


class ReadingCheck(Protocol):
    """Looks for readings that cannot be true."""

    def check(self, values: Array, stamp_ns: int, arrival_ns: int) -> None:
        """Judge the next reading; raises ImplausibleReading."""

    def forget(self) -> None:
        """The next reading is the first."""


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

    def forget(self) -> None:
        """There is nothing to forget."""


class RangeCheck:
    """Finds joint positions that lie so far beyond the joint's limits that they must be of another
    unit, degrees or millimetres for instance.

    Args:
        joints: Their names.
        low: Lower limits, (n,) rad or m; -inf: none is known.
        high: Upper limits, likewise.
        prismatic: Those that shift.
        then: What else is looked for.
    """

    def __init__(
        self,
        joints: Sequence[str],
        low: Array,
        high: Array,
        prismatic: Sequence[str],
        then: ReadingCheck | None,
    ) -> None:
        self._joints, self._limits, self._then = list(joints), (low, high), then
        self._prismatic = prismatic
        known = np.isfinite(high - low)
        beyond = _BEYOND * np.where(known, high - low, 0.0)
        self._least = np.where(known, low - beyond, -np.inf)
        self._most = np.where(known, high + beyond, np.inf)

    def check(self, values: Array, stamp_ns: int, arrival_ns: int) -> None:
        """Judge the next reading, (n,) rad or m; raises ImplausibleReading."""
        wrong = (values < self._least) | (values > self._most)
        if wrong.any():
            worst = int(np.argmax(wrong))
            name, (low, high) = self._joints[worst], self._limits
            shifts = name in self._prismatic
            unit, other, scale = (
                ("m", "millimetres", "0.001") if shifts else ("rad", "degrees", "0.0174533")
            )
            raise ImplausibleReading(
                f"joint {name!r}",
                got=f"{values[worst]:g} {unit}, far beyond its limits",
                expected=f"{low[worst]:g} to {high[worst]:g} {unit}",
                hint=f"If the topic has {other}, write scale: {scale}; else correct the limits",
            )
        if self._then is not None:
            self._then.check(values, stamp_ns, arrival_ns)

    def forget(self) -> None:
        """The next reading is the first."""
        if self._then is not None:
            self._then.forget()


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
    if not elements or quantity not in ("joint_position", "joint_velocity"):
        return None
    fastest, margin = _fastest(contract, elements), timing.jump_margin
    if quantity == "joint_velocity":
        return None if fastest is None else SpeedCheck(elements, fastest, margin * _VELOCITY_MARGIN)
    jumps: ReadingCheck | None = None
    if fastest is not None:
        jumps = JumpCheck(elements, fastest, turns, margin, timing.settled_readings)
    low, high = _limits(contract, elements)
    if not np.isfinite(high - low).any():
        return jumps
    return RangeCheck(elements, low, high, contract.prismatic, jumps)


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


def _limits(contract: Contract, joints: Sequence[str]) -> tuple[Array, Array]:
    """Lower and upper limits of some joints, (n,) each; infinite where nobody says."""
    known: dict[str, tuple[float, float]] = {}
    for group in groups_of(contract):
        action, count = group.action, len(group.joints)
        low, high = action.target_low, action.target_high
        if low is None and high is None and action.kind is ActionKind.JOINT_POSITION:
            low, high = action.low, action.high
        if low is None or high is None or not count:
            continue
        try:
            lows, highs = (np.broadcast_to(np.asarray(b, float), (count,)) for b in (low, high))
        except ValueError:  # the contract's own checks tell it
            continue
        for name, *limits in zip(group.joints, lows.tolist(), highs.tolist()):
            if max(map(abs, limits)) < _NO_LIMIT and name not in contract.continuous:
                known[name] = (limits[0], limits[1])
    nowhere = (-np.inf, np.inf)
    both = np.array([known.get(joint, nowhere) for joint in joints]).reshape(-1, 2)
    return both[:, 0], both[:, 1]
