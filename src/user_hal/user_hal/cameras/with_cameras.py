"""A robot and cameras that it does not know of, as one robot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import Camera, Robot
from user_core.plugins import build
from user_core.specs import Array, RobotSpec
from user_core.types import Observation
from user_hal.cameras.aligner import FrameAligner
from user_hal.topic_io import TopicIo, attach_topics


@dataclasses.dataclass(frozen=True)
class CameraConfig(Config):
    """One camera of a robot's configuration."""

    driver: str = setting(doc="Camera plugin, for instance ros_topic or opencv.")
    params: dict[str, Any] = setting(factory=dict, doc="Its parameters.")


@dataclasses.dataclass(frozen=True)
class CamerasConfig(Config):
    """The cameras of a robot."""

    devices: dict[str, CameraConfig] = setting(
        factory=dict, doc="Cameras by name; the observation is called image_<name>."
    )
    max_skew_s: float = setting(
        0.1, doc="Largest time between a picture and the robot's state.", unit="s", gt=0
    )


def build_cameras(config: CamerasConfig, path: str = "cameras") -> dict[str, Camera]:
    """Make the configured cameras; errors name where they stand in the configuration."""
    return {
        name: build("cameras", item.driver, item.params, path=f"{path}.{name}.params")
        for name, item in config.devices.items()
    }


class RobotWithCameras(Robot):
    """Adds ``image_<name>`` to the observations of any robot, aligned to the robot's stamps.

    Everything else is the robot's. A camera that stalls makes :meth:`read` raise DeviceTimeout
    with its name, as a robot that stalls does.
    """

    def __init__(self, robot: Robot, cameras: Mapping[str, Camera], max_skew_s: float) -> None:
        self._robot, self._cameras = robot, dict(cameras)
        self._aligner = FrameAligner(self._cameras, max_skew_s)
        images = self._aligner.specs
        if clash := sorted(images.keys() & robot.spec.observation.keys()):
            raise ConfigError(
                "names of cameras", got=f"{clash} are observations of the robot already"
            )
        self._spec = dataclasses.replace(
            robot.spec, observation={**robot.spec.observation, **images}
        )

    @property
    def spec(self) -> RobotSpec:
        """The robot's, with the pictures."""
        return self._spec

    def attach(self, io: TopicIo) -> None:
        """Hand topics to the robot and to every camera that wants them."""
        for device in (self._robot, *self._cameras.values()):
            attach_topics(device, io)

    def connect(self) -> None:
        """Connect the robot, then the cameras; all or nothing."""
        self._robot.connect()
        try:
            self._aligner.connect()
        except BaseException:
            self._robot.close()
            raise

    def read(self) -> Observation:
        """The robot's observation, with the pictures of that moment."""
        return self._with_images(self._robot.read())

    def command(self, action: Array) -> Array:
        """Command the robot."""
        return self._robot.command(action)

    def stop(self) -> None:
        """Stop the robot."""
        self._robot.stop()

    def reset(self, seed: int | None = None) -> Observation:
        """Reset the robot."""
        return self._with_images(self._robot.reset(seed))

    def close(self) -> None:
        """Close the robot first, then the cameras."""
        try:
            self._robot.close()
        finally:
            self._aligner.close()

    def _with_images(self, observation: Observation) -> Observation:
        images = self._aligner.at(observation.stamp_ns)
        return dataclasses.replace(observation, arrays={**observation.arrays, **images})
