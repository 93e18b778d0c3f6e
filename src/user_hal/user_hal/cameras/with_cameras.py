"""A robot and cameras that it does not know of, as one robot.

Images belong to a robot's state: the nearest in time, within a limit.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from user_core.body.mobility import Mobility, mobility_of
from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceError, DeviceTimeout
from user_core.interfaces import Camera, Frame, Robot
from user_core.plugins import PluginChoice
from user_core.specs import Array, ArraySpec, RobotSpec
from user_core.types import Observation
from user_hal.cameras.calibration import Calibrated, Calibration
from user_hal.cameras.images import RemembersFrames
from user_hal.clock_faults import ClockFault
from user_hal.topic_io import TopicIo, attach_topics

IMAGE, DEPTH = "image_", "depth_"


@runtime_checkable
class ExplainsClock(Protocol):
    """A camera that knows what is wrong with its stamps."""

    def clock_fault(self) -> ClockFault:
        """Falsy where nothing is."""


def observation_name(name: str, spec: ArraySpec) -> str:
    """What the images of a camera are called: ``image_<name>``, or ``depth_<name>``."""
    return (IMAGE if spec.dtype == "uint8" else DEPTH) + name


#: How many images are remembered of a camera that does not do so itself.
_HISTORY = 4


class FrameAligner:
    """Several cameras, read together.

    Every camera must be alive (its own :meth:`~user_core.interfaces.Camera.read` says so), and
    its image nearest to the asked moment must be near enough; otherwise there is an error with
    the camera's name, never an old image.

    Args:
        cameras: By name; the observation is called ``image_<name>``, that of a depth camera
            ``depth_<name>``.
        max_skew_s: Largest time between an image and the asked moment, seconds.
    """

    def __init__(self, cameras: Mapping[str, Camera], max_skew_s: float) -> None:
        self._cameras = dict(cameras)
        self._max_skew_s = max_skew_s
        self._seen: dict[str, deque[Frame]] = {name: deque(maxlen=_HISTORY) for name in cameras}

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """Spec of each image, by the name of the observation."""
        return {
            observation_name(name, camera.spec): camera.spec
            for name, camera in self._cameras.items()
        }

    def connect(self) -> None:
        """Open all cameras; when one cannot be opened, close them all and raise its error."""
        try:
            for name, camera in self._cameras.items():
                self._seen[name].clear()
                try:
                    camera.connect()
                except DeviceError as error:
                    raise _named(error, name) from error
        except BaseException:
            self.close()
            raise

    def at(self, stamp_ns: int) -> dict[str, Array]:
        """The images of a moment, by the name of the observation.

        Raises:
            DeviceTimeout: A camera stalled, or has no image near enough; names it.
        """
        arrays = {}
        for name, camera in self._cameras.items():
            frame = self._nearest(name, stamp_ns)
            skew_s = (frame.stamp_ns - stamp_ns) / 1e9
            if abs(skew_s) > self._max_skew_s:
                side = "after" if skew_s > 0 else "before"
                clock = camera.clock_fault() if isinstance(camera, ExplainsClock) else None
                raise DeviceTimeout(
                    f"camera {name!r}",
                    got=f"its nearest image is {abs(skew_s):.3f} s {side} the robot's state"
                    + (f": {clock.text}" if clock else ""),
                    expected=f"at most {self._max_skew_s:g} s",
                    hint=clock.cure
                    if clock
                    else "Raise max_skew_s, remember more images, or synchronise the clocks",
                )
            arrays[observation_name(name, camera.spec)] = frame.image_hwc
        return arrays

    def close(self) -> None:
        """Close all cameras, whatever one of them raises; the first error is raised at the end."""
        errors = []
        for camera in self._cameras.values():
            try:
                camera.close()
            except DeviceError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _read(self, name: str) -> Frame:
        try:
            frame = self._cameras[name].read()
        except DeviceError as error:
            raise _named(error, name) from error
        seen = self._seen[name]
        if not seen or frame.stamp_ns > seen[-1].stamp_ns:
            frame.image_hwc.flags.writeable = False  # several observations may show it
            seen.append(frame)
        return frame

    def _nearest(self, name: str, stamp_ns: int) -> Frame:
        camera = self._cameras[name]
        if isinstance(camera, RemembersFrames):
            try:
                return camera.nearest(stamp_ns)
            except DeviceError as error:
                raise _named(error, name) from error
        self._read(name)
        return min(self._seen[name], key=lambda frame: abs(frame.stamp_ns - stamp_ns))


def _named(error: DeviceError, name: str) -> DeviceError:
    """The same error, with the name that the camera has in the configuration."""
    return type(error)(
        f"camera {name!r}: {error.what}",
        got=error.got,
        expected=error.expected,
        hint=error.hint,
    )


class CamerasConfig(Config):
    """The cameras of a robot."""

    devices: dict[str, PluginChoice] = setting(
        factory=dict,
        doc="Cameras by name; the observation is called image_<name>, of a depth camera "
        "depth_<name>.",
    )
    max_skew_s: float = setting(
        0.1, doc="Largest time between an image and the robot's state.", unit="s", gt=0
    )


def build_cameras(config: CamerasConfig) -> dict[str, Camera]:
    """Make the configured cameras; errors name where they stand in the configuration."""
    return {
        name: choice.build("cameras", path=f"cameras.devices.{name}")
        for name, choice in config.devices.items()
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
        """The robot's, with the images."""
        return self._spec

    @property
    def base_frame(self) -> str:
        """The robot's, where it says one."""
        return str(getattr(self._robot, "base_frame", ""))

    @property
    def gripper_joints(self) -> Mapping[str, tuple[float, float]]:
        """The robot's: positions closed and open of the joints of its gripper."""
        found: Mapping[str, tuple[float, float]] = getattr(self._robot, "gripper_joints", {})
        return found

    @property
    def urdf(self) -> str:
        """The robot's URDF, where it knows it."""
        return str(getattr(self._robot, "urdf", ""))

    @property
    def mobility(self) -> Mobility:
        """What the robot knows of how it can move."""
        return mobility_of(self._robot)

    @property
    def devices(self) -> Sequence[Robot | Camera]:
        """The robot and its cameras."""
        return (self._robot, *self._cameras.values())

    def calibrations(self) -> dict[str, Calibration]:
        """Of the images whose camera is calibrated, by the name of the observation."""
        own = self._robot.calibrations() if hasattr(self._robot, "calibrations") else {}
        return own | {
            observation_name(name, camera.spec): found
            for name, camera in self._cameras.items()
            if isinstance(camera, Calibrated) and (found := camera.calibration()) is not None
        }

    def attach(self, io: TopicIo) -> None:
        """Hand topics to the robot and to every camera that wants them."""
        for device in self.devices:
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
        """The robot's observation, with the images of that moment."""
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
