"""How a person chooses with a device of axes: categorical elements of an action."""

from __future__ import annotations

from collections.abc import Sequence

from user_core.errors import ConfigError
from user_core.specs import Array, RobotSpec

#: Axes of a device: x y z rx ry rz, two directions each.
_AXES = 6
_FIRM = 0.5


class ChoiceAxes:
    """Makes choices of deflections.

    =========================  =======================================================================
    action                     who deflects an axis by half or more chooses
    =========================  =======================================================================
    one element                by direction: x forward the first choice, x back the second, then y left
                               and right, z up and down, and the rotations; twelve at most
    several elements           for each element in turn by an axis of its own: back the first choice,
                               forward the last
    a gripper                  nothing: it is closed, held or opened with the gripper's buttons
    =========================  =======================================================================

    Who deflects nothing holds: the choice that changes nothing (``hold_choices`` of the spec), else the
    middle one of three, else the one before, at first the first.

    Args:
        spec: The robot's, with categorical elements.
        axis_of: Which axis moves each element.

    Raises:
        ConfigError: One element has more choices than there are directions.
    """

    def __init__(self, spec: RobotSpec, axis_of: Sequence[int | None]) -> None:
        action = spec.action
        self._low, self._high = action.low_array.tolist(), action.high_array.tolist()
        self._held = dict(zip(action.categorical, spec.hold_choices))
        self._grippers = [i for i in action.categorical if i in spec.grippers]
        self._elements = [i for i in action.categorical if i not in spec.grippers]
        self._axis_of = axis_of
        self._by_direction = action.size == 1 and bool(self._elements)
        self._last = {i: self._at_rest(i) for i in self._elements}
        if self._by_direction and action.counts[0] > 2 * _AXES:
            raise ConfigError(
                f"teleoperation of {spec.robot!r}",
                got=f"{action.counts[0]} choices",
                expected=f"at most {2 * _AXES}, the directions of six axes",
            )

    def fill(self, values: Array, axes: Sequence[float], opening: float | None) -> None:
        """Write the choices into an action, (A,).

        Args:
            values: The action; grippers have the opening that is wanted, between their bounds.
            axes: Deflections, -1 to 1.
            opening: Of the grippers, that the person wants; None: as it is.
        """
        for element in self._grippers:
            held = self._held.get(element)
            values[element] = (
                round(values[element]) if opening is not None or held is None else held
            )
        for element in self._elements:
            choice = self._direction(axes) if self._by_direction else self._side(element, axes)
            if choice is None:
                choice = self._held.get(element, self._last[element])
            values[element] = self._last[element] = choice

    def _direction(self, axes: Sequence[float]) -> float | None:
        firm = [(abs(value), i, value) for i, value in enumerate(axes) if abs(value) >= _FIRM]
        if not firm:
            return None
        _, axis, value = max(firm)
        return float(min(self._low[0] + 2 * axis + (value < 0), self._high[0]))

    def _side(self, element: int, axes: Sequence[float]) -> float | None:
        axis = self._axis_of[element]
        value = axes[axis] if axis is not None and axis < len(axes) else 0.0
        if abs(value) >= _FIRM:
            return float(self._high[element] if value > 0 else self._low[element])
        return self._at_rest(element) if self._high[element] - self._low[element] == 2 else None

    def _at_rest(self, element: int) -> float:
        low, high = self._low[element], self._high[element]
        return float(self._held.get(element, low + 1 if high - low == 2 else low))
