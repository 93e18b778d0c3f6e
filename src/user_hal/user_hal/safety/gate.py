"""The gate that every command passes before it reaches a driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from user_core.body.action_groups import group_views
from user_core.body.mobility import Mobility
from user_core.specs import Array, Arrays, RobotSpec
from user_hal.safety.config import SafetyConfig
from user_hal.safety.group_gate import GroupGate
from user_hal.safety.groups import config_of_groups
from user_hal.safety.rules import FormatRule, Refused


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

    1. format: shape, dtype, NaN and infinity are refused, and a categorical element that is none of
       its choices; the rules below leave these elements alone;
    2. bounds of each element: clipped, or refused when far out;
    3. acceleration, velocity, step size: the displacement that the command asks for is
       shortened;
    4. joint limits or the tool's box: it is cut at the limit; outside, what leads further out
       is refused. They come last because they win.

    Where the robot's actions have groups, 2 to 4 apply within each group; a command that one
    group refuses is sent to none.

    What comes out is finite, within the bounds and the limits, whatever comes in (see
    ``test/safety/test_gate_properties.py``). Not safe to use from several threads at once.

    While readings jump further than the robot can have gone, no command that starts from where
    it is measured to be is let in (see :mod:`user_hal.safety.settling`).

    Args:
        config: Limits.
        spec: What the robot shows and takes.
        mobility: What is known of how it can move: its own velocity limits hold as well, and
            joints that turn without an end go the short way round.

    Attributes:
        groups: The gates of the groups; one, for a robot without groups.

    Raises:
        ConfigError: The configuration does not fit the robot's spec.
    """

    def __init__(
        self, config: SafetyConfig, spec: RobotSpec, mobility: Mobility | None = None
    ) -> None:
        self.spec, self.config = spec, config
        self.counters = GateCounters()
        self._format = FormatRule(spec.action)
        self._dtype = np.dtype(spec.action.dtype)
        self._mobility = mobility or Mobility()
        self.groups = self._make_groups()

    @property
    def mobility(self) -> Mobility:
        """What is known of how the robot can move."""
        return self._mobility

    def know(self, mobility: Mobility) -> None:
        """Take over what the driver knows now, of a robot at rest: it may have heard the robot's
        description when it connected."""
        if mobility != self._mobility:
            self._mobility = mobility
            self.groups = self._make_groups()

    def replace(self, config: SafetyConfig) -> None:
        """Other limits, of a robot that was stopped; the next command starts from rest."""
        self.config = config
        self.groups = self._make_groups()

    def observe(self, arrays: Arrays, stamp_ns: int | None = None) -> None:
        """Take over a new reading of the robot, which must fit its spec.

        Args:
            arrays: It.
            stamp_ns: When it was taken, by which readings are found that cannot be true; None:
                it is believed as it is.
        """
        for group in self.groups:
            group.observe(arrays, stamp_ns)

    def trust(self) -> None:
        """The robot is where the next reading says, however it got there: it was reset."""
        for group in self.groups:
            group.trust()

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

    def executed(self, action: Array) -> None:
        """What was sent last was really carried out as this action, (A,): the next command is
        judged against that, not against what was asked for."""
        values: list[float] = action.tolist()
        for group in self.groups:
            group.executed(values[group.part])

    def between(self, old: Array, new: Array, share: float) -> Array:
        """An action between two, (A,), for fading over from one plan to another: each group's by
        its kind. ``share`` is how much of the new one it has, 0 to 1."""
        mixed = [g.between(old[g.part], new[g.part], share) for g in self.groups]
        return np.concatenate(mixed).astype(new.dtype)

    def hold(self) -> None:
        """The robot was stopped: the next command starts from rest, where the robot is."""
        for group in self.groups:
            group.hold()

    def _make_groups(self) -> list[GroupGate]:
        views = group_views(self.spec)
        return [
            GroupGate(own, view, self._mobility)
            for own, view in zip(config_of_groups(self.config, views), views)
        ]

    def _limit(self, action: Array, now_ns: int) -> tuple[list[float], list[str]]:
        """What may be sent, (A,), and the codes of what changed it."""
        values = self._format.read(action)
        only = self.groups[0]
        if not only.name:  # a robot without groups
            reasons = only.limit(values, now_ns)
            only.sent(values)
            return values, reasons
        reasons = []
        shares = [values[group.part] for group in self.groups]
        for group, share in zip(self.groups, shares):
            try:
                reasons += [code for code in group.limit(share, now_ns) if code not in reasons]
            except Refused as refusal:
                raise Refused(refusal.code, f"{group.name}: {refusal.detail}") from refusal
        for group, share in zip(self.groups, shares):
            group.sent(share)
            values[group.part] = share
        return values, reasons
