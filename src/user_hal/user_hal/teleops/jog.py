"""From the deflection of a device to an action of a robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_hal.safety.rotation import from_vector, multiply

#: Where the six axes of a device stand: translation, then rotation.
AXES = ("x", "y", "z", "rx", "ry", "rz")
_GRIPPER = "gripper"
_TOOL_KINDS = (ActionKind.EE_DELTA, ActionKind.EE_TWIST, ActionKind.EE_POSE)
_AXIS_OF_NAME = {
    prefix + axis: i
    for i, axis in enumerate(AXES)
    for prefix in (("", "d", "v") if i < 3 else ("",))
} | {"wx": 3, "wy": 4, "wz": 5}
#: How far a target may run ahead of the robot, in steps at full deflection.
_LEAD_STEPS = 5


@dataclass(frozen=True)
class JogConfig(Config):
    """How fast a person drives."""

    speed: float = setting(
        1.0, doc="Share of the largest action that full deflection gives.", gt=0, le=1
    )
    linear_speed_m_s: float = setting(
        0.1, doc="Speed at full deflection where actions are poses of the tool.", unit="m/s", gt=0
    )
    angular_speed_rad_s: float = setting(
        0.5, doc="Turning speed at full deflection, likewise.", unit="rad/s", gt=0
    )
    joint_speed_rad_s: float = setting(
        0.3, doc="Speed at full deflection where actions are joint targets.", unit="rad/s", gt=0
    )
    deadband: float = setting(
        0.05, doc="Deflection that counts as none; devices rarely rest at zero.", ge=0, lt=1
    )


class Jog:
    """Makes actions of one robot from six axes, -1 to 1 each, and a gripper opening.

    Actions that move the tool follow the axes x y z and rx ry rz in the base frame. Actions
    that move joints, and generic ones, take the axes in the order of their elements; what has
    no axis stands still. Where actions are targets, they are counted from the target before
    while the person drives, so that nothing sags, and from where the robot is when he begins.

    Raises:
        ConfigError: The robot shows nothing that its targets could start from.
    """

    def __init__(self, config: JogConfig, spec: RobotSpec) -> None:
        self._config, self._spec = config, spec
        self._low = spec.action.low_array.astype(np.float64)
        self._high = spec.action.high_array.astype(np.float64)
        names = spec.action.names
        self._gripper = names.index(_GRIPPER) if _GRIPPER in names else None
        self._axis_of = self._axes()
        start = {ActionKind.EE_POSE: "tcp_pose", ActionKind.JOINT_POSITION: "joint_position"}
        self._start = start.get(spec.action_kind, "")
        self._target: Array | None = None
        if self._start and self._start not in spec.observation:
            raise ConfigError(
                f"teleoperation of {spec.robot!r}",
                got=f"an observation of {list(spec.observation)}",
                expected=f"{self._start!r}, which {spec.action_kind.value} starts from",
            )

    def deflection(self, axes: Sequence[float]) -> float:
        """The largest deflection beyond the deadband, 0 to 1."""
        return max((abs(value) for value in self._shaped(axes)), default=0.0)

    def action(self, axes: Sequence[float], opening: float | None, arrays: Arrays) -> Array:
        """An action, (A,), within the robot's bounds.

        Args:
            axes: Deflection of up to six axes, -1 to 1.
            opening: Wanted opening of the gripper, 0 to 1; None: as it is.
            arrays: The observation that it answers.
        """
        shaped = self._shaped(axes)
        kind = self._spec.action_kind
        if kind is ActionKind.EE_POSE:
            values = self._pose(shaped, arrays)
        elif kind is ActionKind.JOINT_POSITION:
            values = self._joint_target(shaped, arrays)
        else:
            values = self._share_of_bounds(shaped)
        if self._gripper is not None:
            values[self._gripper] = self._opening(opening, arrays)
        clipped: Array = np.clip(values, self._low, self._high).astype(self._spec.action.dtype)
        return clipped

    def rest(self) -> None:
        """The person does not drive: the next target starts from where the robot is."""
        self._target = None

    def _shaped(self, axes: Sequence[float]) -> list[float]:
        """Deflections with the deadband taken out, so that they start from zero beside it."""
        band = self._config.deadband
        shaped = []
        for value in axes:
            size = max(min(abs(value), 1.0) - band, 0.0) / (1.0 - band)
            shaped.append(size if value > 0 else -size)
        return shaped

    def _axes(self) -> list[int | None]:
        """Which axis moves each element of the action."""
        elements = [i for i in range(self._spec.action.size) if i != self._gripper]
        names, tool = self._spec.action.names, self._spec.action_kind in _TOOL_KINDS
        axis_of: list[int | None] = [None] * self._spec.action.size
        for place, element in enumerate(elements):
            axis = place if place < len(AXES) else None
            if tool and names:
                axis = _AXIS_OF_NAME.get(names[element])
            axis_of[element] = axis
        return axis_of

    def _deflection_of(self, shaped: Sequence[float], element: int) -> float:
        axis = self._axis_of[element]
        return shaped[axis] if axis is not None and axis < len(shaped) else 0.0

    def _share_of_bounds(self, shaped: Sequence[float]) -> Array:
        """Zero at rest, the bound at full deflection."""
        values = np.zeros(self._spec.action.size)
        for element in range(len(values)):
            share = self._deflection_of(shaped, element) * self._config.speed
            values[element] = share * (self._high if share > 0 else -self._low)[element]
        return values

    def _joint_target(self, shaped: Sequence[float], arrays: Arrays) -> Array:
        measured = arrays["joint_position"].astype(np.float64)
        count = min(len(measured), len(self._low))
        most = self._config.joint_speed_rad_s * self._spec.period_s
        step = [most * self._deflection_of(shaped, element) for element in range(count)]
        self._target = self._led(measured[:count], np.array(step), most)
        values = np.zeros(self._spec.action.size)
        values[:count] = self._target
        return values

    def _pose(self, shaped: Sequence[float], arrays: Arrays) -> Array:
        pose = arrays["tcp_pose"].astype(np.float64)
        axes = np.array([*shaped, *([0.0] * (6 - len(shaped)))])
        most = self._config.linear_speed_m_s * self._spec.period_s
        before = self._target
        place = self._led(pose[:3], axes[:3] * most, most)
        values = np.zeros(self._spec.action.size)
        values[:3] = place
        if len(values) >= 7:
            turn = axes[3:6] * self._config.angular_speed_rad_s * self._spec.period_s
            start = pose[3:7] if before is None else before[3:7]
            values[3:7] = multiply(from_vector(tuple(turn.tolist())), tuple(start.tolist()))
        self._target = values[:7].copy()
        return values

    def _led(self, measured: Array, step: Array, most: float) -> Array:
        """The target before, moved on by a step, and not too far ahead of the robot."""
        start = measured if self._target is None else self._target[: len(measured)]
        lead = most * _LEAD_STEPS
        led: Array = np.clip(start + step, measured - lead, measured + lead)
        return led

    def _opening(self, opening: float | None, arrays: Arrays) -> float:
        assert self._gripper is not None
        low, high = self._low[self._gripper], self._high[self._gripper]
        if opening is None:
            opening = float(arrays[_GRIPPER].flat[0]) if _GRIPPER in arrays else 1.0
        return float(low + opening * (high - low))
