"""Teleop ``groups``: a device for each action group of a robot; groups without one hold still.

Two leader arms for two arms, or a joystick for the arm of a robot whose base shall stand. Each
device drives its group as if the group were a robot of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from user_core.body.action_groups import GroupView, group_views
from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceNotConnected, SuiteError
from user_core.interfaces import Teleop, TeleopCommand
from user_core.plugins import PluginChoice
from user_core.reasons import NO_REASON, Reason
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Observation
from user_hal.teleops.hand_device import Jog, JogConfig
from user_hal.topic_io import TopicIo, attach_topics


class GroupsConfig(Config):
    """Which device drives which group."""

    devices: dict[str, PluginChoice] = setting(
        doc="The device of each group, by the group's name: {left: {plugin: leader, params: "
        "{...}}}. Groups that are not named hold still.",
        min_length=1,
    )


class GroupsTeleop(Teleop):
    """Drives groups of a robot, each by a device of its own.

    The person drives as soon as one of the devices is engaged; the groups of the others hold:
    velocities and changes are zero, targets stay, grippers stay as they were.
    """

    Config: ClassVar[type[Config]] = GroupsConfig

    def __init__(self, config: GroupsConfig) -> None:
        self.config = config
        self._devices: dict[str, Teleop] = {
            name: choice.build("teleops", path=f"devices.{name}")
            for name, choice in config.devices.items()
        }
        self._spec: RobotSpec | None = None
        self._parts: list[_Part] = []

    @property
    def devices(self) -> Sequence[Teleop]:
        """The devices of the groups."""
        return list(self._devices.values())

    @property
    def scripted(self) -> bool:
        """Whether programs stand in for the person at all devices."""
        return all(bool(getattr(device, "scripted", False)) for device in self.devices)

    def attach(self, io: TopicIo) -> None:
        """Give the devices their topics."""
        for device in self.devices:
            attach_topics(device, io)

    def connect(self, spec: RobotSpec) -> None:
        """Open all devices, each for its group.

        Raises:
            ConfigError: The robot has no such group.
            DeviceError: A device is not there.
        """
        views = group_views(spec)
        names = [view.name for view in views]
        unknown = sorted(set(self._devices) - set(names))
        if unknown:
            raise ConfigError(
                f"devices.{unknown[0]}",
                got=f"robot {spec.robot!r}",
                expected=f"one of its groups {names}" if any(names) else "a robot with groups",
            )
        self.close()
        try:
            for name, device in self._devices.items():
                device.connect(next(view.spec for view in views if view.name == name))
        except SuiteError:
            self.close()
            raise
        self._parts = [_Part(view, self._devices.get(view.name)) for view in views]
        self._spec = spec

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now, for all groups."""
        if self._spec is None:
            raise DeviceNotConnected("teleop 'groups'", got="no connection")
        action = np.zeros(self._spec.action.shape, self._spec.action.dtype)
        commands = [part.read(observation, action) for part in self._parts]
        given = [command for command in commands if command is not None]
        engaged = [command for command in given if command.engaged]
        if not engaged:
            for part in self._parts:
                part.forget()
        return TeleopCommand(
            engaged=bool(engaged),
            action=action,
            stamp_ns=min(command.stamp_ns for command in engaged or given),
            success=any(command.success for command in given),
            failure=any(command.failure for command in given),
            abort=any(command.abort for command in given),
        )

    def trouble(self) -> Reason:
        """What keeps a device from driving its group."""
        for name, device in self._devices.items():
            if reason := device.trouble():
                return Reason(reason.code, f"{name}: {reason.text}")
        return NO_REASON

    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """Axes and buttons of all devices: name, value, what it does."""
        found: list[tuple[str, float, str]] = []
        for name, device in self._devices.items():
            own: Any = getattr(device, "inputs", None)
            if own is not None:
                found += [(f"{name}: {label}", value, does) for label, value, does in own()]
        return found

    def close(self) -> None:
        """Let go of all devices."""
        self._spec, self._parts = None, []
        for device in self.devices:
            device.close()


class _Part:
    """One group, and its device if it has one."""

    def __init__(self, view: GroupView, device: Teleop | None) -> None:
        self._view, self._device = view, device
        self._still = Jog(JogConfig(), view.spec)
        self._grips: Array | None = None

    def read(self, observation: Observation, action: Array) -> TeleopCommand | None:
        """Write the group's elements of ``action``; return what its device said, if it has one."""
        arrays, command = self._view.arrays(observation.arrays), None
        grippers = list(self._view.spec.grippers)
        if self._device is not None:
            command = self._device.read(replace(observation, arrays=dict(arrays)))
            if command.engaged:
                self._still.rest()
                self._grips = command.action[grippers]
                action[self._view.part] = command.action
                return command
        action[self._view.part] = self._held(arrays, grippers)
        return command

    def forget(self) -> None:
        """Nobody drives: who begins finds the group as it is then."""
        self._still.rest()
        self._grips = None

    def _held(self, arrays: Arrays, grippers: list[int]) -> Array:
        held = self._still.action((), None, arrays)
        if self._grips is not None:
            held[grippers] = self._grips
        return held
