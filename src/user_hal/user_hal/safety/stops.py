"""What stops a robot: the stop conditions, and the supervisor that keeps the safety state.

A stop condition looks at something that may forbid all motion: the emergency stop, the age of
commands and of readings, force, the ranges of tool and joints. The supervisor watches them all
and says whether commands may pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np

from user_core.body.action_groups import GroupView, group_views
from user_core.errors import ConfigError
from user_core.reasons import (
    EMERGENCY_STOP,
    FORCE,
    JOINT_LIMITS,
    NO_REASON,
    STALE_OBSERVATION,
    STOPPED,
    WATCHDOG,
    WORKSPACE,
    Reason,
)
from user_core.specs import Array, Arrays, RobotSpec
from user_hal.safety.config import ForceConfig, SafetyConfig
from user_hal.safety.groups import config_of_groups
from user_hal.safety.motion import MotionLayout
from user_hal.safety.rules import Refused, joint_range


class StopCondition(Protocol):
    """Something that may forbid all motion. The robot may move when no condition does."""

    def check(self, now_ns: int) -> Reason:
        """Why the robot must stand still at this moment of the monotonic clock; false if it may move."""


class EmergencyStop:
    """Once pressed, forbids all motion until :meth:`reset`, whatever else happens."""

    code = EMERGENCY_STOP

    def __init__(self) -> None:
        self._stop: Reason = NO_REASON

    @property
    def pressed(self) -> bool:
        """Whether it is latched."""
        return bool(self._stop)

    def press(self, who: str) -> None:
        """Latch it."""
        self._stop = Reason(self.code, f"emergency stop pressed by {who}; reset it to go on")

    def reset(self) -> None:
        """Release it. The robot stays where it is until new commands come."""
        self._stop = NO_REASON

    def check(self, now_ns: int) -> Reason:
        """Whether it is latched."""
        return self._stop


class CommandWatchdog:
    """Stops a robot whose commands stay away, for instance because their sender died.

    It watches from the first command until the robot is stopped, whatever for.
    """

    code = WATCHDOG

    def __init__(self, limit_s: float) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self._last_ns: int | None = None

    @property
    def due_ns(self) -> int | None:
        """When it will stop the robot unless a command comes; None while it does not watch."""
        return None if self._last_ns is None else self._last_ns + self._limit_ns

    def sent(self, now_ns: int) -> None:
        """A command was sent to the driver."""
        self._last_ns = now_ns

    def disarm(self) -> None:
        """The robot was stopped: no command is expected any more."""
        self._last_ns = None

    def check(self, now_ns: int) -> Reason:
        """Whether the last command is too old."""
        if self._last_ns is None or now_ns < self._last_ns + self._limit_ns:
            return NO_REASON
        age_s, limit_s = (now_ns - self._last_ns) * 1e-9, self._limit_ns * 1e-9
        return Reason(self.code, f"last command is {age_s:.3f} s old, allowed {limit_s:g} s")


class ObservationAge:
    """Stops a robot whose readings stay away or are old when they arrive, so that its motion is unknown."""

    code = STALE_OBSERVATION

    def __init__(self, limit_s: float) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self._taken_ns: int | None = None
        self._suspended = False

    def suspend(self) -> None:
        """No reading is expected until the next comes, for instance during a reset."""
        self._suspended = True

    def observed(self, age_ns: int, now_ns: int) -> None:
        """A reading came that was taken ``age_ns`` ago."""
        self._taken_ns = now_ns - max(age_ns, 0)
        self._suspended = False

    def check(self, now_ns: int) -> Reason:
        """Whether the newest reading is too old, or there was none yet."""
        if self._suspended:
            return NO_REASON
        if self._taken_ns is None:
            return Reason(self.code, "the robot was not read yet")
        age_ns = now_ns - self._taken_ns
        if age_ns <= self._limit_ns:
            return NO_REASON
        limit_s = self._limit_ns * 1e-9
        return Reason(
            self.code,
            f"newest reading of the robot is {age_ns * 1e-9:.3f} s old, allowed {limit_s:g} s",
        )


#: Without a value of its own, the robot may go on below this share of what stopped it.
_RESUME_SHARE = 0.6


class ForceStop:
    """Watches ``wrench``, with hysteresis, so that a force at the limit gives one stop, not many."""

    code = FORCE

    def __init__(self, config: ForceConfig, array: str = "wrench") -> None:
        self._array, none = array, math.inf
        self._stop_at = (config.stop_n or none, config.stop_n_m or none)
        self._resume_at = (
            config.resume_n or self._stop_at[0] * _RESUME_SHARE,
            config.resume_n_m or self._stop_at[1] * _RESUME_SHARE,
        )
        self._stop: Reason = NO_REASON

    @classmethod
    def all_for(cls, config: SafetyConfig, spec: RobotSpec) -> list[ForceStop]:
        """Watch the tools of a robot.

        Raises:
            ConfigError: It shows no ``wrench``, although forces are to be limited.
        """
        views = group_views(spec)
        return [
            cls._of_group(own.force, view)
            for own, view in zip(config_of_groups(config, views), views)
            if own.force.given
        ]

    @classmethod
    def _of_group(cls, config: ForceConfig, view: GroupView) -> ForceStop:
        wrench = view.spec.observation.get("wrench")
        if wrench is None or wrench.shape != (6,):
            raise ConfigError(
                f"groups.{view.name}.force" if view.name else "force",
                got=f"an observation of {list(view.spec.observation)}",
                expected="a robot that shows 'wrench', 6 values",
                hint="Remove force from the safety configuration, or use a driver that reads it.",
            )
        return cls(config, view.source("wrench")[0])

    def observe(self, arrays: Arrays) -> None:
        """Look at a new reading."""
        fx, fy, fz, tx, ty, tz = arrays[self._array].tolist()
        felt = math.hypot(fx, fy, fz), math.hypot(tx, ty, tz)
        at = self._stop_at if not self._stop else self._resume_at
        over = any(value >= limit for value, limit in zip(felt, at))
        self._stop = Reason(self.code, self._describe(*felt)) if over else NO_REASON

    def check(self, now_ns: int) -> Reason:
        """Why the robot must stand still; false if it may move."""
        return self._stop

    def _describe(self, force_n: float, torque_n_m: float) -> str:
        stop, resume = self._stop_at, self._resume_at
        return (
            f"tool feels {force_n:.1f} N and {torque_n_m:.2f} N m; stops at {stop[0]:g} N or "
            f"{stop[1]:g} N m, goes on below {resume[0]:g} N and {resume[1]:g} N m"
        )


class BoundaryStop:
    """Stops a robot that is outside a range it was not led into by its own actions.

    Where actions move joints, the gate cannot tell where the tool will go, and where they move
    the tool, not where the joints will. What it cannot cut it watches: outside the box (or the
    range of a joint) the robot stops, and is brought back by a reset or by hand.
    """

    def __init__(
        self, code: str, array: str, rows: Array, low: Array, high: Array, names: Sequence[str]
    ) -> None:
        self.code = code
        self._array, self._rows, self._low, self._high = array, rows, low, high
        self._names = names
        self._stop: Reason = NO_REASON

    @classmethod
    def all_for(cls, config: SafetyConfig, spec: RobotSpec) -> list[BoundaryStop]:
        """The stops that a configuration asks for and the gate's rules do not cover."""
        views = group_views(spec)
        stops: list[BoundaryStop] = []
        for own, view in zip(config_of_groups(config, views), views):
            stops += cls._of_group(own, view)
        return stops

    @classmethod
    def _of_group(cls, config: SafetyConfig, view: GroupView) -> Iterator[BoundaryStop]:
        layout, observation = MotionLayout.of(view.spec), view.spec.observation
        prefix = f"{view.name}: " if view.name else ""
        box, joints = config.workspace, config.joint_limits
        if (
            box.given
            and not (layout.tool and layout.linear.stop == 3)
            and "tcp_pose" in observation
        ):
            array, rows = view.source("tcp_pose")
            names = [f"{prefix}tool {axis}" for axis in "xyz"]
            low, high = np.asarray(box.low) - box.tolerance, np.asarray(box.high) + box.tolerance
            yield cls(WORKSPACE, array, rows[:3], low, high, names)
        if joints.given and not layout.joints.stop and "joint_position" in observation:
            measured = observation["joint_position"]
            array, rows = view.source("joint_position")
            low, high = joint_range(joints, measured, np.arange(measured.size))
            low, high = low - joints.tolerance, high + joints.tolerance
            names = [prefix + name for name in measured.names] or [
                f"{prefix}joint {i + 1}" for i in range(measured.size)
            ]
            yield cls(JOINT_LIMITS, array, rows, low, high, names)

    def observe(self, arrays: Arrays) -> None:
        """Look at a new reading."""
        here = arrays[self._array][self._rows]
        outside = (here < self._low) | (here > self._high)
        self._stop = NO_REASON
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            self._stop = Reason(
                self.code,
                f"{self._names[i]} is at {here[i]:.4f}, outside {self._low[i]:.4f} to "
                f"{self._high[i]:.4f}; reset the robot or lead it back by hand",
            )

    def check(self, now_ns: int) -> Reason:
        """Why the robot must stand still; false if it may move."""
        return self._stop


class SafetyState(IntEnum):
    """From free to shut; the values are those of ``user_msgs/SafetyStatus``."""

    IDLE = 0
    """No command yet, or none wanted; the robot holds."""
    ACTIVE = 1
    """Commands pass."""
    STOPPED = 2
    """Safe stop; ends by itself when its cause has gone and commands come."""
    EMERGENCY = 3
    """Emergency stop; latched until it is reset."""


class SafetySupervisor:
    """Watches the stop conditions and keeps the state. Not safe to use from several threads.

    Whoever uses it stops the robot at once when :meth:`check` or :meth:`trip` returns True.

    Args:
        emergency: The latched one, which outranks all others.
        conditions: The others, the most telling first: the first that holds is the cause.

    Attributes:
        state: The state.
        cause: Why the robot was stopped last; false when it was not, or commands pass again.
        present: Whether that cause still holds.
    """

    def __init__(self, emergency: StopCondition, conditions: Sequence[StopCondition]) -> None:
        self.state = SafetyState.IDLE
        self.cause: Reason = NO_REASON
        self.present = False
        self._emergency = emergency
        self._conditions = (emergency, *conditions)

    def replace(self, conditions: Sequence[StopCondition]) -> None:
        """Watch others from now on, beside the emergency stop."""
        self._conditions = (self._emergency, *conditions)

    def check(self, now_ns: int) -> bool:
        """Look at all conditions; tell whether the robot has to be stopped now."""
        for condition in self._conditions:
            stop = condition.check(now_ns)
            if stop.code:
                return self._enter(stop, latched=condition is self._emergency)
        if self.state is SafetyState.EMERGENCY:
            self.idle()
        self.present = False
        return False

    def trip(self, reason: Reason) -> bool:
        """Something happened that calls for a stop, and is over; return as :meth:`check`.

        It does not hide a cause that is still there.
        """
        if self.present:
            return False
        stop_now = self._enter(reason, latched=False)
        self.present = False
        return stop_now

    def admit(self) -> None:
        """Let a command in.

        Raises:
            Refused: ``stopped`` or ``emergency_stop``: a cause that holds forbids all motion.
        """
        if self.present:
            emergency = self.state is SafetyState.EMERGENCY
            code = self.cause.code if emergency else STOPPED
            raise Refused(code, f"{self.cause.code}: {self.cause.text}")

    def sent(self) -> None:
        """A command passed."""
        self.state, self.cause, self.present = SafetyState.ACTIVE, NO_REASON, False

    def idle(self) -> None:
        """No commands are wanted now, and nothing is wrong."""
        self.state, self.cause, self.present = SafetyState.IDLE, NO_REASON, False

    def _enter(self, stop: Reason, *, latched: bool) -> bool:
        state = SafetyState.EMERGENCY if latched else SafetyState.STOPPED
        stop_now = self.state in (SafetyState.IDLE, SafetyState.ACTIVE) or state > self.state
        self.state, self.cause, self.present = state, stop, True
        return stop_now
