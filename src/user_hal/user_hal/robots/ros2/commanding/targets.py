"""From an action to the next target of joints, tool or base. Pure: no topics, no clock."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from user_core.errors import DeviceFault, ImplausibleReading, SpecError
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.contract import ActionConfig
from user_hal.robots.ros2.contract.actions import Quantity, command_quantity
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.messages import TOOL_KINDS
from user_hal.safety import rotation

_SHIFT, _TURN = slice(0, 3), slice(3, 6)

#: Room for rounding when a target is compared with its lead.
_ROUNDING = 1e-6
#: q and -q are the same rotation.
_OTHER_SIGN = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Target:
    """What a controller is told.

    Attributes:
        quantity: ``positions`` (n,) rad, ``velocities`` (n,) rad/s, ``efforts`` (n,) N m,
            ``pose`` (7,) x y z (m) qx qy qz qw, or ``twist`` (6,) m/s and rad/s; tool quantities
            in the base frame, the twist of a base in its own.
        values: The numbers, float64.
    """

    quantity: Quantity
    values: Array


class TargetsState(NamedTuple):
    """See the attributes of :class:`Targets`."""

    last: Array | None
    moving: bool
    rests: bool
    room: Array


class Targets(ABC):
    """Turns actions of one kind into targets.

    Attributes:
        observation: The array that :meth:`next` needs as ``measured``; empty: it needs none.
        hold_observation: The array that :meth:`hold` needs to hold where the robot is; empty:
            holding means zero velocity.
        quantity: What holds the robot; None where nothing but zero velocity does.
    """

    observation: str = ""
    hold_observation: str = ""
    quantity: Quantity | None = None

    #: What the robot was told last, whatever for; None: nothing that would be known to hold.
    _last: Array | None = None
    #: Whether sums go on from there.
    _moving = False
    #: Whether the robot was told to stand there, and nothing else since.
    rests = False
    #: How far the moving robot may be from its target.
    _room: Array = np.zeros(1)

    @abstractmethod
    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """The next target, and the action as it will really be carried out.

        Args:
            action: (a,) float64 without gripper, within the bounds of the spec.
            measured: The newest numbers of :attr:`observation`.
            elapsed_s: Since the command before; None: a control period. Velocities that are
                summed up go on for no longer.

        Raises:
            ImplausibleReading: The first change after a stop would start far from what holds
                the robot; :meth:`start_anywhere` allows it.
        """

    @abstractmethod
    def hold(self, measured: Array | None) -> Target | None:
        """The target that stops the robot; None where nothing is known to hold.

        Args:
            measured: The newest numbers of :attr:`hold_observation`; None: hold the last target.
        """

    def forget(self) -> None:
        """Start sums from the measured position again."""
        self._moving = False

    def overridden(self, target: Target, *, stands: bool = True) -> None:
        """The robot was told this by others than :meth:`next`: to stand there, or to go there on
        its way home."""
        same = target.quantity == self.quantity
        self._last, self._moving = (target.values if same else None), False
        self.rests = same and stands

    def arrived(self) -> None:
        """The robot is where it was told to be, and stands."""
        self.rests = self._last is not None

    @property
    def knows(self) -> bool:
        """Whether it is known what the robot was told last."""
        return self._last is not None

    def stands(self, measured: Array) -> bool:
        """Whether the robot is about where it was told to be last, as far as that is known."""
        return self._last is None or self.close_to(measured, self._last)

    def close_to(self, here: Array, there: Array) -> bool:
        """Whether two measurements of :attr:`hold_observation` are within the lead."""
        return True

    def start_anywhere(self) -> None:
        """The robot may have been moved by others: what is measured next is believed."""
        self._last, self._moving, self.rests = None, False, False

    def state(self) -> TargetsState:
        """What :meth:`next` goes on from, to be restored where its target is not sent."""
        return TargetsState(self._last, self._moving, self.rests, self._room)

    def restore(self, state: TargetsState) -> None:
        """Go on from there."""
        self._last, self._moving, self.rests, self._room = state

    def _went(self, target: Array, room: Array) -> None:
        """It is being told this target, and may be so far from it."""
        self._last, self._moving, self.rests, self._room = target, True, False, room


class _Progress:
    """How long a velocity that is summed up has been in effect: commands may come faster than
    the control period, and each lasts until the next, at most a period.

    Args:
        period_s: Control period.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._earned_s = 1.5 * period_s

    def share(self, elapsed_s: float | None) -> float:
        """The share of a period that the next command moves for."""
        period_s = self._period_s
        elapsed_s = period_s if elapsed_s is None else max(elapsed_s, 0.0)
        self._earned_s = min(self._earned_s + elapsed_s, 1.5 * period_s)
        step_s = min(self._earned_s, period_s)
        self._earned_s -= step_s
        return step_s / period_s


class JointTargets(Targets):
    """Joint positions: absolute, or summed up from changes and velocities.

    Args:
        config: Of the action.
        period_s: Control period; what a velocity lasts.
        low: Lowest positions, (n,) rad; -inf where there is no limit.
        high: Highest positions.
        turns: Which joints are continuous; targets of theirs are near the measured joints, by
            whole turns, as controllers go straight to a number.
        lead: Farthest that targets run ahead of the measured joints, (n,); None: as the
            configuration says for rad.
    """

    hold_observation = "joint_position"
    quantity: Quantity = "positions"

    def __init__(
        self,
        config: ActionConfig,
        period_s: float,
        low: Array,
        high: Array,
        turns: Turns | None = None,
        lead: Array | None = None,
    ) -> None:
        self._turns = turns or Turns()
        self._kind, self._base = config.kind, config.base
        self._lead = np.asarray(config.max_lead_rad, float) if lead is None else lead
        self._low, self._high = low, high
        self._step_s = period_s if config.kind is ActionKind.JOINT_VELOCITY else 1.0
        self._box = _box(config, len(low), self._step_s)
        self._progress = _Progress(period_s)
        self._room: Array = self._lead  # how far the moving robot may be from its target
        self._names = self._turns.joints or tuple(f"{i + 1}" for i in range(len(low)))
        self.observation = "joint_position"

    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """Positions; the executed action is the way from the last target to the new one, or the
        target itself."""
        assert measured is not None  # noqa: S101 - asked for by `observation`
        last = None
        if self._moving and self._last is not None:
            last = self._turns.near(self._last, measured, self._lead)
        elif not self.stands(measured):
            raise self._elsewhere(measured)
        start = measured if self._base == "measured" or last is None else last
        if self._kind is ActionKind.JOINT_POSITION:
            return self._absolute(action, measured, last)
        share = self._progress.share(elapsed_s) if self._step_s != 1.0 else 1.0
        asked = action * (self._step_s * share)
        wished = within(start + asked, *self._reach(start, measured))
        if self._base == "measured" and last is not None:
            # A reading that jumps must not take the target along.
            target = last + within(self._turns.way(last, wished), *self._box)
            executed = within(self._turns.way(measured, target), *self._box)
        else:
            # What the lead and the limits leave of the change: never more, never backwards.
            executed = within(wished - start, np.minimum(asked, 0), np.maximum(asked, 0))
            target = start + executed
        self._went(target, self._lead)
        if self._step_s != 1.0:
            executed = executed / (self._step_s * share) if share else action
        return Target("positions", target), executed

    def _absolute(self, action: Array, measured: Array, last: Array | None) -> tuple[Target, Array]:
        """The action, within the limits. The first after a stop is within the lead: what it was
        judged against may have been a false reading."""
        goal = within(action, self._low, self._high)
        start = measured if last is None else last
        change = self._turns.way(start, goal)
        executed = within(change, -self._lead, self._lead) if self.rests else change
        target = start + executed
        from_here = np.abs(self._turns.way(measured, target)) + self._lead
        if last is not None:  # it is no further away than it was, wherever it is measured now
            room = self._room + np.abs(executed)
            from_here = np.minimum(room, from_here) if self.stands(measured) else room
        self._went(target, from_here)
        return Target("positions", target), self._as_action(goal - (change - executed))

    def _as_action(self, target: Array) -> Array:
        """A target, of continuous joints by whole turns within the bounds of the action."""
        low, high = self._box
        for turn in (2 * math.pi, -2 * math.pi):
            turned = self._turns.turned(target, turn)
            outside = (target < low) | (target > high)
            target = np.where(outside & (turned >= low) & (turned <= high), turned, target)
        _require_within(target, low, high)
        return target

    def _reach(self, start: Array, measured: Array) -> tuple[Array, Array]:
        """The lowest and highest targets: near the measured joints, within their limits. A limit
        that the start is beyond already ends there, and does not pull."""
        low = np.maximum(measured - self._lead, self._low)
        high = np.minimum(measured + self._lead, self._high)
        return np.minimum(low, start), np.maximum(high, start)

    def close_to(self, here: Array, there: Array) -> bool:
        return bool(np.all(np.abs(self._turns.way(here, there)) <= self._lead + _ROUNDING))

    def stands(self, measured: Array) -> bool:
        if self._last is None:
            return True
        room = self._room if self._moving else self._lead
        return bool(np.all(np.abs(self._turns.way(measured, self._last)) <= room + _ROUNDING))

    def _elsewhere(self, measured: Array) -> ImplausibleReading:
        assert self._last is not None  # noqa: S101 - else it may be anywhere
        ahead = np.abs(self._turns.way(measured, self._last)) - self._lead
        worst = int(np.argmax(ahead))
        return _not_where_it_stands(
            f"joint {self._names[worst]!r}", f"{measured[worst]:.3f}", f"{self._last[worst]:.3f}"
        )

    def hold(self, measured: Array | None) -> Target | None:
        """Where the joints are; the last target where they seem to be out of its reach, which is
        a false reading or a robot that was pushed: a stop is no way to go there. What holds the
        robot already is not moved."""
        if measured is None or self.rests or not self.stands(measured):
            measured = self._last
        return None if measured is None else Target("positions", measured)


def within(values: Array, low: Array, high: Array) -> Array:
    """The values, not below ``low`` and not above ``high``, as :func:`numpy.clip` has them in
    three times the time."""
    clipped: Array = np.minimum(np.maximum(values, low), high)
    return clipped


def _require_within(target: Array, low: Array, high: Array) -> None:
    """A robot outside of the bounds of its actions cannot be told so: a step back is no action."""
    if np.any(target < low - _ROUNDING) or np.any(target > high + _ROUNDING):
        raise DeviceFault(
            "absolute target",
            got=f"a robot outside of the bounds of its actions, next {np.round(target, 3).tolist()}",
            expected=f"{low.tolist()} to {high.tolist()}",
            hint="Bring it back by a reset or by hand, or widen the bounds",
        )


def _not_where_it_stands(what: str, measured: str, held: str) -> ImplausibleReading:
    return ImplausibleReading(
        what,
        got=f"measured at {measured}",
        expected=f"about where it was told to stand, {held}",
        hint="If the robot was moved by others, reset it; else look for a second publisher",
    )


class JointVelocities(Targets):
    """Joint velocities: as they are, or from changes in one period.

    Args:
        config: Of the action.
        period_s: Control period, in which a change is made.
        count: Number of joints.
    """

    def __init__(self, config: ActionConfig, period_s: float, count: int) -> None:
        self._step_s = period_s if config.kind is ActionKind.JOINT_DELTA else 1.0
        self._count = count

    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """Velocities."""
        return Target("velocities", action / self._step_s), action

    def hold(self, measured: Array | None) -> Target:
        """No velocity."""
        return Target("velocities", np.zeros(self._count))


class JointEfforts(Targets):
    """Joint efforts, as they are.

    Args:
        at_rest: What a stop sends, (n,) N m: what holds the robot is for its contract to say.
    """

    def __init__(self, at_rest: Array) -> None:
        self._at_rest = at_rest

    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """Efforts."""
        return Target("efforts", action), action

    def hold(self, measured: Array | None) -> Target:
        """The efforts of a stop."""
        return Target("efforts", self._at_rest)


class BaseTwists(Targets):
    """Velocities of a planar base in its own frame: vx, vy unless it cannot go sideways, wz."""

    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """A twist, in the frame of the base."""
        twist = np.zeros(6)
        twist[: len(action) - 1] = action[:-1]
        twist[5] = action[-1]
        return Target("twist", twist), action

    def hold(self, measured: Array | None) -> Target:
        """No velocity."""
        return Target("twist", np.zeros(6))


class ToolTwists(Targets):
    """Tool velocities: as they are, or from changes in one period.

    Args:
        config: Of the action.
        period_s: Control period, in which a change is made.
    """

    def __init__(self, config: ActionConfig, period_s: float) -> None:
        self._step_s = period_s if config.kind is ActionKind.EE_DELTA else 1.0

    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """A twist, in the base frame."""
        twist = np.zeros(6)
        twist[: len(action)] = action / self._step_s
        return Target("twist", twist), action

    def hold(self, measured: Array | None) -> Target:
        """No velocity."""
        return Target("twist", np.zeros(6))


class ToolPoses(Targets):
    """Tool poses: absolute, or summed up from changes and twists.

    Args:
        config: Of the action.
        period_s: Control period; what a twist lasts.
    """

    hold_observation = "tcp_pose"
    quantity: Quantity = "pose"

    def __init__(self, config: ActionConfig, period_s: float) -> None:
        self._kind, self._base = config.kind, config.base
        self._max_lead_m = config.max_lead_m
        self._max_lead_rad = float(np.min(config.max_lead_rad))
        self._lead: Array = np.array([self._max_lead_m, self._max_lead_rad])
        self._room: Array = self._lead  # how far the moving robot may be from its target
        self._step_s = period_s if config.kind is ActionKind.EE_TWIST else 1.0
        self._box = np.zeros((2, 6))
        absolute = config.kind is ActionKind.EE_POSE
        self._bounds = _box(config, 7, 1.0) if absolute else np.zeros((2, 7))
        if config.kind is not ActionKind.EE_POSE:
            size = 6 if config.rotation else 3
            self._box[:, :size] = _box(config, size, self._step_s)
        self._progress = _Progress(period_s)
        self.observation = "tcp_pose"

    def next(
        self, action: Array, measured: Array | None, elapsed_s: float | None = None
    ) -> tuple[Target, Array]:
        """A pose; the executed action is the way from the last target to the new one, or the
        target itself."""
        assert measured is not None  # noqa: S101 - asked for by `observation`
        if not self._moving and not self.stands(measured):
            raise self._elsewhere(measured)
        last = self._last if self._moving else None
        start = measured if self._base == "measured" or last is None else last
        if self._kind is ActionKind.EE_POSE:
            return self._absolute(action, measured, start)
        share = self._progress.share(elapsed_s) if self._step_s != 1.0 else 1.0
        change = np.zeros(6)
        change[: len(action)] = action * (self._step_s * share)
        if self._base == "measured" and last is not None:
            lead = way(measured, moved(start, change))
            for part, longest in ((_SHIFT, self._max_lead_m), (_TURN, self._max_lead_rad)):
                lead[part] = shortened(lead[part], longest)
            # A reading that jumps must not take the target along.
            target = moved(last, self._within(way(last, moved(measured, lead))))
            executed = self._within(way(measured, target))
        else:
            executed = self._within(self._led(start, change, measured))
            target = moved(start, executed)
        self._went(target, self._lead)
        if share != 1.0:
            executed = executed / share if share else np.array(change)
        return Target("pose", target), executed[: len(action)] / self._step_s

    def _absolute(self, action: Array, measured: Array, start: Array) -> tuple[Target, Array]:
        """The action. The first after a stop is within the lead: what it was judged against may
        have been a false reading."""
        change = way(start, unit_pose(action))
        target = unit_pose(action)
        if self.rests and np.any(_lengths(change) > self._lead):
            for part, longest in zip((_SHIFT, _TURN), self._lead):
                change[part] = shortened(change[part], longest)
            target = moved(start, change)
            _require_within(target, *self._bounds)
        from_here = _lengths(way(measured, target)) + self._lead
        if self._moving:  # it is no further away than it was, wherever it is measured now
            room = self._room + _lengths(change)
            from_here = np.minimum(room, from_here) if self.stands(measured) else room
        self._went(target, from_here)
        same_sign = float(target[3:] @ action[3:7]) >= 0
        return Target("pose", target), target if same_sign else target * _OTHER_SIGN

    def close_to(self, here: Array, there: Array) -> bool:
        return bool(np.all(_lengths(way(here, there)) <= self._lead + _ROUNDING))

    def stands(self, measured: Array) -> bool:
        if self._last is None:
            return True
        room = self._room if self._moving else self._lead
        return bool(np.all(_lengths(way(measured, self._last)) <= room + _ROUNDING))

    def _elsewhere(self, measured: Array) -> ImplausibleReading:
        assert self._last is not None  # noqa: S101 - else it may be anywhere
        return _not_where_it_stands(
            "tool", f"{np.round(measured, 3).tolist()}", f"{np.round(self._last, 3).tolist()}"
        )

    def _led(self, start: Array, change: Array, measured: Array) -> Array:
        """The change, shortened in its direction so that it ends within the lead. Beyond the
        lead already: no further away, but not pulled back either."""
        led = change.copy()
        before = way(measured, start)
        ahead = way(measured, moved(start, change))
        for part, longest in ((_SHIFT, self._max_lead_m), (_TURN, self._max_lead_rad)):
            farthest = max(longest, float(np.linalg.norm(before[part])))
            if float(np.linalg.norm(ahead[part])) > farthest:
                led[part] *= _share_within(before[part], change[part], farthest)
        return led

    def _within(self, change: Array) -> Array:
        """The change, shortened in its direction until it is within the bounds of an action."""
        result = change.copy()
        low, high = self._box
        for part in (_SHIFT, _TURN):
            share = 1.0
            for value, lowest, highest in zip(change[part], low[part], high[part]):
                bound = highest if value > 0 else lowest
                if abs(value) > abs(bound):
                    share = min(share, abs(bound / value))
            result[part] *= share
        return result

    def hold(self, measured: Array | None) -> Target | None:
        """Where the tool is; the last target where it seems to be out of its reach, or rests."""
        if measured is None or self.rests or not self.stands(measured):
            measured = self._last
        return None if measured is None else Target("pose", measured)


def _share_within(before: Array, change: Array, farthest: float) -> float:
    """The largest share of a change, 0 to 1, after which a vector is not longer than this."""
    square, along = float(change @ change), float(before @ change)
    room = farthest**2 - float(before @ before)
    if square == 0.0 or room < 0.0:
        return 0.0
    share = (math.sqrt(along**2 + square * room) - along) / square
    return min(max(share, 0.0), 1.0)


def _lengths(change: Array) -> Array:
    """Lengths of the shift (m) and of the turn (rad) of a change, (2,)."""
    return np.array([np.linalg.norm(change[_SHIFT]), np.linalg.norm(change[_TURN])])


def _box(config: ActionConfig, count: int, step_s: float) -> Array:
    """The smallest and largest change in one period that an action may ask for, (2, count)."""
    bounds = [
        np.broadcast_to(np.asarray(bound, float), (count,)) for bound in (config.low, config.high)
    ]
    return np.array(bounds) * step_s


def make_targets(
    config: ActionConfig,
    period_s: float,
    joint_count: int,
    low: Array,
    high: Array,
    turns: Turns | None = None,
    lead: Array | None = None,
    effort_at_rest: float | tuple[float, ...] | None = None,
) -> Targets:
    """The way from actions to targets that a contract asks for."""
    quantity = command_quantity(config, config.command)
    if config.kind is ActionKind.BASE_TWIST:
        return BaseTwists()
    if config.kind in TOOL_KINDS:
        return ToolPoses(config, period_s) if quantity == "pose" else ToolTwists(config, period_s)
    if quantity == "efforts":
        at_rest = np.broadcast_to(np.asarray(effort_at_rest or 0.0, float), (joint_count,))
        return JointEfforts(at_rest)
    if quantity == "velocities":
        return JointVelocities(config, period_s, joint_count)
    return JointTargets(config, period_s, low, high, turns, lead)


def moved(pose: Array, change: Array) -> Array:
    """A pose after a change in the base frame: x y z (m), then a rotation vector (rad)."""
    result = np.empty(7)
    result[:3] = pose[:3] + change[:3]
    turn = rotation.from_vector((change[3], change[4], change[5]))
    result[3:] = rotation.multiply(turn, (pose[3], pose[4], pose[5], pose[6]))
    return unit_pose(result)


def way(start: Array, end: Array) -> Array:
    """The change that :func:`moved` needs to get from one pose to another, (6,)."""
    result = np.empty(6)
    result[:3] = end[:3] - start[:3]
    back = rotation.conjugate((start[3], start[4], start[5], start[6]))
    turn = rotation.multiply((end[3], end[4], end[5], end[6]), back)
    result[3:] = rotation.to_vector(turn)
    return result


def shortened(vector: Array, longest: float) -> Array:
    """A vector in the same direction that is at most this long."""
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)


def unit_pose(pose: Array) -> Array:
    """The pose with a quaternion of length one. Raises SpecError for one without a direction."""
    result = np.array(pose, dtype=np.float64)
    norm = float(np.linalg.norm(result[3:]))
    if norm < 1e-6:
        raise SpecError("quaternion of a pose", got=pose[3:].tolist(), expected="length 1")
    result[3:] /= norm
    return result
