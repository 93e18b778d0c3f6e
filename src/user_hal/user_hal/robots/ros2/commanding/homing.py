"""The way back to where an episode starts, at limited speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from user_core.errors import DeviceTimeout
from user_core.specs import Array
from user_hal.robots.ros2.commanding.targets import Target, moved, shortened, unit_pose, way
from user_hal.robots.ros2.contract import HomeConfig
from user_hal.robots.ros2.contract.actions import Quantity
from user_hal.robots.ros2.joints import Turns

#: Share of the remaining way that a velocity command goes in a second.
_GAIN_PER_S = 2.0


class Homing:
    """Moves joints or tool to the start along a straight line, watching that it gets there.

    Targets are sent one by one at ``rate_hz``, so the robot stops where it is when this process
    dies on the way.

    Args:
        config: Where, how fast, how near.
        send: Sends a target that is to be reached in this many seconds; may refuse by raising.
        measure: Gives the measured joints (n,) or tool pose (7,).
        velocities: Whether targets are velocities.
        names: Of the joints, for errors.
        max_lead: How far targets run ahead of the robot: of joints, or m for the tool.
        turns: Which joints are continuous: they go the short way round.
        speed: Of joints, (n,) rad/s (m/s of prismatic ones); None: as the configuration says.
        tolerance: At which joints are there, (n,) rad or m; None: likewise.
        units: Of the joints, for errors; empty: rad.
    """

    def __init__(
        self,
        config: HomeConfig,
        send: Callable[[Target, float], None],
        measure: Callable[[], Array],
        velocities: bool,
        names: tuple[str, ...],
        max_lead: float | Array,
        turns: Turns | None = None,
        speed: Array | None = None,
        tolerance: Array | None = None,
        units: tuple[str, ...] = (),
    ) -> None:
        self._units = units
        self._turns = turns or Turns()
        self._config, self._send, self._measure = config, send, measure
        self._velocities, self._names, self._max_lead = velocities, names, max_lead
        self._by_joints = bool(config.joints)
        self._speed = np.asarray(config.speed_rad_s if speed is None else speed, float)
        self._tolerance = np.asarray(
            config.tolerance_rad if tolerance is None else tolerance, float
        )
        self._period_s = 1.0 / config.rate_hz

    def go(self, rng: np.random.Generator) -> None:
        """Go to the start, with noise; returns when the robot is there.

        Raises:
            DeviceTimeout: It does not get there in time; says what is how far off.
            DeviceError: What is measured goes silent, or ``send`` refuses.
        """
        goal = self._goal(rng)
        start_s = due_s = time.monotonic()
        setpoint = self._measure()
        while True:
            measured = self._measure()
            remaining = self._way(measured, goal)
            if self._is_there(remaining) and self._sends_little(setpoint, goal):
                break
            if time.monotonic() - start_s > self._config.timeout_s:
                raise self._too_late(remaining)
            if self._velocities:
                self._send_velocity(remaining)
            else:
                if self._leads_little(measured, setpoint):  # else wait for the robot
                    setpoint = self._step(setpoint, goal)
                if self._by_joints:
                    setpoint = self._turns.near(setpoint, measured, self._max_lead)
                self._send_position(setpoint)
            due_s += self._period_s
            time.sleep(max(0.0, due_s - time.monotonic()))
        if self._velocities:
            self._send_velocity(np.zeros_like(remaining))
        else:
            self._send_position(self._turns.near(goal, setpoint) if self._by_joints else goal)

    def _goal(self, rng: np.random.Generator) -> Array:
        noise = self._config.noise
        if self._by_joints:
            return np.asarray(self._config.joints) + rng.uniform(
                -noise, noise, len(self._config.joints)
            )
        goal = unit_pose(np.asarray(self._config.pose))
        goal[:3] += rng.uniform(-noise, noise, 3)
        return goal

    def _sends_little(self, setpoint: Array, goal: Array) -> bool:
        """Whether the last target is no leap, whatever was measured just now."""
        return self._velocities or self._is_there(self._way(setpoint, goal))

    def _leads_little(self, measured: Array, setpoint: Array) -> bool:
        ahead = self._way(measured, setpoint)
        return bool(np.all(np.abs(ahead if self._by_joints else ahead[:3]) < self._max_lead))

    def _way(self, start: Array, goal: Array) -> Array:
        return self._turns.way(start, goal) if self._by_joints else way(start, goal)

    def _limited(self, change: Array, period_s: float) -> Array:
        """The change, shortened to what the speeds allow in one period; its direction is kept."""
        config = self._config
        if self._by_joints:
            over = float(np.max(np.abs(change) / (self._speed * period_s), initial=0.0))
            return change if over <= 1.0 else change / over
        limited = np.array(change)
        limited[:3] = shortened(change[:3], config.speed_m_s * period_s)
        limited[3:] = shortened(change[3:], float(np.min(self._speed)) * period_s)
        return limited

    def _step(self, setpoint: Array, goal: Array) -> Array:
        change = self._limited(self._way(setpoint, goal), self._period_s)
        return setpoint + change if self._by_joints else moved(setpoint, change)

    def _send_position(self, setpoint: Array) -> None:
        quantity: Quantity = "positions" if self._by_joints else "pose"
        self._send(Target(quantity, setpoint), 2 * self._period_s)

    def _send_velocity(self, remaining: Array) -> None:
        quantity: Quantity = "velocities" if self._by_joints else "twist"
        velocity = self._limited(remaining * _GAIN_PER_S, 1.0)
        self._send(Target(quantity, velocity), 2 * self._period_s)

    def _is_there(self, remaining: Array) -> bool:
        config = self._config
        if self._by_joints:
            return bool(np.all(np.abs(remaining) <= self._tolerance))
        return bool(
            np.linalg.norm(remaining[:3]) <= config.tolerance_m
            and np.linalg.norm(remaining[3:]) <= float(np.min(self._tolerance))
        )

    def _too_late(self, remaining: Array) -> DeviceTimeout:
        config = self._config
        if self._by_joints:
            tolerance = np.broadcast_to(self._tolerance, remaining.shape)
            worst = int(np.argmax(np.abs(remaining) / tolerance))
            unit = self._units[worst] if self._units else "rad"
            got = f"{self._names[worst]} is {remaining[worst]:+.3f} {unit} off"
            expected = f"within {tolerance[worst]:g} {unit}"
        else:
            got = (
                f"tool is {np.linalg.norm(remaining[:3]):.4f} m and "
                f"{np.linalg.norm(remaining[3:]):.3f} rad off"
            )
            expected = f"within {config.tolerance_m:g} m and {float(np.min(self._tolerance)):g} rad"
        return DeviceTimeout(
            f"home is not reached within {config.timeout_s:g} s",
            got=got,
            expected=expected,
            hint="Look whether the controller is active, for collisions, and at home.timeout_s",
        )
