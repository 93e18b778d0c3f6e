"""The gate that every command passes before it reaches a driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from user_core.errors import ConfigError
from user_core.reasons import NO_OBSERVATION, QUATERNION
from user_core.specs import Array, Arrays, RobotSpec
from user_hal.safety.config import SafetyConfig
from user_hal.safety.forms import action_scale, form_for
from user_hal.safety.motion import Motion, MotionLayout
from user_hal.safety.rules import (
    AccelerationRule,
    BoundsRule,
    FormatRule,
    JointLimitsRule,
    PositionRule,
    Refused,
    Rule,
    StepRule,
    VelocityRule,
    WorkspaceRule,
)


@dataclass
class GateCounters:
    """Counts since the start of the process.

    Attributes:
        passed: Commands that passed unchanged.
        limited: Commands that passed changed.
        refused: Commands that were refused.
        reasons: How often each code occurred; one command may be changed for several.
    """

    passed: int = 0
    limited: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def limit(self, codes: Iterable[str]) -> None:
        """Count one changed command."""
        self.limited += 1
        for code in codes:
            self.reasons[code] += 1

    def refuse(self, code: str) -> None:
        """Count one refused command."""
        self.refused += 1
        self.reasons[code] += 1


#: After this many periods without a command the robot has come to rest by itself.
_REST_PERIODS = 2.5


@dataclass(frozen=True)
class Verdict:
    """What became of a command.

    Attributes:
        action: What may be sent to the driver, (A,); None when it was refused.
        reasons: Codes of the rules that changed it, or of the one that refused it.
        detail: For people; empty when it passed.
    """

    action: Array | None
    reasons: tuple[str, ...] = ()
    detail: str = ""

    @property
    def changed(self) -> bool:
        """Whether the gate let it pass, but changed it."""
        return self.action is not None and bool(self.reasons)


class SafetyGate:
    """Judges commands, one after the other, in a fixed order.

    1. format: shape, dtype, NaN and infinity are refused;
    2. bounds of each element: clipped, or refused when far out;
    3. acceleration, velocity, step size: the displacement that the command asks for is
       shortened;
    4. joint limits or the tool's box: it is cut at the limit; outside, what leads further out
       is refused. They come last because they win.

    What comes out is finite, within the bounds and the limits, whatever comes in (see
    ``test/safety/test_gate_properties.py``). Not safe to use from several threads at once.

    Raises:
        ConfigError: The configuration does not fit the robot's spec.
    """

    def __init__(self, config: SafetyConfig, spec: RobotSpec) -> None:
        self.spec, self.config = spec, config
        self.counters = GateCounters()
        self.layout = layout = MotionLayout.of(spec)
        self._motion = motion = Motion(layout, spec.period_s)
        self._format = FormatRule(spec.action)
        self._bounds = BoundsRule(config.bounds, spec.action, layout)
        self._form = form_for(spec, layout, motion, config.action_scale, self._lead())
        self._rules = _rules(config, spec, layout)
        self._dtype = np.dtype(spec.action.dtype)
        self._moves = self._dtype.kind == "f"
        self._needs_position = layout.absolute and layout.linear.stop + layout.joints.stop > 0
        self._needs_position |= any(isinstance(rule, PositionRule) for rule in self._rules)
        self._seen = False
        self._last_ns: int | None = None

    def observe(self, arrays: Arrays) -> None:
        """Take over a new reading of the robot, which must fit its spec."""
        self._form.observe(arrays)
        self._seen = True

    def judge(self, action: Array, now_ns: int) -> Verdict:
        """Decide about a command that is due now; it counts as sent when it passes.

        Args:
            action: The command, (A,). Anything at all may come.
            now_ns: Time of a monotonic clock, nanoseconds.
        """
        try:
            values, reasons = self._limit(action, now_ns)
        except Refused as refusal:
            self.counters.refuse(refusal.code)
            return Verdict(None, (refusal.code,), refusal.detail)
        if not reasons:
            self.counters.passed += 1
            return Verdict(action)
        self.counters.limit(reasons)
        allowed = np.array(values, self._dtype)
        return Verdict(allowed, tuple(reasons), f"limited by {', '.join(reasons)}")

    def hold(self) -> None:
        """The robot was stopped: the next command starts from rest, where the robot is."""
        self._last_ns = None
        self._rest()
        self._form.hold()
        for rule in self._rules:
            rule.hold()

    def _limit(self, action: Array, now_ns: int) -> tuple[list[float], list[str]]:
        """What may be sent, (A,), and the codes of what changed it."""
        values = self._format.read(action)
        self._pass_time(now_ns)
        reasons = [BoundsRule.code] if self._bounds.limit(values) else []
        if not self._moves:
            return values, reasons
        if self._needs_position and not self._seen:
            raise Refused(NO_OBSERVATION, "no reading of the robot to judge a command against")
        motion, form = self._motion, self._form
        if form.start(values):
            reasons.append(QUATERNION)
        motion.asked[:] = motion.displacement
        limited = [rule.code for rule in self._rules if rule.limit(motion)]
        if limited:
            form.finish(values)
            self._bounds.confine(values, form.rest)
            form.start(values)  # what is left of it, after rounding and confinement
            reasons += limited
        for rule in self._rules:
            rule.sent(motion)
        form.sent(values)
        motion.previous[:] = motion.displacement
        return values, reasons

    def _pass_time(self, now_ns: int) -> None:
        motion, period_s = self._motion, self.spec.period_s
        if self.spec.lockstep or self._last_ns is None:
            motion.elapsed_s = period_s
        else:
            motion.elapsed_s = min(max((now_ns - self._last_ns) * 1e-9, 0.0), 10 * period_s)
            if motion.elapsed_s > _REST_PERIODS * period_s and not self.layout.rate:
                self._rest()
        self._last_ns = now_ns

    def _rest(self) -> None:
        self._motion.previous[:] = [0.0] * self.layout.size

    def _lead(self) -> list[float]:
        """How far a target may be ahead of the robot, (P,)."""
        scale = action_scale(self.config.action_scale, self.layout)
        periods, bounds = self.config.target_lead_s / self.spec.period_s, self._bounds
        most = [max(abs(low), abs(high)) for low, high in zip(bounds.low, bounds.high)]
        lead = [periods * one * unit for one, unit in zip(most, scale)]
        return lead[: len(self._motion.position)]


def _rules(config: SafetyConfig, spec: RobotSpec, layout: MotionLayout) -> list[Rule]:
    """The rules that the configuration asks for, in the order in which they apply."""
    rules: list[Rule] = []
    if np.dtype(spec.action.dtype).kind != "f":
        return rules  # a discrete action moves nothing by a distance
    if config.acceleration.given:
        rules.append(AccelerationRule(config.acceleration, layout))
    if config.velocity.given:
        rules.append(VelocityRule(config.velocity, layout, spec.period_s))
    if config.step.given:
        rules.append(StepRule(config.step, layout))
    if config.joint_limits.given:
        _need(spec, "joint_limits", "joint_position")
        if layout.joints.stop:
            rules.append(JointLimitsRule(config.joint_limits, layout, spec, config.watchdog_s))
    if config.workspace.given:
        _need(spec, "workspace", "tcp_pose")
        if layout.linear.stop:
            rules.append(WorkspaceRule(config.workspace, layout, config.watchdog_s))
    return rules


def _need(spec: RobotSpec, what: str, name: str) -> None:
    if name not in spec.observation:
        raise ConfigError(
            what,
            got=f"an observation of {list(spec.observation)}",
            expected=f"a robot that shows {name!r}",
            hint=f"Remove {what} from the safety configuration, or use a driver that reads it.",
        )
