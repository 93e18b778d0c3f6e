"""Driver ``lerobot``: any robot of LeRobot, built in or installed by others, behind our gate.

LeRobot says which numbers its robots have, and neither their unit nor their limits: both are stated in the robot's
file, and without them nothing moves. Its angles (degrees, usually) become rad, its grippers (0 to 100) shares of their
opening.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceFault, DeviceNotConnected
from user_core.interfaces import Discovered, Robot
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import NO_TASK, AppliedAction, Observation
from user_hal.lerobot_devices import (
    connect_device,
    discovered,
    errors_of,
    make_device,
    their_config,
)

_POSITION, _VELOCITY = "pos", "vel"
_RAD = float(np.pi / 180)
_MOST_DEPTH_MM = 10_000.0


class LeRobotRobotConfig(Config):
    """Which robot of LeRobot, and what its numbers mean."""

    device: dict[str, Any] = setting(
        doc="LeRobot's own settings of it, as its commands take them: type, port, id, cameras, ..."
    )
    modules: tuple[str, ...] = setting(
        (),
        doc="Modules to import that register robots. Installed packages lerobot_robot_* need not be named.",
    )
    rate_hz: float = setting(20.0, doc="Commands a second.", unit="Hz", gt=0, le=1000)
    unit: Literal["deg", "rad", "raw"] = setting(
        "deg",
        doc="What LeRobot's joint positions are: degrees (use_degrees: true, or a robot that has nothing else), rad, or "
        "other numbers (-100 to 100), which stay as they are.",
    )
    limits: dict[str, tuple[float, float]] = setting(
        factory=dict,
        doc="Least and most of every number of an action, by its name: rad of a joint, 0 to 1 of a gripper, as it is of "
        "what is neither.",
    )
    grippers: tuple[str, ...] = setting(
        (), doc="Joints that are grippers; empty: those with `gripper` in their names."
    )
    gripper_closed: float = setting(0.0, doc="LeRobot's number of a closed gripper.")
    gripper_opened: float = setting(100.0, doc="LeRobot's number of an open one.")
    home: dict[str, float] = setting(
        factory=dict,
        doc="Where an episode begins, by joint, in our units; what is not named stays where it is.",
    )
    home_speed: float = setting(
        0.3,
        doc="Speed of the way there; of grippers the share of their opening in a second.",
        unit="rad/s",
        gt=0,
    )

    def validate(self) -> None:
        if self.gripper_closed == self.gripper_opened:
            raise ConfigError(
                "gripper_opened", got=self.gripper_opened, expected="not gripper_closed's"
            )


class LeRobotRobot(Robot):
    """One robot of LeRobot.

    Args:
        config: Which, and what its numbers mean.
        clock_ns: Clock of the stamps.
        sleep: Waits, on the way home.
    """

    Config: ClassVar[type[Config]] = LeRobotRobotConfig

    def __init__(
        self, config: LeRobotRobotConfig, clock_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.config, self._clock_ns, self._sleep = config, clock_ns, sleep
        theirs = their_config("robot", config.device, config.modules)
        self._device = make_device("robot", theirs)
        self.name = f"LeRobot's {config.device['type']}"
        with errors_of(self.name):
            seen, moved = (
                dict(self._device.observation_features),
                dict(self._device.action_features),
            )
        self._seen = _Observations(config, seen)
        self._moved = _Moved(config, moved, self.name, self._seen.joints)
        self._lock = threading.Lock()
        self._connected = False
        self._sequence = self._episode = self._commands = 0
        self._applied: AppliedAction | None = None
        self._given: Mapping[str, Any] = {}
        self._sent: Mapping[str, float] = {}
        self._spec = self._make_spec(str(config.device["type"]))

    @property
    def spec(self) -> RobotSpec:
        """What LeRobot's features say, with the limits of the configuration."""
        return self._spec

    def connect(self) -> None:
        """Connect. Raises DeviceError when it cannot be reached, or was not calibrated."""
        self.close()
        connect_device(
            "robot",
            str(self.config.device["type"]),
            self._device,
            "Look at cable, power and port, and whether another program has it",
        )
        self._connected = True

    def read(self) -> Observation:
        """What the robot says now. Raises DeviceError when it says nothing, or not what it should."""
        with self._lock:
            self._require()
            stamp_ns = self._clock_ns()
            with errors_of(self.name):
                given = self._device.get_observation()
            arrays = self._seen.arrays(given, self.name)
            self._given = given
            self._sequence += 1
            return Observation(
                arrays, stamp_ns, self._sequence, self._episode, NO_TASK, self._applied
            )

    def command(self, action: Array) -> Array:
        """Send an action; return what LeRobot says that it has sent (it may cut what goes too far)."""
        self._spec.action.check(action, "action")
        with self._lock:
            self._require()
            return self._send(action)

    def stop(self) -> None:
        """Hold where it is: positions that were measured now become the goal, velocities are 0."""
        with self._lock:
            if not self._connected:
                return
            try:
                given = self._device.get_observation()
            except Exception:
                given = self._given  # a camera that fails, say, must not keep the arm moving
            with errors_of(self.name):
                self._device.send_action(self._moved.hold(given, self._sent))

    def reset(self, seed: int | None = None) -> Observation:
        """Go home, at the speed that is configured, or stay."""
        if self.config.home:
            self._go_home()
        self._episode += 1
        return self.read()

    def close(self) -> None:
        """Let go of it; LeRobot's robots switch their torque off unless they are told otherwise."""
        with self._lock:
            if self._connected:
                self._connected = False
                with errors_of(self.name):
                    self._device.disconnect()

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """Robots that LeRobot has calibrated on this machine."""
        return discovered("robot")

    def _require(self) -> None:
        if not self._connected:
            raise DeviceNotConnected(self.name, hint="Call connect()")

    def _send(self, action: Array) -> Array:
        asked = self._moved.theirs(action)
        with errors_of(self.name):
            sent = self._device.send_action(asked)
        self._sent = asked
        reached = self._moved.ours(sent if isinstance(sent, Mapping) else {}, action)
        self._commands += 1
        self._applied = AppliedAction(reached, self._commands, stamp_ns=self._clock_ns())
        return reached

    def _go_home(self) -> None:
        with self._lock:
            self._require()
            with errors_of(self.name):
                given = self._device.get_observation()
            held = self._moved.hold(given, self._sent)
            if unknown := [key for key in self._moved.keys if key not in held]:
                raise DeviceFault(
                    self.name, got=f"nothing of {unknown}", expected="where they are, to go home"
                )
            start = self._moved.ours(held, np.zeros(len(held), np.float32))
        goal = start.copy()
        for name, place in self.config.home.items():
            goal[self._moved.names.index(name)] = place
        steps = max(
            1,
            int(np.ceil(np.abs(goal - start).max() / self.config.home_speed * self.config.rate_hz)),
        )
        low, high = self._spec.action.low_array, self._spec.action.high_array
        for step in range(1, steps + 1):
            with self._lock:
                self._require()
                self._send(np.clip(start + (goal - start) * np.float32(step / steps), low, high))
            self._sleep(1 / self.config.rate_hz)

    def _make_spec(self, robot: str) -> RobotSpec:
        moved = self._moved
        if unknown := [name for name in self.config.home if name not in moved.names]:
            raise ConfigError("home", got=unknown, expected=f"joints of {moved.names}")
        return RobotSpec(
            robot, self._seen.specs, moved.spec, moved.kind, 1 / self.config.rate_hz,
            grippers=moved.grippers,
        )  # fmt: skip


class _Numbers:
    """LeRobot's numbers in our units: rad for degrees, shares of an opening for grippers."""

    def __init__(self, config: LeRobotRobotConfig, joints: Collection[str]) -> None:
        self._config, self.joints = config, frozenset(joints)

    def is_gripper(self, joint: str) -> bool:
        named = self._config.grippers
        return joint in named if named else "gripper" in joint

    def of(self, key: str) -> tuple[float, float, str]:
        """Factor, offset and unit of one of its numbers: ours is (theirs - offset) * factor."""
        joint, _, what = key.rpartition(".")
        config = self._config
        if what == _POSITION and self.is_gripper(joint):
            return 1 / (config.gripper_opened - config.gripper_closed), config.gripper_closed, ""
        known = joint in self.joints and what in (_POSITION, _VELOCITY)
        if not known or config.unit == "raw":
            return 1.0, 0.0, ""
        unit = "rad" if what == _POSITION else "rad/s"
        return (_RAD if config.unit == "deg" else 1.0), 0.0, unit


class _Observations(_Numbers):
    """Observations of LeRobot as arrays: ``joint_position``, ``gripper``, ``image_<camera>``, ..."""

    def __init__(self, config: LeRobotRobotConfig, features: Mapping[str, Any]) -> None:
        super().__init__(config, _joints(features))
        self.specs: dict[str, ArraySpec] = {}
        self._vectors: dict[str, list[str]] = {}
        self._images: dict[str, str] = {}
        for key, what in features.items():
            if isinstance(what, tuple):
                self._image(key, what)
                continue
            joint, _, quantity = key.rpartition(".")
            if quantity == _POSITION and self.is_gripper(joint):
                name = "gripper"
            elif joint in self.joints:
                name = {_POSITION: "joint_position", _VELOCITY: "joint_velocity"}.get(
                    quantity, f"joint_{quantity}"
                )
            else:
                name = key.replace(".", "_").replace("/", "_")
            self._vectors.setdefault(name, []).append(key)
        self._numbers = {n: [self.of(key) for key in keys] for n, keys in self._vectors.items()}
        for name, keys in self._vectors.items():
            units = {unit for *_, unit in self._numbers[name]}
            names = tuple(key.rpartition(".")[0] or key for key in keys)
            low, high = (0.0, 1.0) if name == "gripper" else (None, None)
            self.specs[name] = ArraySpec(
                (len(keys),), low=low, high=high, unit=units.pop(), names=names
            )
        if not self.specs:
            raise ConfigError("a robot of LeRobot", got="no observations", expected="at least one")

    def _image(self, key: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 3 and shape[2] == 3:
            name = f"image_{key}"
            self.specs[name] = ArraySpec(shape, "uint8", frame=f"{key}_optical")
        elif len(shape) == 3 and shape[2] == 1:
            name = f"depth_{key.removesuffix('_depth')}"
            self.specs[name] = ArraySpec(
                shape,
                "uint16",
                low=0.0,
                high=_MOST_DEPTH_MM,
                unit="0.001 m",
                frame=f"{key}_optical",
            )
        else:
            raise ConfigError(
                f"feature {key!r} of a robot of LeRobot",
                got=shape,
                expected="(height, width, 3 or 1)",
            )
        self._images[name] = key

    def arrays(self, given: Mapping[str, Any], robot: str) -> dict[str, Array]:
        """One observation. Raises DeviceFault where numbers are missing or not finite."""
        found: dict[str, Array] = {}
        for name, keys in self._vectors.items():
            missing = [key for key in keys if key not in given]
            if missing:
                raise DeviceFault(
                    robot, got=f"no {', '.join(missing)}", expected="what its features promise"
                )
            values = [
                (float(given[key]) - offset) * factor
                for key, (factor, offset, _) in zip(keys, self._numbers[name], strict=True)
            ]  # fmt: skip
            if not np.isfinite(values).all():
                raise DeviceFault(
                    robot, got=f"{dict(zip(keys, values, strict=True))}", expected="finite numbers"
                )
            array = np.asarray(values, np.float32)
            found[name] = np.clip(array, 0.0, 1.0) if name == "gripper" else array
        for name, key in self._images.items():
            spec = self.specs[name]
            image = np.asarray(given.get(key))
            if image.size != spec.size or image.dtype != spec.dtype:
                raise DeviceFault(
                    f"camera {key} of {robot}", got=f"{image.dtype}{list(image.shape)}",
                    expected=f"{spec.dtype}{list(spec.shape)}",
                )  # fmt: skip
            found[name] = np.ascontiguousarray(image.reshape(spec.shape))
        return found


class _Moved(_Numbers):
    """Actions of LeRobot, with the limits that the configuration states."""

    def __init__(
        self,
        config: LeRobotRobotConfig,
        features: Mapping[str, Any],
        robot: str,
        joints: Collection[str] = (),
    ) -> None:
        super().__init__(config, {*joints, *_joints(features)})
        self.keys = [key for key, what in features.items() if not isinstance(what, tuple)]
        self.names = [key.removesuffix("." + _POSITION) for key in self.keys]
        self._numbers = [self.of(key) for key in self.keys]
        grippers = [
            i for i, key in enumerate(self.keys)
            if key.endswith("." + _POSITION) and self.is_gripper(key.rpartition(".")[0])
        ]  # fmt: skip
        self.grippers = tuple(grippers)
        limits = {**{self.names[i]: (0.0, 1.0) for i in grippers}, **config.limits}
        self._require_limits(limits, robot)
        others = [i for i in range(len(self.keys)) if i not in grippers]
        ends = {self.keys[i].rpartition(".")[2] for i in others if self._numbers[i][2]}
        ends |= {"" for i in others if not self._numbers[i][2]}
        kind = {_POSITION: ActionKind.JOINT_POSITION, _VELOCITY: ActionKind.JOINT_VELOCITY}
        is_known = config.unit != "raw" and len(ends) == 1
        self.kind = kind.get(ends.pop(), ActionKind.GENERIC) if is_known else ActionKind.GENERIC
        units = {self._numbers[i][2] for i in others}
        self.spec = ArraySpec(
            (len(self.keys),), low=tuple(float(limits[n][0]) for n in self.names),
            high=tuple(float(limits[n][1]) for n in self.names), names=tuple(self.names),
            unit=units.pop() if len(units) == 1 else "",
        )  # fmt: skip

    def _require_limits(self, limits: Collection[str], robot: str) -> None:
        """Raise ConfigError unless there are limits of every number of an action, and of nothing else."""
        lacking = [name for name in self.names if name not in limits]
        unknown = sorted(set(limits) - set(self.names))
        what = f"limits of {robot}"
        expected = "least and most of every number of an action: nothing moves within limits that nobody knows"
        if lacking:
            units = {name: of[2] for name, of in zip(self.names, self._numbers, strict=True)}
            example = "limits: {" + ", ".join(f"{n}: [LEAST, MOST]" for n in lacking) + "}"
            each = ", ".join(f"{n} {units[n] or 'as LeRobot has it'}" for n in lacking)
            raise ConfigError(
                what, got=f"none of {lacking}", expected=expected, hint=f"{example}, in {each}"
            )
        if unknown:
            raise ConfigError(
                what, got=f"some of {unknown}, which it does not have", expected=expected,
                hint=f"It has {self.names}",
            )  # fmt: skip

    def theirs(self, action: Array) -> dict[str, float]:
        """An action as LeRobot takes it."""
        return {
            key: float(value) / factor + offset
            for key, value, (factor, offset, _) in zip(
                self.keys, action, self._numbers, strict=True
            )
        }

    def ours(self, sent: Mapping[str, Any], asked: Array) -> Array:
        """What LeRobot has sent, (A,); what it does not tell was sent as asked."""
        found = asked.astype(np.float32).copy()
        for i, (key, (factor, offset, _)) in enumerate(zip(self.keys, self._numbers, strict=True)):
            if key in sent:
                found[i] = (float(sent[key]) - offset) * factor
        return found

    def hold(self, given: Mapping[str, Any], sent: Mapping[str, float]) -> dict[str, float]:
        """The action of LeRobot that stays where an observation is, or where it was sent last where an observation does
        not tell; what nobody knows is left alone."""
        found = {}
        for key in self.keys:
            if not key.endswith("." + _POSITION):
                found[key] = 0.0
            elif key in given or key in sent:
                found[key] = float(given[key] if key in given else sent[key])
        return found


def _joints(features: Mapping[str, Any]) -> set[str]:
    """What has a position."""
    return {key.rpartition(".")[0] for key in features if key.endswith("." + _POSITION)}
