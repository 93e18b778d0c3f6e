"""What moves one group of a robot: targets, the topics that they go to, the gripper, the way home."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from user_core.errors import DeviceError, ImplausibleReading
from user_core.reasons import NO_REASON, NOT_FOLLOWED, Reason
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.commanding.following import COMMANDS, FollowWatch
from user_hal.robots.ros2.commanding.grippers import GripperSender
from user_hal.robots.ros2.commanding.homing import Homing
from user_hal.robots.ros2.commanding.senders import TargetSender, require_listener
from user_hal.robots.ros2.commanding.targets import Target, make_targets
from user_hal.robots.ros2.contract import CommandConfig
from user_hal.robots.ros2.contract.actions import command_quantity
from user_hal.robots.ros2.contract.groups import Group
from user_hal.robots.ros2.contract.sources import POSES
from user_hal.robots.ros2.frames import to_rpy
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.messages import TOOL_KINDS, is_action
from user_hal.robots.ros2.tf_tree import TfListener
from user_hal.topic_io import TopicIo

_log = logging.getLogger(__name__)

#: The smallest way that is judged: rad of joints, m of a tool or of prismatic joints.
_SMALLEST_RAD, _SMALLEST_M = 0.02, 0.005
#: Goals of actions on the way home come no faster: each is accepted before it begins.
_GOAL_RATE_HZ = 10.0
#: Kinds whose actions are changes within a period.
_CHANGES = (ActionKind.JOINT_DELTA, ActionKind.EE_DELTA)
#: A group that is not where it was told to stand must be measured so often, at this distance, at
#: one place before a reset goes on from there.
_SETTLING, _SETTLING_S = 6, 0.05


class Readings(Protocol):
    """Where measured numbers, and frames that move, come from."""

    @property
    def listeners(self) -> dict[str, TfListener]:
        """What hears of frames, by topic."""

    def measured(self, name: str) -> Array:
        """The newest numbers of an array of the observation, (n,); raises DeviceError."""


@dataclass
class Plan:
    """What a group is about to be told.

    Attributes:
        target: Where it is to go.
        executed: The action as it will be carried out, without the gripper.
        openings: Of the grippers, in their order.
    """

    target: Target
    executed: Array
    openings: tuple[float, ...] = ()


class Drive:
    """Moves one group.

    Args:
        group: What the contract says of it.
        readings: What is measured.
        period_s: Control period.
    """

    def __init__(self, group: Group, readings: Readings, period_s: float) -> None:
        self.group, self._readings, self._period_s = group, readings, period_s
        action, contract, count = group.action, group.contract, len(group.joints)
        self.grippers: tuple[GripperSender, ...] = ()
        self._sender: TargetSender | None = None
        self._home_sender: TargetSender | None = None
        self._rows = {q: group.rows(q) for q in ("joint_position",) if group.joints}
        low, high = (
            np.broadcast_to(np.asarray(default if bound is None else bound, float), (count,))
            for bound, default in ((action.target_low, -np.inf), (action.target_high, np.inf))
        )
        self._turns = Turns(group.joints, contract.continuous)
        self._lead = group.per_joint(action.max_lead_rad, action.max_lead_m)
        self._targets = make_targets(
            action, period_s, count, low, high, self._turns, self._lead, group.stop.effort
        )
        self._held: Target | None = None  # what holds it since the last stop
        self._moved = False  # whether it was seen elsewhere since it was told to stand
        self._seen: Array | None = None  # where it was when it was first connected to
        self._before_plan = self._targets.state()
        self._planned_s: float | None = None  # when the last command was planned, monotonic
        self._follow, self._weights = self._make_watch()

    # --- the life of a connection -----------------------------------------------------------

    def open(self, io: TopicIo) -> None:
        """Make what sends. Raises TransportError and ConfigError for types that do not fit."""
        group = self.group
        self._sender = self._make_sender(io, group.action.command, "action.command")
        if group.home.command is not None:
            self._home_sender = self._make_sender(io, group.home.command, "home.command")
        grippers = group.action.all_grippers.items()
        self.grippers = tuple(
            GripperSender(io, gripper, f"{group.where}action.{name}") for name, gripper in grippers
        )

    def wait_for_controllers(self, io: TopicIo, timeout_s: float) -> None:
        """Wait until somebody listens; raises DeviceTimeout, with what there is instead. Readings
        have come."""
        deadline_s = time.monotonic() + timeout_s
        for sender in (self._sender, self._home_sender):
            if sender is None or not sender.config.require_subscriber:
                continue
            while not sender.publisher.subscribers and time.monotonic() < deadline_s:
                time.sleep(0.005)
            require_listener(io, sender.publisher, sender.config.type, timeout_s)
        for gripper in self.grippers:
            gripper.require(timeout_s)
        if self._seen is None:
            self._seen = self._hold_measured()

    def close(self) -> None:
        """End what sends."""
        senders = (self._sender, self._home_sender, *self.grippers)
        self._sender = self._home_sender = None
        self.grippers = ()
        self._held = None
        self._targets.forget()
        for sender in senders:
            if sender is not None:
                sender.close()

    @property
    def topics_written(self) -> list[str]:
        """Full names of the topics (and actions) by which it moves the group."""
        senders = (self._sender, self._home_sender)
        return [sender.publisher.topic for sender in senders if sender is not None]

    @property
    def is_open(self) -> bool:
        """Whether it can send."""
        return self._sender is not None

    # --- commands ---------------------------------------------------------------------------

    def measure(self) -> Array | None:
        """What the next target starts from; None if it starts from nothing measured."""
        needed = self._targets.observation
        return self._measured(needed) if needed else None

    def plan(self, action: Array, measured: Array | None) -> Plan:
        """The next target.

        Args:
            action: The group's part, (a,) float64 within the bounds of the spec.
            measured: What :meth:`measure` gave.
        """
        sender = self._connected()
        size = len(action) - len(self.grippers)
        openings = tuple(action[size:].tolist())
        self._before_plan = self._targets.state()
        now_s = time.monotonic()
        elapsed_s = None if self._planned_s is None else now_s - self._planned_s
        self._planned_s = now_s
        target, executed = self._targets.next(action[:size], measured, elapsed_s)
        accepted = sender.accepted(target)
        if accepted is not target:  # the robot's own range of velocities
            step_s = self._period_s if self.group.action.kind in _CHANGES else 1.0
            executed = self._of_target(accepted.values, size) * step_s
        return Plan(target, executed, openings)

    def unplan(self) -> None:
        """What was planned last is not sent: another group could not plan."""
        self._targets.restore(self._before_plan)

    def carry_out(self, plan: Plan) -> Array:
        """Send a planned target; returns the action as it is really carried out, (a,)."""
        sender = self._connected()
        executed, fingers = plan.executed, None
        if self.grippers:
            held = [g.send(opening) for g, opening in zip(self.grippers, plan.openings)]
            fingers = self._fingers(held)
            executed = np.append(executed, held)
        sender.send(plan.target, None, fingers)
        self._watch(sender.accepted(plan.target))
        self._held, self._moved = None, False
        if sender.rejected:  # nothing of it happens
            self._targets.forget()
            size = len(plan.executed)
            executed = np.array(executed)
            executed[:size] = self._nothing(plan.executed)
        return executed

    @property
    def is_bounded_by_rounding(self) -> bool:
        """Whether what is carried out is a difference, which rounding must not lead out of the
        bounds of the action."""
        return bool(self._targets.observation)

    def hold(self) -> None:
        """Send what stops the group; the same again, as long as nothing else was commanded and it
        stands there. What was never commanded is left alone where it cannot be seen, or is not
        seen where it was when it was first connected to."""
        if self._sender is None:
            return
        measured = self._hold_measured()
        if (
            self._seen is not None
            and not self._targets.knows
            and (measured is None or not self._targets.close_to(self._seen, measured))
        ):
            return
        if self._targets.rests and self.group.stop.hold == "measured":
            # Others may have moved it since: it does not leap back, also where a single false
            # reading has it where it was. It was told to stand, so nothing is missing.
            self._moved |= measured is not None and not self._targets.stands(measured)
            if measured is None or self._moved:
                return
        if self._held is None:
            if self._follow is not None:
                self._follow.forget()
            self._held = self._targets.hold(measured)
            if self._held is not None:
                self._targets.overridden(self._held)
        if self._held is not None:
            self._sender.send(
                self._held, self.group.stop.time_s, self._fingers_at_rest(), holds=True
            )

    def trouble(self) -> Reason:
        """Why what was commanded is not what happens; false if nothing is known against it."""
        of_group = f"group {self.group.name!r}: " if self.group.name else ""
        if self._sender is not None and (rejected := self._sender.trouble()):
            return Reason(rejected.code, of_group + rejected.text)
        if self._follow is not None and self._follow.failed:
            command, unit = self.group.action.command, self._unit
            is_tool = not self.group.moves_joints and self.group.action.kind in TOOL_KINDS
            weight = _SMALLEST_RAD / _SMALLEST_M if unit == "m" and not is_tool else 1.0
            told, gone = self._follow.commanded / weight, self._follow.gone / weight
            return Reason(
                NOT_FOLLOWED,
                f"{of_group or 'the robot '}does not follow {command.topic!r} ({command.type}): "
                f"it was told to move {told:.3f} {unit}, and moved {gone:.3f} {unit} "
                f"in {COMMANDS} commands; is the controller active, in the right mode, and in "
                "the contract's units?",
            )
        for gripper in self.grippers:
            if trouble := gripper.trouble():
                return Reason(trouble.code, of_group + trouble.text)
        return NO_REASON

    # --- the way home -----------------------------------------------------------------------

    def take_over(self) -> None:
        """Before a way home: believe where the group is, also if others have moved it since it was
        told to stand, as soon as it is measured there for a while.

        Raises:
            ImplausibleReading: Measurements disagree.
            DeviceError: There are none.
        """
        quantity = self._targets.hold_observation
        if not quantity or self.group.source(quantity) is None:
            return
        here = self._measured(quantity)
        if self._targets.stands(here) and not self._moved:
            return
        for _ in range(_SETTLING):
            time.sleep(_SETTLING_S)
            now = self._measured(quantity)
            if not self._targets.close_to(here, now):
                raise ImplausibleReading(
                    f"{quantity} of the robot",
                    got=f"{np.round(here, 3).tolist()}, then {np.round(now, 3).tolist()}",
                    expected="a robot that stands",
                    hint="Look for a second publisher of the topic",
                )
        self._targets.start_anywhere()
        self._held, self._seen, self._moved = None, here, False

    def open_gripper(self) -> None:
        """Bring the grippers to where they start."""
        home = self.group.home
        if home.gripper is None or not self.grippers:
            return
        openings = np.broadcast_to(np.asarray(home.gripper, float), (len(self.grippers),)).tolist()
        for gripper, opening in zip(self.grippers, openings):
            gripper.forget()
            gripper.send(opening)
        if self._fingers(openings) is not None and not (home.joints or home.pose):
            self.hold()  # no way home brings the message that they are in

    def go_home(
        self, rng: np.random.Generator, guarded: Callable[[Callable[[], None]], None]
    ) -> None:
        """Move to the start.

        Args:
            rng: Of the noise on it.
            guarded: Runs what sends a target, unless the robot was stopped; then it raises.
        """
        group, home = self.group, self.group.home
        if not (home.joints or home.pose):
            return
        sender = self._home_sender or self._connected()
        velocities = group.velocities(sender.config)

        def send(target: Target, duration_s: float) -> None:
            def now() -> None:
                same = target.quantity == self._targets.quantity
                if same and not self._targets.stands(target.values):
                    raise ImplausibleReading(
                        "way home", got="a measurement that jumped", expected="a steady way"
                    )
                self._held, self._moved = None, False
                sender.send(target, duration_s, self._fingers_at_rest())
                self._targets.overridden(target, stands=False)

            guarded(now)

        quantity = "joint_position" if home.joints else "tcp_pose"
        prismatic = set(group.contract.prismatic)
        rate_hz = (
            min(home.rate_hz, _GOAL_RATE_HZ) if is_action(sender.config.type) else home.rate_hz
        )
        homing = Homing(
            home.replace(rate_hz=rate_hz),
            send,
            lambda: self._measured(quantity),
            velocities,
            group.joints,
            self._lead if home.joints else group.action.max_lead_m,
            self._turns,
            group.per_joint(home.speed_rad_s, home.speed_m_s),
            group.per_joint(home.tolerance_rad, home.tolerance_m),
            tuple("m" if joint in prismatic else "rad" for joint in group.joints),
        )
        try:
            homing.go(rng)
            self._targets.arrived()
        finally:
            if velocities:  # however it ended: a velocity goes on until the next one
                rest = np.zeros(len(group.joints) if home.joints else 6)
                sender.send(Target("velocities" if home.joints else "twist", rest))

    # --- inside -----------------------------------------------------------------------------

    def _connected(self) -> TargetSender:
        if self._sender is None:
            raise DeviceError("group", got="no connection", hint="Call connect() first")
        return self._sender

    def _make_sender(self, io: TopicIo, command: CommandConfig, where: str) -> TargetSender:
        group = self.group
        tf = self._readings.listeners.get("/tf")
        fingers = [
            name
            for gripper in group.action.all_grippers.values()
            if gripper.in_command
            for name in gripper.joints or ("",) * gripper.fingers
        ]
        return TargetSender(
            io,
            command,
            command_quantity(group.action, command),
            group.joints,
            group.base_frame,
            self._period_s,
            group.contract.frames(),
            group.scaling(command),
            fingers,
            f"{group.where}{where}",
            None if tf is None else (tf, group.contract.timing.max_age_s),
            lambda: self._measured("joint_position"),
        )

    def _measured(self, quantity: str) -> Array:
        name = self.group.source(quantity)
        if name is None:
            raise DeviceError(f"{quantity} of the robot", got="not observed")
        values = self._readings.measured(name)
        rows = self._rows.get(quantity)
        return values if rows is None else values[rows]

    def _hold_measured(self) -> Array | None:
        quantity = self._targets.hold_observation
        if not quantity or self.group.stop.hold == "target":
            return None
        try:
            return self._measured(quantity)
        except DeviceError:
            return None  # blind: the last target is the best that is known

    def _fingers(self, openings: Sequence[float]) -> Array | None:
        """The numbers of the grippers that are in the arm's message; None: none is."""
        inside = [
            gripper.fingers(opening)
            for gripper, opening in zip(self.grippers, openings)
            if gripper.config.in_command
        ]
        return np.concatenate(inside) if inside else None

    def _fingers_at_rest(self) -> Array | None:
        """Grippers in the arm's message stay as they were told last, or as they are."""
        if not any(gripper.config.in_command for gripper in self.grippers):
            return None
        openings = [gripper.opening for gripper in self.grippers]
        if np.isnan(openings).any():
            measured = np.clip(self._measured("gripper"), 0.0, 1.0)
            openings = [
                float(measured[i]) if np.isnan(opening) else opening
                for i, opening in enumerate(openings)
            ]
        return self._fingers(openings)

    def _of_target(self, values: Array, size: int) -> Array:
        if self.group.action.kind is ActionKind.BASE_TWIST:
            return np.append(values[: size - 1], values[5])
        return values[:size]

    def _nothing(self, executed: Array) -> Array:
        """The action that stands for no motion."""
        if self.group.action.kind is ActionKind.JOINT_POSITION:
            try:
                return self._measured("joint_position")
            except DeviceError:
                return executed
        if self.group.action.kind is ActionKind.EE_POSE:
            try:
                return self._measured("tcp_pose")
            except DeviceError:
                return executed
        return np.zeros_like(executed)

    def _make_watch(self) -> tuple[FollowWatch | None, Array | float]:
        """What watches whether it follows, and what its ways are multiplied with: those of
        prismatic joints count more, as a small way in m is a long one in rad."""
        group = self.group
        self._unit = "m"
        if group.action.kind is ActionKind.GENERIC:
            return None, 1.0
        if group.action.kind is ActionKind.BASE_TWIST:
            pose = group.source("pose")
            if pose is None or group.contract.layout(pose) not in POSES:
                return None, 1.0
            turning = [False, False, True]
            shifts = _SMALLEST_RAD / _SMALLEST_M
            return FollowWatch(_SMALLEST_RAD, turning=turning), np.array([shifts, shifts, 1.0])
        quantity = "joint_position" if group.moves_joints else "tcp_pose"
        if group.source(quantity) is None:
            return None, 1.0
        if not group.moves_joints:
            return FollowWatch(_SMALLEST_M), 1.0
        contract = group.contract
        weights = group.per_joint(1.0, _SMALLEST_RAD / _SMALLEST_M)
        if not np.all(weights > 1.0):
            self._unit = "rad"
        turning = [name in contract.continuous for name in group.joints]
        return FollowWatch(_SMALLEST_RAD, turning=turning), weights

    def _watch(self, target: Target) -> None:
        """Remember what was sent and where the group is; log when it does not follow."""
        if self._follow is None:
            return
        is_base = self.group.action.kind is ActionKind.BASE_TWIST
        try:
            measured = self._measured(
                "joint_position" if self.group.moves_joints else "pose" if is_base else "tcp_pose"
            )
        except DeviceError:
            return  # reading tells it
        velocities = target.quantity in ("velocities", "twist")
        told = target.values * self._period_s if velocities else target.values
        failed = self._follow.failed
        if is_base:
            heading = float(to_rpy(measured[3:])[2])
            cosine, sine = np.cos(heading), np.sin(heading)
            here = np.array([measured[0], measured[1], heading])
            way = np.array([cosine * told[0] - sine * told[1], sine * told[0] + cosine * told[1],
                            told[5]])  # fmt: skip
            self._follow.note(here * self._weights, way * self._weights, velocities=True)
        elif self.group.moves_joints:
            self._follow.note(measured * self._weights, told * self._weights, velocities=velocities)
        else:
            self._follow.note(measured[:3], told[:3], velocities=velocities)
        if self._follow.failed and not failed:
            _log.warning("%s", self.trouble().text)
