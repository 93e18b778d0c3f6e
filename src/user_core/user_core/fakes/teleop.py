"""A person who always knows the way to the goal of the fake robot."""

from __future__ import annotations

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Teleop, TeleopCommand
from user_core.specs import RobotSpec
from user_core.types import Observation


class FakeTeleopConfig(Config):
    """Parameters of :class:`FakeTeleop`."""

    engage_every: int = setting(0, doc="Engage on every n-th observation; 0: never.", ge=0)


class FakeTeleop(Teleop):
    """Drives :class:`~user_core.fakes.robot.FakeRobot` straight to its goal when engaged."""

    Config = FakeTeleopConfig

    def __init__(self, config: FakeTeleopConfig) -> None:
        self.config = config
        self._spec: RobotSpec | None = None

    def connect(self, spec: RobotSpec) -> None:
        self._spec = spec

    def read(self, observation: Observation) -> TeleopCommand:
        if self._spec is None:
            raise DeviceNotConnected(
                "fake teleop", got="no connection", hint="Call connect() first"
            )
        arrays, every = observation.arrays, self.config.engage_every
        way = np.zeros(self._spec.action.shape, self._spec.action.dtype)
        if "goal" in arrays and "position" in arrays:
            way[:] = np.clip((arrays["goal"] - arrays["position"]) * 10, -1, 1)
        engaged = every > 0 and observation.sequence % every == 0
        return TeleopCommand(engaged, way, observation.stamp_ns)

    def close(self) -> None:
        self._spec = None
