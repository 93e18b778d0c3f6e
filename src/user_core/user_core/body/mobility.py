"""What is known of how a robot can move, beyond the spec that policies are built from.

A driver that knows it (from a URDF, a data sheet) has an attribute ``mobility``. The safety gate
keeps commands within it, and uses it to tell readings that cannot be true. It is no part of the
spec, so that writing a velocity limit down makes no other robot of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from user_core.specs import Array


@dataclass(frozen=True)
class Mobility:
    """What is known of how a robot can move.

    Attributes:
        fastest: By the name of an array of joint positions: the fastest that each joint can
            move, rad/s (m/s where it is prismatic); infinity: unknown.
        continuous: By the name of such an array: which of its elements are joints that turn
            without an end, so that positions a whole turn apart are the same.
        goes_on: Names of the action groups (empty: of the only one) whose changes are carried out
            as velocities: the robot goes on with the last until it is stopped, and is not at rest
            when commands are late.
        prismatic: Names of joints that shift instead of turning: their numbers are m, not rad.
        summed: Names of the action groups whose velocities the driver sums up to targets: the first
            after a stop starts from where the robot is measured to be.
    """

    fastest: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    continuous: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    goes_on: tuple[str, ...] = ()
    prismatic: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()

    def fastest_of(self, array: str, rows: Array) -> list[float]:
        """The fastest that some elements can move, per second; infinity where unknown."""
        known = self.fastest.get(array, ())
        return [known[row] if row < len(known) else float("inf") for row in rows.tolist()]

    def continuous_of(self, array: str, rows: Array) -> list[bool]:
        """Which of some elements are joints that turn without an end."""
        known = self.continuous.get(array, ())
        return [row in known for row in rows.tolist()]


def mobility_of(device: object) -> Mobility:
    """What a driver knows; nothing, where it does not say."""
    found = getattr(device, "mobility", None)
    return found if isinstance(found, Mobility) else Mobility()
