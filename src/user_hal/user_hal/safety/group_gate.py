"""The gate of one action group: its bounds and limits, in the order in which they apply."""

from __future__ import annotations

import numpy as np

from user_core.body.action_groups import GroupView
from user_core.body.mobility import Mobility
from user_core.errors import ConfigError
from user_core.reasons import NO_OBSERVATION, OUT_OF_BOUNDS, QUATERNION, UNSETTLED
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_hal.safety.config import UNLIMITED, ReadingsConfig, SafetyConfig, WorkspaceConfig
from user_hal.safety.forms import action_scale, form_for
from user_hal.safety.motion import Motion, MotionLayout
from user_hal.safety.ordering import element_order, reordered_config, reordered_spec
from user_hal.safety.rules import (
    AccelerationRule,
    BoundsRule,
    JointLimitsRule,
    PositionRule,
    Refused,
    Rule,
    StepRule,
    VelocityRule,
    WorkspaceRule,
)
from user_hal.safety.settling import Settling, short_way

#: After this many periods without a command the robot has come to rest by itself.
_REST_PERIODS = 2.5
#: Readings may show a joint this much faster than the fastest that it can move.
_MARGIN = 2.0


class GroupGate:
    """Judges one group's share of each command.

    A command is judged in two steps, so that it passes for all groups or for none: :meth:`limit`
    for every group, then, when no group has refused, :meth:`sent` for every group.

    Args:
        config: What holds for this group, see :func:`user_hal.safety.groups.config_of_groups`.
        view: The group.
        mobility: What is known of how the robot can move.

    Attributes:
        name: Of the group; empty for a robot without groups.
        part: Its elements of an action.

    Raises:
        ConfigError: The configuration does not fit the group.
    """

    def __init__(self, config: SafetyConfig, view: GroupView, mobility: Mobility) -> None:
        self.name, self.part, self._view = view.name, view.part, view
        spec, self._order = view.spec, element_order(view.spec)
        if self._order:
            config = reordered_config(config, spec, self._order)
            spec = reordered_spec(spec, self._order)
        self.spec = spec
        self.layout = layout = MotionLayout.of(spec)
        fastest, turning, shifting = _joints_of(view, layout, mobility)
        self._motion = motion = Motion(layout, spec.period_s, turning)
        self._bounds = BoundsRule(config.bounds, spec.action, layout)
        lead = self._lead(config)
        self._form = form_for(spec, layout, motion, config.action_scale, lead, self._bounds)
        self._rules = _rules(config, spec, layout, fastest, turning)
        self._remembering = [rule for rule in self._rules if type(rule).sent is not Rule.sent]
        self._settling = _settling(config.readings, layout, fastest, turning, shifting)
        self._chosen = list(view.spec.action.categorical)
        self._moves = np.dtype(spec.action.dtype).kind == "f"
        self._moves &= len(self._chosen) < view.spec.action.size
        self._needs_position = layout.absolute and layout.placed > 0
        self._needs_position |= any(isinstance(rule, PositionRule) for rule in self._rules)
        starts = not layout.rate or self.name in mobility.summed  # from where it is measured
        self._judges = bool(layout.placed) and starts and not spec.lockstep
        self._goes_on = layout.rate or self.name in mobility.goes_on
        self._seen = False
        self._stamped = False  # readings come with the time at which they were taken
        self._unread = False  # nothing was read since the last command
        self._last_ns: int | None = None

    def observe(self, arrays: Arrays, stamp_ns: int | None = None) -> None:
        """Take over a new reading of the robot.

        Args:
            arrays: It.
            stamp_ns: When it was taken; None: it is believed as it is.
        """
        form, own = self._form, self._view.arrays(arrays) if self.name else arrays
        form.measure(own)
        if stamp_ns is not None and self._judges:
            self._stamped, self._unread = True, False
            self._settling.look(self._motion.position, form.turned(own), stamp_ns)
        form.observe(own, believed=not self._settling.doubt)
        self._seen = True

    def trust(self) -> None:
        """The robot is where the next reading says, however it got there: it was reset."""
        self._settling.forget()
        self._unread = False

    def limit(self, values: list[float], now_ns: int) -> list[str]:
        """Reduce the group's elements in place, (A,), to what may be sent.

        Args:
            values: What was asked for.
            now_ns: Time of a monotonic clock, nanoseconds.

        Returns:
            Codes of what changed it.

        Raises:
            Refused: Nothing near to what was asked may be sent.
        """
        if not self._order:
            return self._limit(values, now_ns)
        own = [values[i] for i in self._order]
        reasons = self._limit(own, now_ns)
        for i, value in zip(self._order, own):
            values[i] = value
        return reasons

    def _limit(self, values: list[float], now_ns: int) -> list[str]:
        self._pass_time(now_ns)
        reasons = [BoundsRule.code] if self._bounds.limit(values) else []
        if not self._moves:
            return reasons
        if self._needs_position and not self._seen:
            raise Refused(NO_OBSERVATION, "no reading of the robot to judge a command against")
        motion, form = self._motion, self._form
        if form.start(values):
            reasons.append(QUATERNION)
        motion.asked[:] = motion.displacement
        limited = []
        for rule in self._rules:
            if rule.limit(motion):
                limited.append(rule.code)
        if form.resting and (self._unread or self._settling.doubt):
            raise Refused(UNSETTLED, self._settling.doubt or "no reading since the last command")
        if limited:
            form.finish(values)
            self._bounds.confine(values, form.rest)
            form.start(values)  # what is left of it, after rounding and confinement
            if self.layout.absolute:
                self._require_bounds(values)
            reasons += limited
        return reasons

    def sent(self, values: list[float]) -> None:
        """These elements, (A,), are being sent."""
        if not self._moves:
            return
        motion, self._unread = self._motion, self._stamped
        for rule in self._remembering:
            rule.sent(motion)
        self._form.sent([values[i] for i in self._order] if self._order else values)
        motion.previous[:] = motion.displacement

    def executed(self, values: list[float]) -> None:
        """What was sent last was carried out as these elements, (A,): the driver shortened it."""
        if self._moves and not self._form.resting:
            self._form.executed([values[i] for i in self._order] if self._order else values)
            self._motion.previous[:] = self._motion.displacement

    def between(self, old: Array, new: Array, share: float) -> Array:
        """An action between two of the group, (A,): endless joints the short way round,
        orientations by the nearer of their two quaternions, choices as in the nearer action.

        Args:
            old: The one.
            new: The other.
            share: How much of the other, 0 to 1.
        """
        mixed: Array = (1 - share) * old + share * new
        place = self._order or range(len(old))
        if self.layout.kind is ActionKind.JOINT_POSITION:
            for i, turning in enumerate(self._motion.turning):
                if turning:
                    element = place[i]
                    way = short_way(float(new[element] - old[element]))
                    mixed[element] = (
                        old[element] + share * way
                        if share < 0.5
                        else new[element] - (1 - share) * way
                    )
        elif self.layout.kind is ActionKind.EE_POSE and self.layout.angular.stop:
            turned = [place[i] for i in range(3, 7)]
            near = new[turned] if float(old[turned] @ new[turned]) >= 0 else -new[turned]
            mixed[turned] = (1 - share) * old[turned] + share * near
            length = float(np.linalg.norm(mixed[turned]))
            mixed[turned] = mixed[turned] / length if length > 0 else new[turned]
        if self._chosen:  # nothing lies between two choices
            mixed[self._chosen] = (old if share < 0.5 else new)[self._chosen]
        return mixed

    def hold(self) -> None:
        """The robot was stopped: the next command starts from rest, where the robot is."""
        self._rest()
        self._form.hold()
        for rule in self._rules:
            rule.hold()

    def _require_bounds(self, values: list[float]) -> None:
        """Refuse a target that is out of bounds because the robot is: limits let it come back in
        steps only, and the first of them is no action that the robot takes."""
        bounds = self._bounds
        for i in range(self.layout.placed):
            if not bounds.low[i] <= values[i] <= bounds.high[i]:
                raise Refused(
                    OUT_OF_BOUNDS,
                    f"{self.layout.names[i]} is at {self._form.rest[i]:.4f}, further outside of the "
                    f"actions {bounds.low[i]:g} to {bounds.high[i]:g} than one step leads back; "
                    "reset the robot or lead it back by hand",
                )

    def _pass_time(self, now_ns: int) -> None:
        motion, period_s = self._motion, self.spec.period_s
        if self.spec.lockstep or self._last_ns is None:
            motion.elapsed_s = period_s
        else:
            motion.elapsed_s = min(max((now_ns - self._last_ns) * 1e-9, 0.0), 10 * period_s)
            if motion.elapsed_s > _REST_PERIODS * period_s and not self._goes_on:
                self._rest()
        self._last_ns = now_ns

    def _rest(self) -> None:
        self._motion.previous[:] = [0.0] * self.layout.size

    def _lead(self, config: SafetyConfig) -> list[float]:
        """How far a target may be ahead of the robot, (P,)."""
        scale = action_scale(config.action_scale, self.layout)
        periods, bounds = config.target_lead_s / self.spec.period_s, self._bounds
        most = [max(abs(low), abs(high)) for low, high in zip(bounds.low, bounds.high)]
        lead = [periods * one * unit for one, unit in zip(most, scale)]
        return lead[: self.layout.placed]


def _joints_of(
    view: GroupView, layout: MotionLayout, mobility: Mobility
) -> tuple[list[float], list[bool], list[bool]]:
    """Of the joints that are moved: the fastest that each can move, whether it turns endlessly,
    and whether it shifts."""
    if not layout.joints.stop or "joint_position" not in view.spec.observation:
        return [], [False] * layout.placed, []
    array, rows = view.source("joint_position")
    names = view.spec.observation["joint_position"].names
    shifting = [bool(names) and names[row] in mobility.prismatic for row in layout.joint_rows]
    rows = rows[layout.joint_rows]
    return mobility.fastest_of(array, rows), mobility.continuous_of(array, rows), shifting


def _settling(
    config: ReadingsConfig,
    layout: MotionLayout,
    fastest: list[float],
    turning: list[bool],
    shifting: list[bool],
) -> Settling:
    pushed = config.tool_speed_m_s if layout.tool else config.joint_speed_rad_s
    speeds = [pushed] * layout.placed
    for i, known in enumerate(fastest):
        pushed_here = config.tool_speed_m_s if shifting[i] else pushed
        speeds[i] = _MARGIN * known if known < UNLIMITED else pushed_here
    names = ("tool x", "tool y", "tool z") if layout.tool else layout.names
    return Settling(names, speeds, turning, config.tool_turn_rad_s, config.settled)


def _rules(
    config: SafetyConfig,
    spec: RobotSpec,
    layout: MotionLayout,
    fastest: list[float],
    turning: list[bool],
) -> list[Rule]:
    """The rules that the configuration asks for, in the order in which they apply."""
    rules: list[Rule] = []
    if np.dtype(spec.action.dtype).kind != "f":
        return rules  # a discrete action moves nothing by a distance
    if config.acceleration.given:
        rules.append(AccelerationRule(config.acceleration, layout))
    velocity = config.velocity.slower_than(fastest, layout)
    if velocity.given:
        rules.append(VelocityRule(velocity, layout, spec.period_s))
    if config.step.given:
        rules.append(StepRule(config.step, layout))
    if config.joint_limits.given:
        _need(spec, "joint_limits", "joint_position")
        if layout.joints.stop:
            limits, horizon_s = config.joint_limits, config.watchdog_s
            rules.append(JointLimitsRule(limits, layout, spec, horizon_s, turning))
    if config.workspace.given:
        _need(spec, "workspace", "tcp_pose")
        _check_box(config.workspace, spec, layout)
        if layout.tool:
            rules.append(WorkspaceRule(config.workspace, layout, config.watchdog_s))
    return rules


def _check_box(box: WorkspaceConfig, spec: RobotSpec, layout: MotionLayout) -> None:
    """The box, the pose that it bounds and the motion that it stops are in one frame."""
    seen = spec.observation["tcp_pose"].frame
    commanded = spec.action.frame if layout.tool else ""
    for what, frame in (("workspace.frame", box.frame), ("frame of the action", commanded)):
        if frame and seen and frame.lstrip("/") != seen.lstrip("/"):
            raise ConfigError(
                what,
                got=frame,
                expected=f"{seen}, the frame of tcp_pose, which the workspace bounds",
                hint="Give the box in that frame, or observe tcp_pose in the other "
                "(base_frame and transforms of the contract)",
            )


def _need(spec: RobotSpec, what: str, name: str) -> None:
    if name not in spec.observation:
        raise ConfigError(
            what,
            got=f"an observation of {list(spec.observation)}",
            expected=f"a robot that shows {name!r}",
            hint=f"Remove {what} from the safety configuration, or use a driver that reads it.",
        )
