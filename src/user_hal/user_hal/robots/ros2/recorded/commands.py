"""From recorded messages of commands to targets: the inverse of what the driver sends.

Targets are as :mod:`user_hal.robots.ros2.commanding.targets` has them: joints in our units and
order, tool poses and twists in the base frame.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from user_core.errors import ConfigError, DeviceFault, SpecError
from user_core.specs import Array
from user_hal.robots.ros2.contract.actions import CommandConfig, command_quantity
from user_hal.robots.ros2.contract.grippers import GripperConfig
from user_hal.robots.ros2.contract.groups import Group
from user_hal.robots.ros2.field_paths import FieldPath
from user_hal.robots.ros2.frames import Transform, from_rpy, plain
from user_hal.robots.ros2.messages import (
    BOOL,
    JOINT_JOG,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    LAYOUTS,
    NUMBER,
    NUMBERS,
    PLAIN_POSE,
    PLAIN_TWIST,
    POSE,
    STATE_FIELDS,
    TWIST,
    is_action,
    is_service,
)

#: Controllers stop when nothing comes; a velocity that is older than this is none any more.
HOLD_NS = 500_000_000


class Timeline:
    """Numbers that hold from a moment until the next."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._values: list[Array] = []

    def put(self, time_ns: int, values: Array) -> None:
        """From now on these hold; what was planned for later does not come."""
        self.end_plan(time_ns - 1)
        self._times.append(time_ns)
        self._values.append(values)

    def end_plan(self, time_ns: int) -> None:
        """What was planned for after a moment does not come."""
        at = bisect_right(self._times, time_ns)
        del self._times[at:], self._values[at:]

    def plan(self, time_ns: int, values: Array) -> None:
        """From then on these hold, after what is there already."""
        self._times.append(time_ns)
        self._values.append(values)

    def at(self, time_ns: int) -> Array | None:
        """What holds at a moment."""
        index = bisect_right(self._times, time_ns)
        return self._values[index - 1] if index else None

    def mean(self, start_ns: int, end_ns: int, hold_ns: int = HOLD_NS) -> Array | None:
        """The mean over a time, of what holds for at most this long; None: nothing was ever said."""
        first = max(bisect_right(self._times, start_ns) - 1, 0)
        last = bisect_right(self._times, end_ns)
        if first >= last:
            return None
        total: Array = np.zeros_like(self._values[first])
        for index in range(first, last):
            until = self._times[index + 1] if index + 1 < len(self._times) else end_ns
            until = min(until, end_ns, self._times[index] + hold_ns)
            total += self._values[index] * max(until - max(self._times[index], start_ns), 0)
        mean: Array = total / (end_ns - start_ns)
        return mean


class CommandReader:
    """Reads the commands of one group.

    Args:
        group: Of the contract.

    Attributes:
        types: Types by topic.
        targets: What the group was told, by the clock of the recording.
        fingers: The numbers of a gripper in the same messages.

    Raises:
        ConfigError: Its commands do not go by topics, or their frame moves.
    """

    def __init__(self, group: Group) -> None:
        command = group.action.command
        if is_action(command.type):
            raise ConfigError(
                f"{group.where}action.command", got=f"{command.type}: goals are not recorded",
                expected="a topic of commands",
                hint="Take the topic of the same controller in a copy of the contract, or "
                "actions: measured",
            )  # fmt: skip
        self._group, self._command = group, command
        self.quantity = command_quantity(group.action, command)
        self._scale, self._offset = group.scaling(command)
        self._way = self._frame_way(group, command)
        topics = command.topics(group.joints)
        self.types = dict.fromkeys(topics, command.type)
        self._joint_of = dict(zip(topics, range(len(topics)))) if command.per_joint else {}
        self._grippers = [g for g in group.action.all_grippers.values() if g.in_command]
        self._last: Array | None = None
        self.targets, self.fingers = Timeline(), Timeline()

    @staticmethod
    def _frame_way(group: Group, command: CommandConfig) -> Transform | None:
        """From the frame of the messages to the base."""
        frame = command.frame or group.base_frame
        if plain(frame) == plain(group.base_frame):
            return None
        way = group.contract.frames().between(frame, group.base_frame)
        if way is None:
            raise ConfigError(
                f"frame of {group.where}action.command", got=f"{frame}, which moves",
                expected=f"{group.base_frame}, or a frame that transforms knows",
                hint="actions: measured",
            )  # fmt: skip
        return way

    def take(self, topic: str, time_ns: int, message: Any) -> None:
        """Take a message.

        Raises:
            DeviceFault: It is not what the contract says.
        """
        try:
            for number, (later_ns, values) in enumerate(self._numbers(topic, message)):
                target = self._target(values)
                if number == 0:  # a new trajectory takes the place of the one before
                    self.targets.end_plan(time_ns)
                if later_ns:
                    self.targets.plan(time_ns + later_ns, target)
                else:
                    self.targets.put(time_ns, target)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise DeviceFault(
                f"command on {topic!r}", got=str(error), expected="what the contract says"
            ) from error
        if self._grippers:
            found = self._finger_numbers(message)
            if found is not None:
                self.fingers.put(time_ns, found)

    def _target(self, values: Array) -> Array:
        """In our units, in the base frame."""
        values = (values - self._offset) / self._scale
        if self.quantity == "pose" and self._command.quantity == "pose_rpy":
            values = np.concatenate([values[:3], from_rpy(*values[3:].tolist())])
        if self.quantity in ("pose", "twist") and self._way is not None:
            values = self._way.apply("pose" if self.quantity == "pose" else "twist", values)
        return values

    def _numbers(self, topic: str, message: Any) -> Iterator[tuple[int, Array]]:
        """The numbers of a message, each with how much later they hold."""
        kind, count = self._command.type, len(self._group.joints)
        if self._command.mapping:
            words = unfilled(self._command.mapping, message)
            if self._joint_of:
                yield from self._part({self._joint_of[topic]: float(words["value"])}, count)
                return
            size = {"pose": 7, "twist": 6}.get(self.quantity, count)
            size = 6 if self._command.quantity == "pose_rpy" else size
            yield 0, numbers_of(words, size)
        elif kind == JOINT_TRAJECTORY:
            points = list(message.points)
            for point in points:
                where = dict(zip(message.joint_names, np.asarray(point.positions, float)))
                later = point.time_from_start
                later_ns = int(later.sec) * 1_000_000_000 + int(later.nanosec)
                for _, values in self._named(where, count):
                    yield (later_ns if len(points) > 1 else 0), values
        elif kind == NUMBERS:
            data = np.asarray(message.data, float)
            if len(data) < count:
                raise ValueError(f"{len(data)} numbers for {count} joints")
            yield 0, data[:count]
        elif kind == JOINT_STATE:
            field = getattr(message, STATE_FIELDS[self.quantity])
            yield from self._named(dict(zip(message.name, np.asarray(field, float))), count)
        elif kind == JOINT_JOG:
            found = dict(zip(message.joint_names, np.asarray(message.velocities, float)))
            yield from self._named(found, count)
        elif kind in (TWIST, PLAIN_TWIST):
            yield 0, LAYOUTS["twist"].read(message.twist if kind == TWIST else message)
        elif kind in (POSE, PLAIN_POSE):
            yield 0, LAYOUTS["pose"].read(message.pose if kind == POSE else message)

    def _named(self, found: Mapping[str, float], count: int) -> Iterator[tuple[int, Array]]:
        joints = self._group.joints
        return self._part({joints.index(n): v for n, v in found.items() if n in joints}, count)

    def _part(self, found: Mapping[int, float], count: int) -> Iterator[tuple[int, Array]]:
        """Some joints, the others as before; nothing until all were told."""
        last = np.full(count, np.nan) if self._last is None else self._last.copy()
        for index, value in found.items():
            last[index] = value
        self._last = last
        if np.isfinite(last).all():
            yield 0, last

    def _finger_numbers(self, message: Any) -> Array | None:
        gripper, command = self._grippers[0], self._command
        if command.mapping:
            words = unfilled(command.mapping, message)
            if "fingers" in words:
                return np.atleast_1d(np.asarray(words["fingers"], float))
            values = words.get("values")
            return None if values is None else np.asarray(values, float)[-gripper.fingers :]
        if command.type == NUMBERS:
            return np.asarray(message.data, float)[-gripper.fingers :]
        if command.type == JOINT_TRAJECTORY and message.points:
            found = dict(zip(message.joint_names, message.points[-1].positions))
        elif command.type == JOINT_STATE:
            found = dict(zip(message.name, message.position))
        else:
            return None
        names = gripper.joints or tuple(n for n in found if n not in self._group.joints)
        return np.array([found[n] for n in names if n in found], float)


class GripperReader:
    """Reads what a gripper was told, as its opening: 0 closed, 1 open.

    Attributes:
        config: Its keys.
        types: Types by topic; empty where it is told by other means.
        openings: What it was told.
    """

    def __init__(self, config: GripperConfig) -> None:
        self.config = config
        by_topic = config.topic and not is_action(config.type) and not is_service(config.type)
        self.types = {config.topic: config.type} if by_topic else {}
        self.openings = Timeline()

    @property
    def is_recorded(self) -> bool:
        """Whether what it is told stands on a topic."""
        return bool(self.types) or self.config.in_command

    def take(self, topic: str, time_ns: int, message: Any) -> None:
        """Take a message. Raises DeviceFault where it is not what the contract says."""
        config = self.config
        try:
            if config.fields:
                words = unfilled(config.fields, message)
                for word in ("opening", "open"):
                    if word in words:
                        self.openings.put(time_ns, np.array([float(words[word])]))
                        return
                numbers = numbers_of(words, config.fingers)
            elif config.type in (NUMBER, BOOL):
                numbers = np.array([float(message.data)])
            elif config.type == NUMBERS:
                numbers = np.asarray(message.data, float)
            elif config.type == JOINT_STATE:
                found = dict(zip(message.name, message.position))
                numbers = np.array([found[joint] for joint in config.joints], float)
            else:
                found = dict(zip(message.joint_names, message.points[-1].positions))
                numbers = np.array([found[joint] for joint in config.joints], float)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DeviceFault(
                f"command on {topic!r}", got=repr(error), expected="what the contract says"
            ) from error
        self.put_fingers(time_ns, numbers)

    def put_fingers(self, time_ns: int, numbers: Array) -> None:
        """It was told these numbers of its own."""
        closed, opened = (
            np.broadcast_to(np.asarray(n, float), (self.config.fingers,))
            for n in (self.config.closed, self.config.opened)
        )
        count = min(len(numbers), len(closed))
        moves = (opened != closed)[:count]
        if not moves.any():
            return
        share = (numbers[:count] - closed[:count])[moves] / (opened - closed)[:count][moves]
        self.openings.put(time_ns, np.array([float(np.clip(share.mean(), 0.0, 1.0))]))


def unfilled(fields: Mapping[str, Any], message: Any) -> dict[str, Any]:
    """What stands in a message where a mapping of a contract has words: the inverse of
    :class:`~user_hal.robots.ros2.filling.Template`.

    Raises:
        AttributeError, IndexError: The message has no such field.
    """
    found: dict[str, Any] = {}

    def look(value: Any, take: Callable[[], Any]) -> None:
        if isinstance(value, str):
            name, _, index = value.partition("[")
            if name.isidentifier():
                there = take()
                if not isinstance(there, str):
                    if index:
                        found.setdefault(name, {})[int(index.rstrip("]"))] = there
                    else:
                        found[name] = there
        elif isinstance(value, Mapping):
            for path, inner in value.items():
                look(inner, partial(_at, take, FieldPath(str(path))))
        elif isinstance(value, (list, tuple)):
            for number, inner in enumerate(value):
                look(inner, partial(_element, take, number))

    look(dict(fields), lambda: message)
    return {
        name: [value[i] for i in sorted(value)] if isinstance(value, dict) else value
        for name, value in found.items()
    }


def numbers_of(words: Mapping[str, Any], count: int) -> Array:
    """The first numbers of a message. Raises ValueError where there are fewer."""
    for name in ("values", "arm", "value"):
        if name in words:
            numbers = np.atleast_1d(np.asarray(words[name], float))
            if len(numbers) < count:
                raise ValueError(f"{len(numbers)} numbers, not {count}")
            return numbers[:count]
    raise SpecError("fields of a command", got=sorted(words), expected="the word values")


def _at(take: Callable[[], Any], path: FieldPath) -> Any:
    return path.get(take())


def _element(take: Callable[[], Any], number: int) -> Any:
    return take()[number]
