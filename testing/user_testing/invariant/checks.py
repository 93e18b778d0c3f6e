"""The invariant of motion (docs/explanation/safety.md), checked on what reached a robot.

Nothing here asks gate, driver or loop what they did. It sees the targets that arrived at the
stand-in, the readings that this had published, and what was reported as applied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from user_hal.safety.rotation import conjugate, multiply, to_vector
from user_testing.invariant.robots import CONTINUOUS, JOINTS, PERIOD_S, CampaignRobot, Limits

#: Who was at work when a message arrived: the driver's method that the loop had called.
Work = Literal["command", "stop", "reset", "close", "connect"]
Values = Sequence[float]

_FULL_TURN = 2 * math.pi
#: Actions and readings are float32; their sums are compared.
_ROUNDING = 2e-5
#: What a velocity limit allows at once, in periods: a late command loses nothing.
_BURST = 1.5
#: After this time without a command a robot has come to rest.
_REST_S = 2.5 * PERIOD_S
#: Readings are this late at most, while a robot moves.
_LATE_S = 0.3
#: A stop says again where the robot was told to stand, while readings have it there. So old may
#: they be (the driver's max_age_s, and a call that lasts).
_SEEN_S = 0.45
#: A target that is not led to, but given, may be this far ahead of the robot.
_FOLLOWS_S = 0.6


class Violation(AssertionError):
    """The invariant does not hold."""


def joint_way(start: Values, end: Values) -> list[float]:
    """The change between joint positions, the short way round for continuous ones."""
    way = [b - a for a, b in zip(start, end)]
    return [w - round(w / _FULL_TURN) * _FULL_TURN if c else w for w, c in zip(way, CONTINUOUS)]


def pose_way(start: Values, end: Values) -> list[float]:
    """The change between poses: shift, then rotation vector, in the base frame."""
    ax, ay, az, aw = start[3:7]
    bx, by, bz, bw = end[3:7]
    turn = to_vector(multiply((bx, by, bz, bw), conjugate((ax, ay, az, aw))))
    return [*(b - a for a, b in zip(start[:3], end[:3])), *turn]


class Invariant:
    """Takes everything that happens at a robot, and raises :class:`Violation`.

    Args:
        robot: Its limits.

    Attributes:
        told: What the robot was told last; None while it was told nothing.
        by_hand: Whether the robot was moved by others since it was told to hold: a reset may
            take it over where it is, a command may not.
    """

    def __init__(self, robot: CampaignRobot) -> None:
        self.robot = robot
        self._way = pose_way if robot.pose else joint_way
        size = 6 if robot.pose else len(JOINTS)
        self._rest = [0.0] * size
        #: Change or velocity of the command before; None: not known.
        self._before: list[float] | None = self._rest
        self._spent = [0.0] * len(robot.limits)  # of what each velocity limit allows
        self._spent_s = 0.0
        self.told: list[float] | None = None
        self._told_s = -math.inf
        self._holds = True
        self._reset_messages = 0
        self._command: list[float] | None = None
        self._interrupted = False  # whether a stop came into the command's call
        self._half_turn = False
        self._starts: list[Values] = []  # where an absolute target may have started from
        self._here: Values = ()
        self._now_s = 0.0
        self.by_hand = False
        self.by_hand_s = -math.inf  # when it was

    def begins(self, work: Work) -> None:
        """The loop calls a method of the driver."""
        if work == "reset":
            self._reset_messages = 0
        if work == "command":
            self._command = None
            self._interrupted = False

    def ended(self, work: Work) -> None:
        """A method of the driver has returned, and not failed."""
        if work == "reset":
            self._reset_messages = 0  # it is at home, and stands
        if work == "connect":  # also where the stop before could not be sent
            self._holds, self._before = True, self._rest

    def arrived(
        self, work: Work, values: Values, now_s: float, here: Values, forbidden: str = ""
    ) -> None:
        """A target arrived at the robot, in SI units.

        Args:
            work: What was being done.
            values: The target.
            now_s: When.
            here: Where the robot really is.
            forbidden: Why this work might move nothing when it began; empty: it might.
        """
        self._here, self._now_s = here, now_s
        if not all(math.isfinite(value) for value in values):
            raise Violation(f"{work} sent {list(values)}")
        if forbidden and work in ("command", "reset") and self._moves(values):
            raise Violation(f"{work} moved the robot although {forbidden}")
        if work == "command":
            if self._command is not None:
                raise Violation("one command sent two targets")
            self._command = list(values)
            return
        if self.robot.rate:
            self._velocity_of(work, values)
        elif work == "reset":
            self._reset_messages += 1
            self._on_the_way_home(values)
        else:
            self._hold(work, values)
        self.told, self._told_s = list(values), now_s
        self._holds, self._before, self._interrupted = True, self._rest, True

    def commanded(
        self, executed: Values | None, now_s: float, readings: Sequence[Values], observed: Values
    ) -> None:
        """The driver came back from a command.

        Args:
            executed: The action that it reports as carried out, without gripper; None where it
                raised.
            now_s: When.
            readings: The newest readings that the robot has published and that may be taken, the
                newest last; stamps decide which of them the driver takes as the newest.
            observed: The newest that the gate was shown.
        """
        values, self._command = self._command, None
        if values is None:
            if executed is not None:
                raise Violation("a command is reported as carried out, and nothing was sent")
            return
        if executed is not None:
            for value, bound in zip(executed, self.robot.bounds):
                if not abs(value) <= bound * (1 + 1e-6):
                    raise Violation(f"{value} is reported as applied, beyond the bound {bound}")
        # Half a turn away, the short way round may be either.
        self._half_turn = not (self.robot.pose or self.robot.base) and any(
            abs(self._way(reading, values)[2]) > 2.9 for reading in readings
        )
        if self.robot.rate:
            self._velocity(values, executed, now_s)
        else:
            self._target(values, executed, now_s, self._taken(values, executed, readings), observed)
        self.told, self._told_s, self._holds, self.by_hand = values, now_s, False, False

    def restarted(self) -> None:
        """A new driver was started, which knows nothing of what the one before has told."""
        self.told, self._holds, self._before = None, True, self._rest
        self._reset_messages, self.by_hand = 0, False

    def in_effect(self, now_s: float, longest_s: float) -> None:
        """Time has passed: no velocity goes on for longer than this without a command."""
        if self.robot.rate and self.told is not None and any(self.told):
            age_s = now_s - self._told_s
            if age_s > longest_s:
                raise Violation(f"velocity {self.told} goes on {age_s:.3f} s after its command")

    def _velocity_of(self, work: Work, values: Values) -> None:
        if work != "reset":
            if any(values):
                raise Violation(f"{work} sent the velocity {list(values)}")
            return
        for limits in self.robot.limits:
            speed = math.hypot(*values[limits.part])
            if speed > limits.home_step + _ROUNDING:
                raise Violation(f"{limits.name}: velocity {speed:.4f} on the way home")

    def _velocity(self, values: Values, executed: Values | None, now_s: float) -> None:
        elapsed_s = PERIOD_S if self._holds else min(now_s - self._told_s, PERIOD_S)
        if self._interrupted:
            self._before = None
        for limits in self.robot.limits:
            speed = math.hypot(*values[limits.part])
            if speed > limits.velocity + 1e-4:
                raise Violation(f"{limits.name}: velocity {speed:.4f}, allowed {limits.velocity}")
            self._speeds_up(limits, values, limits.acceleration * elapsed_s, 1e-3)
        if executed is not None:
            per_s = 1.0 if "velocity" in self.robot.name or "twist" in self.robot.name else PERIOD_S
            self._same("sent", [value * per_s for value in values], executed)
        self._before = list(values)

    def _hold(self, work: Work, values: Values) -> None:
        robot = self.robot
        for limits in robot.limits:
            off = self._length(limits, self._here, values)
            if self.told is None or self.by_hand:  # nobody has sent it anywhere else
                again = self.told is not None and self._length(limits, self.told, values) == 0.0
                if again and self._now_s - self.by_hand_s < _SEEN_S:
                    continue
                if off > limits.lead + limits.velocity * _LATE_S:
                    raise Violation(f"{limits.name}: {work} sent the robot {off:.4f} away")
                continue
            if not robot.absolute and off > 2 * limits.lead + limits.velocity * _LATE_S:
                raise Violation(
                    f"{limits.name}: {work} leaves the robot {off:.4f} from where it is to hold"
                )
            length = self._length(limits, self.told, values)
            # What holds is not moved; the way home has no lead of the target's.
            allowed = 0.0 if self._holds and not self._reset_messages else limits.lead
            if robot.absolute and allowed:
                if off <= limits.lead:
                    continue  # it stops where it is, however far it was sent
                allowed += limits.velocity * _FOLLOWS_S
            if length > allowed + _ROUNDING:
                raise Violation(
                    f"{limits.name}: {work} moved the target by {length:.4f}, allowed {allowed}"
                )
        self._reset_messages = 0

    def _on_the_way_home(self, values: Values) -> None:
        """The first message holds the robot, the second is where it is; then it goes in steps."""
        if self.told is None or (self.by_hand and self._reset_messages <= 2):
            self.by_hand = self.by_hand and self._reset_messages < 2
            return
        for limits in self.robot.limits:
            length = self._length(limits, self.told, values)
            allowed = max(limits.home_step, limits.tolerance)
            if self._reset_messages <= 2:
                allowed += limits.lead
            if length > allowed + _ROUNDING:
                raise Violation(
                    f"{limits.name}: target {self._reset_messages} of the way home is {length:.4f} "
                    f"from the one before, allowed {allowed}"
                )

    def _target(
        self,
        values: list[float],
        executed: Values | None,
        now_s: float,
        reading: Values,
        observed: Values,
    ) -> None:
        robot = self.robot
        moving = self.told is not None and not self._holds
        start: Values = observed if robot.absolute and self.told is None else reading
        if moving and self.told is not None:
            start = self.told
        elif self.told is not None:
            self._near_what_holds(values)
        if not moving or (now_s - self._told_s > _REST_S and not robot.summed):
            self._before = self._rest
        if self._interrupted:  # it was judged before the stop; another stop follows
            self._before = None
        change = self._way(start, values)
        in_period = change  # what a whole period would bring
        if robot.summed and executed is not None:
            in_period = [value * PERIOD_S for value in executed]
        elapsed_s = min(now_s - self._told_s, PERIOD_S) if moving else PERIOD_S
        passed_s, self._spent_s = now_s - self._spent_s, now_s
        for i, limits in enumerate(robot.limits):
            step, velocity = limits.step, limits.velocity
            if robot.measured:  # as far as an action may go, for each command
                step = robot.bounds[i]
                velocity = 2 * step / PERIOD_S
            elif robot.summed:
                step = velocity * PERIOD_S
            elif robot.absolute and not moving:
                step = limits.lead  # the gate may have judged it against another reading
            length = math.hypot(*change[limits.part])
            if length > step + _ROUNDING:
                raise Violation(f"{limits.name}: a step of {length:.5f}, allowed {step}")
            spent = length
            if robot.absolute and not moving:  # at least so far, whatever it was judged against
                ways = [self._length(limits, here, values) for here in [*self._starts, start]]
                spent = min(*ways, limits.step)
            self._spent[i] = max(0.0, self._spent[i] - velocity * passed_s) + spent
            if self._spent[i] > velocity * PERIOD_S * _BURST + 5 * _ROUNDING:
                raise Violation(
                    f"{limits.name}: faster than {velocity} per second, by a step of {length:.5f}"
                )
            if not robot.measured and (moving or not robot.absolute):
                allowed = limits.acceleration * PERIOD_S * elapsed_s
                self._speeds_up(limits, in_period, allowed, 4 * _ROUNDING)
        # What the gate has judged the first target against, nobody knows here.
        self._before = in_period if moving or not robot.absolute else None
        self._within_range(values, start)
        if executed is not None:
            self._truth(values, change, executed, reading)

    def _taken(self, values: Values, executed: Values | None, readings: Sequence[Values]) -> Values:
        """The reading that a change may have started from."""
        if self.robot.absolute:
            self._starts = [*readings, self.told] if self.told is not None else list(readings)

            def far(here: Values) -> float:
                return max(self._length(x, here, values) / x.lead for x in self.robot.limits)

            return min(self._starts, key=far)
        if executed is None or len(readings) == 1:
            return readings[-1]
        step_s = PERIOD_S if self.robot.summed else 1.0

        def off(reading: Values) -> float:
            way = self._way(reading, values)
            if self.robot.measured:
                way = [min(max(w, -b), b) for w, b in zip(way, self.robot.bounds)]
            share = self._share(way, executed) if self.robot.summed else 1.0
            return sum(abs(w - e * step_s * share) for w, e in zip(way, executed))

        return min(readings, key=off)

    def _near_what_holds(self, values: Values) -> None:
        if self.told is None:
            return
        for i, limits in enumerate(self.robot.limits):
            step = self.robot.bounds[i] if self.robot.measured else limits.step
            allowed = limits.lead + max(step, limits.velocity * PERIOD_S)
            if self.robot.absolute:
                allowed = 2 * limits.lead
            length = self._length(limits, self.told, values)
            if length > allowed + _ROUNDING:
                raise Violation(
                    f"{limits.name}: the first target is {length:.4f} from what holds the robot, "
                    f"allowed {allowed}"
                )

    def _speeds_up(self, limits: Limits, change: Values, allowed: float, rounding: float) -> None:
        """Braking may be as hard as limits of position, lead and stops want it: only elements that
        speed up or turn round count."""
        if self._before is None:
            return
        changes = [
            now - before
            for before, now in zip(self._before[limits.part], change[limits.part])
            if abs(now) > abs(before) + rounding or now * before < -(rounding**2)
        ]
        more = math.hypot(*changes)
        if more > allowed + rounding:
            raise Violation(
                f"{limits.name}: from {list(self._before[limits.part])} to "
                f"{list(change[limits.part])} within a period, a change of {more:.5f}, allowed "
                f"{allowed:.5f}"
            )

    def _within_range(self, values: Values, start: Values) -> None:
        for i, (low, high) in enumerate(zip(self.robot.target_low, self.robot.target_high)):
            outside = max(low - values[i], values[i] - high)
            if outside > max(low - start[i], start[i] - high, 0.0) + _ROUNDING:
                raise Violation(f"joint {JOINTS[i]} was led to {values[i]:.4f}, beyond its limits")

    def _truth(
        self, values: Values, change: list[float], executed: Values, reading: Values
    ) -> None:
        robot = self.robot
        if robot.absolute:
            if robot.pose and sum(a * b for a, b in zip(values[3:], executed[3:7])) < 0:
                executed = [*executed[:3], *(-q for q in executed[3:7])]  # the same rotation
            # A robot outside of the bounds of its actions comes back in steps.
            values = [min(max(value, -b), b) for value, b in zip(values, robot.bounds)]
            self._same("sent", values, executed)
        elif robot.measured:
            way = self._way(reading, values)
            way = [min(max(w, -b), b) for w, b in zip(way, robot.bounds)]
            count = 2 if self._half_turn else 3
            self._same("sent", way[:count], executed[:count])
        elif robot.summed:  # the velocity, for the time since the command before
            share = self._share(change, executed)
            self._same("sent", change, [value * PERIOD_S * share for value in executed])
        else:
            self._same("sent", change, executed)

    @staticmethod
    def _share(change: Values, executed: Values) -> float:
        """The share of a period that a velocity was in effect for."""
        most = max(range(len(change)), key=lambda i: abs(executed[i]))
        full = executed[most] * PERIOD_S
        return min(max(change[most] / full, 0.0), 1.0) if full else 0.0

    def _same(self, what: str, values: Values, executed: Values) -> None:
        if any(abs(a - b) > 4 * _ROUNDING for a, b in zip(values, executed)):
            raise Violation(f"{what} {list(values)}, reported as applied {list(executed)}")

    def _length(self, limits: Limits, start: Values, end: Values) -> float:
        return math.hypot(*self._way(start, end)[limits.part])

    def _moves(self, values: Values) -> bool:
        if self.robot.rate:
            return any(values)
        return self.told is None or any(abs(w) > _ROUNDING for w in self._way(self.told, values))
