"""From what a robot was told, or did, to the action of a control period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.commanding.targets import way
from user_hal.robots.ros2.contract.groups import Group
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.recorded.commands import CommandReader, GripperReader

_CHANGES = (ActionKind.JOINT_DELTA, ActionKind.EE_DELTA)
_PLACES = (ActionKind.JOINT_POSITION, ActionKind.EE_POSE)
_VELOCITIES = (ActionKind.JOINT_VELOCITY, ActionKind.EE_TWIST, ActionKind.BASE_TWIST)


class GroupActions:
    """The part of one group in an action.

    Where targets are places, an action is what the robot was told last within the period, and a
    change the way from what it was told last before. Velocities and efforts are means over the
    period. So the sum of the actions is what the robot was told, at whatever rate that was.

    Args:
        group: Of the contract.
        measured: From what the robot did, in place of what it was told.

    Raises:
        ConfigError: It cannot be told from the contract's topics.
    """

    def __init__(self, group: Group, measured: bool) -> None:
        self._group, self._measured = group, measured
        self._kind, self._period_s = group.action.kind, group.contract.period_s
        self._turns = Turns(group.joints, group.contract.continuous)
        self.reader = None if measured else CommandReader(group)
        self.grippers = [GripperReader(g) for g in group.action.all_grippers.values()]
        self._shown = [
            None
            if reader.is_recorded and not measured
            else self._source(name.removeprefix(f"{group.name}."), name)
            for name, reader in zip(group.action.all_grippers, self.grippers)
        ]
        self._quantity = self._observed() if measured else ""

    @property
    def types(self) -> dict[str, str]:
        """The topics that it is read from, with their types."""
        found = dict(self.reader.types) if self.reader else {}
        if not self._measured:
            for gripper in self.grippers:
                found |= gripper.types
        return found

    def take(self, topic: str, time_ns: int, message: Any) -> None:
        """Take a message of one of its topics. Raises DeviceFault."""
        if self.reader is not None and topic in self.reader.types:
            self.reader.take(topic, time_ns, message)
            numbers = self.reader.fingers.at(time_ns)
            for gripper in self.grippers:
                if gripper.config.in_command and numbers is not None:
                    gripper.put_fingers(time_ns, numbers)
        for gripper in self.grippers:
            if topic in gripper.types:
                gripper.take(topic, time_ns, message)

    def between(
        self,
        start_ns: int,
        end_ns: int,
        before: Mapping[str, Array],
        after: Mapping[str, Array],
    ) -> Array | None:
        """The action of a period, (a,) float64, not cut to its bounds.

        Args:
            start_ns: When it begins, by the clock of the recording.
            end_ns: When it ends.
            before: The observation at its beginning.
            after: That at its end.

        Returns:
            None while the robot has not been told anything.
        """
        own = self._moved(before, after) if self._measured else self._commanded(start_ns, end_ns)
        if own is None:
            return None
        openings: list[float] = []
        for gripper, shown in zip(self.grippers, self._shown):
            if shown is not None:
                openings.append(float(np.clip(np.ravel(after[shown])[0], 0.0, 1.0)))
                continue
            found = gripper.openings.at(end_ns)
            if found is None:
                return None
            openings.append(float(found[0]))
        return np.concatenate([own, openings])

    def _commanded(self, start_ns: int, end_ns: int) -> Array | None:
        assert self.reader is not None  # noqa: S101 - made for what was told
        targets, quantity = self.reader.targets, self.reader.quantity
        if quantity in ("positions", "pose"):
            last, now = targets.at(start_ns), targets.at(end_ns)
            if now is None or (last is None and self._kind not in _PLACES):
                return None
            if self._kind in _PLACES:
                return now
            assert last is not None  # noqa: S101 - seen to above
            change = self._change(last, now)
            return change if self._kind in _CHANGES else change / self._period_s
        mean = targets.mean(start_ns, end_ns)
        if mean is None:
            return None
        mean = self._elements(mean)
        return mean * self._period_s if self._kind in _CHANGES else mean

    def _moved(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> Array:
        rows = self._group.rows(self._quantity.rpartition(".")[2])
        start, end = (
            np.asarray(seen[self._quantity], float) if rows is None
            else np.asarray(seen[self._quantity], float)[rows]
            for seen in (before, after)
        )  # fmt: skip
        if self._kind in _PLACES:
            return end
        change = self._change(start, end)
        return change if self._kind in _CHANGES else change / self._period_s

    def _change(self, start: Array, end: Array) -> Array:
        if self._group.moves_joints:
            found: Array = self._turns.way(start, end)
            return found
        return self._elements(way(start, end))

    def _elements(self, twist: Array) -> Array:
        """The numbers of a twist that the action has."""
        if self._group.moves_joints:
            return twist
        action = self._group.action
        if self._kind is ActionKind.BASE_TWIST:
            return twist[[0, 1, 5]] if action.sideways else twist[[0, 5]]
        return twist if action.rotation else twist[:3]

    def _observed(self) -> str:
        quantity = "joint_position" if self._group.moves_joints else "tcp_pose"
        possible = self._kind in (
            *_PLACES,
            *_CHANGES,
            ActionKind.JOINT_VELOCITY,
            ActionKind.EE_TWIST,
        )
        found = self._group.source(quantity)
        if not possible or found is None:
            raise ConfigError(
                f"{self._group.where}action",
                got=f"{self._kind.value} as measured"
                + ("" if found or not possible else f", and no {quantity} in the observation"),
                expected="a place, change or velocity of joints or tool that the observation shows",
            )
        return found

    def _source(self, name: str, element: str) -> str:
        """The array of the observation that shows how far a gripper is open."""
        wanted = "gripper" if name == "gripper" else name
        found = self._group.source(wanted) or self._group.source("gripper")
        if found is None:
            raise ConfigError(
                f"gripper {element!r}", got="no topic that says what it was told",
                expected="gripper among the observations: its opening, 0 closed to 1 open",
            )  # fmt: skip
        return found
