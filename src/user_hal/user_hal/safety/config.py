"""Everything about safety that a robot's configuration says."""

from __future__ import annotations

from collections.abc import Sequence

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.safety.motion import MotionLayout

#: Stands for "no limit": finite, so that it may be multiplied by zero.
UNLIMITED = 1e12


class MotionLimits(Config):
    """Limits of one quantity; what is not given is not limited.

    Units are m and rad for a step, m/s and rad/s for a velocity, m/s^2 and rad/s^2 for an
    acceleration.
    """

    each: tuple[float, ...] = setting(
        (),
        doc="Limit of each element of the motion: one number for all that move tool or joints, "
        "or one per element (.inf: none).",
        gt=0,
        read_only=False,
    )
    linear: float | None = setting(
        None,
        doc="Limit of the length of the tool's translation vector.",
        unit="m",
        gt=0,
        read_only=False,
    )
    angular: float | None = setting(
        None,
        doc="Limit of the length of the tool's rotation vector.",
        unit="rad",
        gt=0,
        read_only=False,
    )

    @property
    def given(self) -> bool:
        """Whether anything is limited at all."""
        return bool(self.each) or self.linear is not None or self.angular is not None

    def slower_than(self, fastest: Sequence[float], layout: MotionLayout) -> MotionLimits:
        """These velocity limits, and none above the fastest that the joints can move."""
        if not any(speed < UNLIMITED for speed in fastest):
            return self
        own = self.elements(layout, "velocity") or [UNLIMITED] * layout.size
        own[: len(fastest)] = [min(pair) for pair in zip(own, fastest)]
        return self.replace(each=tuple(own))

    def elements(self, layout: MotionLayout, where: str) -> list[float]:
        """One limit per element of a displacement, (D,); empty where none is given.

        Raises:
            ConfigError: The number of limits fits neither one nor all elements.
        """
        if not self.each:
            return []
        if len(self.each) == 1:
            moving = layout.moving.stop
            return [self.each[0]] * moving + [UNLIMITED] * (layout.size - moving)
        if len(self.each) != layout.size:
            raise ConfigError(
                f"{where}.each",
                got=f"{len(self.each)} limits",
                expected=f"one, or {layout.size}: one for each of {list(layout.names)}",
            )
        return [min(limit, UNLIMITED) for limit in self.each]

    def vectors(self, layout: MotionLayout, where: str) -> list[tuple[slice, float]]:
        """The limited vectors: which elements of a displacement, and their longest length.

        Raises:
            ConfigError: The tool is limited, but the actions do not move the tool.
        """
        found = []
        for name, limit in (("linear", self.linear), ("angular", self.angular)):
            part: slice = getattr(layout, name)
            if limit is None:
                continue
            if part.start == part.stop and layout.linear.stop:
                continue  # an action that does not turn the tool needs no limit for turning it
            if part.start == part.stop:
                raise ConfigError(
                    f"{where}.{name}",
                    got=f"a limit on the tool, for actions of kind {layout.kind.value!r}",
                    expected="a limit on what the actions move",
                    hint=f"Remove it, or use {where}.each.",
                )
            found.append((part, min(limit, UNLIMITED)))
        return found


class BoundsConfig(Config):
    """Bounds of an action, in the units of the robot's action spec; they only ever tighten."""

    low: tuple[float, ...] = setting(
        (), doc="Smallest values: one number, or one per element.", read_only=False
    )
    high: tuple[float, ...] = setting(
        (), doc="Largest values: one number, or one per element.", read_only=False
    )
    refuse_beyond: float = setting(
        0.1,
        doc="A command that exceeds a bound by more than this share of the range is refused (it "
        "is a mistake, for instance of units); one that exceeds it by less is clipped.",
        ge=0,
    )

    @property
    def given(self) -> bool:
        """Whether anything is tightened."""
        return bool(self.low or self.high)


class WorkspaceConfig(Config):
    """An axis-aligned box in the base frame; without numbers there is none."""

    low: tuple[float, ...] = setting(
        (),
        doc="Smallest x, y and z of the tool; empty: no box.",
        unit="m",
        max_length=3,
        read_only=False,
    )
    high: tuple[float, ...] = setting(
        (),
        doc="Largest x, y and z of the tool; empty: no box.",
        unit="m",
        max_length=3,
        read_only=False,
    )

    frame: str = setting(
        "",
        doc="Frame that the box is in; empty: that of tcp_pose. Another one than that is refused.",
    )
    tolerance: float = setting(
        0.02,
        doc="How far the tool may overshoot a wall before commands that lead further out are "
        "refused altogether.",
        unit="m",
        ge=0,
    )

    def validate(self) -> None:
        both = len(self.low), len(self.high)
        if both not in ((0, 0), (3, 3)) or not all(a < b for a, b in zip(self.low, self.high)):
            raise ConfigError(
                "workspace",
                got=f"low {self.low}, high {self.high}",
                expected="three numbers each, low < high; or none",
            )

    @property
    def given(self) -> bool:
        """Whether there is a box."""
        return bool(self.low)


class JointLimitsConfig(Config):
    """Ranges of the joints; without ``low`` and ``high`` those of the spec of ``joint_position``.

    There are no limits while nothing at all is given.
    """

    low: tuple[float, ...] = setting(
        (), doc="Smallest position of each joint.", unit="rad", read_only=False
    )
    high: tuple[float, ...] = setting(
        (), doc="Largest position of each joint.", unit="rad", read_only=False
    )
    margin: float | None = setting(
        None, doc="Distance that is kept from both ends.", unit="rad", ge=0, read_only=False
    )

    tolerance: float = setting(
        0.05,
        doc="How far a joint may overshoot its limit before commands that lead further out are "
        "refused altogether.",
        unit="rad",
        ge=0,
    )

    @property
    def given(self) -> bool:
        """Whether the joints are limited."""
        return bool(self.low or self.high) or self.margin is not None


class ForceConfig(Config):
    """Above ``stop`` the robot stops; below ``resume`` it may go on. Not given: not limited."""

    stop_n: float | None = setting(
        None, doc="Force at which it stops.", unit="N", gt=0, read_only=False
    )
    resume_n: float | None = setting(
        None,
        doc="Force below which it may go on; by default 60 % of stop_n.",
        unit="N",
        gt=0,
        read_only=False,
    )
    stop_n_m: float | None = setting(
        None, doc="Torque at which it stops.", unit="N m", gt=0, read_only=False
    )
    resume_n_m: float | None = setting(
        None,
        doc="Torque below which it may go on; by default 60 %.",
        unit="N m",
        gt=0,
        read_only=False,
    )

    def validate(self) -> None:
        for stop, resume in ((self.stop_n, self.resume_n), (self.stop_n_m, self.resume_n_m)):
            if resume is not None and (stop is None or resume > stop):
                raise ConfigError(
                    "force", got=f"resume at {resume}", expected=f"at most stop, {stop}"
                )

    @property
    def given(self) -> bool:
        """Whether force or torque is limited."""
        return self.stop_n is not None or self.stop_n_m is not None


class ReadingsConfig(Config):
    """Which readings are believed when a robot starts to move from where they say it is.

    The first command after a stop starts from the measured position (targets, and changes of
    position). While readings jump further than a robot at rest can be pushed, that command is
    refused.
    """

    joint_speed_rad_s: float = setting(
        3.0,
        doc="The fastest that a joint can be pushed, where its driver knows no limit of its own.",
        unit="rad/s",
        gt=0,
    )
    tool_speed_m_s: float = setting(
        1.5, doc="The fastest that the tool, or a lift, can be pushed.", unit="m/s", gt=0
    )
    tool_turn_rad_s: float = setting(
        6.0, doc="The fastest that the tool can be turned.", unit="rad/s", gt=0
    )
    settled: int = setting(5, doc="Readings in a row that must fit each other after a jump.", ge=1)


class Limits(Config):
    """What is limited of a whole robot, and of one of its action groups."""

    bounds: BoundsConfig = setting(
        factory=BoundsConfig, doc="Bounds of each element of an action, inside the robot's own."
    )
    step: MotionLimits = setting(
        factory=MotionLimits, doc="How far one command may move, m and rad."
    )
    velocity: MotionLimits = setting(
        factory=MotionLimits, doc="How fast commands may move, m/s and rad/s."
    )
    acceleration: MotionLimits = setting(
        factory=MotionLimits, doc="How quickly the velocity may change, m/s^2 and rad/s^2."
    )
    workspace: WorkspaceConfig = setting(
        factory=WorkspaceConfig, doc="Box in the base frame that the tool stays in."
    )
    joint_limits: JointLimitsConfig = setting(
        factory=JointLimitsConfig, doc="Ranges that the joints stay in."
    )
    force: ForceConfig = setting(
        factory=ForceConfig, doc="Force and torque at the tool that stop it."
    )
    action_scale: tuple[float, ...] = setting(
        (),
        doc="What one unit of each element of a change or velocity action moves, in m or rad (per "
        "s): one number for all that move tool or joints, or one per element. Empty: the "
        "actions are in SI units already.",
        gt=0,
    )


class GroupLimits(Limits):
    """Limits of one action group. What is given here goes before what is given for all groups."""

    target_lead_s: float | None = setting(
        None, doc="As for the whole robot; by default that.", unit="s", gt=0
    )


class SafetyConfig(Limits):
    """What may reach a robot, and what stops it. What is not given is not limited."""

    watchdog_s: float = setting(
        0.5,
        doc="A robot that gets no command for this long stops; longer than its control period.",
        unit="s",
        gt=0,
        read_only=False,
    )
    max_observation_age_s: float = setting(
        0.5, doc="A robot whose newest reading is older stops.", unit="s", gt=0, read_only=False
    )
    max_chunk_s: float = setting(
        2.0,
        doc="Longest time that one chunk may drive the robot by itself.",
        unit="s",
        gt=0,
        read_only=False,
    )
    readings: ReadingsConfig = setting(
        factory=ReadingsConfig, doc="Readings that a robot at rest may start from."
    )
    target_lead_s: float = setting(
        0.1,
        doc="How far the robot may lag behind its target, as time of full motion. The box and the "
        "joint limits are kept for the target, too, up to this lead; a robot that lags further "
        "is taken to be blocked, so that pushing against something does not use up its box.",
        unit="s",
        gt=0,
    )
    groups: dict[str, GroupLimits] = setting(
        factory=dict,
        doc="Limits of single action groups, by the group's name, for a robot that has groups. "
        "What is not given there is as above; a list above has the elements of all groups.",
    )
