"""The way of a command: from a chunk that arrives to an action that may be sent."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Protocol

import numpy as np

from user_core.body.mobility import Mobility
from user_core.errors import ConfigError, LeaseError
from user_core.reasons import (
    BUSY,
    CHUNK_TOO_LONG,
    DTYPE,
    FUTURE,
    LEASE,
    LIMITS_TIGHTENED,
    NOT_FINITE,
    SEQUENCE,
    SHAPE,
    STALE_CHUNK,
    Reason,
)
from user_core.runtime.clock import Clock
from user_core.specs import Array, RobotSpec
from user_core.types import ActionChunk, Observation
from user_hal.runtime.chunk_player import ChunkPlayer, Row
from user_hal.runtime.leases import LeaseBook
from user_hal.safety import Refused, SafetyConfig, SafetyGate
from user_hal.safety.stops import (
    BoundaryStop,
    CommandWatchdog,
    EmergencyStop,
    ForceStop,
    ObservationAge,
    SafetyState,
    SafetySupervisor,
    StopCondition,
)
from user_hal.safety.tightening import require_tighter

#: Commands to the driver keep this distance, in control periods, however fast chunks come.
_CLOSEST_PERIODS = 0.5


class Order(NamedTuple):
    """An action that the gate let pass.

    Attributes:
        action: What to send to the driver, (A,).
        row: The row of the chunk that it came from.
        changed: Whether the gate changed it.
    """

    action: Array
    row: Row
    changed: bool


class StopsRobot(Protocol):
    """What stops the robot, see :class:`~user_hal.runtime.driver_guard.Stopper`."""

    def request(self) -> None:
        """Have the robot stopped; returns at once."""

    @property
    def pending(self) -> bool:
        """Whether a stop was asked for that is not done."""


class CommandPath:
    """Chunk validation, chunk player, gate and supervisor of one robot, under one lock.

    A chunk is let in if its sender holds the lease, it is newer than the one before, it fits
    the robot's spec and nothing forbids motion. Its rows are judged by the gate when they are
    due. A row that the gate refuses stops the robot: there is nothing valid left to do.

    Args:
        spec: What the robot shows and takes.
        config: Its safety configuration.
        leases: Who may command it.
        clock: Tells the time.
        faults: Stop conditions that come from outside, for instance from the driver.
        stopper: Stops the robot when it has to be stopped.
        blend_rows: See :class:`ChunkPlayer`.
        mobility: What is known of how the robot can move.

    Attributes:
        gate: The gate; its counters count refused chunks, too.
        supervisor: The state; read it under :attr:`lock`.
        lock: Guards all of this; never held while the driver is called.

    Raises:
        ConfigError: The configuration does not fit the robot.
    """

    def __init__(
        self,
        spec: RobotSpec,
        config: SafetyConfig,
        leases: LeaseBook,
        clock: Clock,
        *,
        faults: Sequence[StopCondition] = (),
        stopper: StopsRobot,
        blend_rows: int = 0,
        mobility: Mobility | None = None,
    ) -> None:
        if not spec.lockstep and config.watchdog_s <= spec.period_s:
            raise ConfigError(
                "safety.watchdog_s",
                got=f"{config.watchdog_s} s",
                expected=f"more than the control period of {spec.robot!r}, {spec.period_s} s",
            )
        self.lock = threading.RLock()
        self.spec, self.config, self.leases = spec, config, leases
        self.gate = SafetyGate(config, spec, mobility)
        self.player = ChunkPlayer(blend_rows, self.gate.between)
        self._clock, self._stopper = clock, stopper
        self._emergency, self._faults = EmergencyStop(), list(faults)
        self.supervisor = SafetySupervisor(self._emergency, self._make_conditions(config))
        self._newest: Observation | None = None
        self._last: tuple[int, int] | None = None  # lease token and sequence of the last chunk
        self._sent_ns = 0
        self._busy = ""

    def submit(self, chunk: ActionChunk, token: int | None = None) -> None:
        """Take a chunk, from any thread; ``token`` of the lease, where its own is not meant.

        Raises:
            Refused: It is not let in; counted and described.
        """
        with self.lock:
            try:
                self._validate(chunk, chunk.lease_token if token is None else token)
            except Refused as refusal:
                self.gate.counters.refuse(refusal.code)
                raise

    def refuse(self, code: str, text: str) -> NoReturn:
        """Count and refuse a chunk that was found wrong before it came here. Raises Refused."""
        with self.lock:
            self.gate.counters.refuse(code)
        raise Refused(code, text)

    @property
    def due_ns(self) -> int | None:
        """When the next command is due, on the monotonic clock; None when there is none."""
        with self.lock:
            due_ns = self.player.due_ns
            return None if due_ns is None else max(due_ns, self._earliest_ns())

    def take(self) -> Order | None:
        """The command that is due now, judged; None when there is none or it was refused."""
        with self.lock:
            now_ns = self._clock.monotonic_ns()
            if self.check() or self.supervisor.present or self._stopper.pending:
                return None
            if now_ns < self._earliest_ns():
                return None
            row = self.player.take(now_ns)
            if row is None:
                return None
            verdict = self.gate.judge(row.action, now_ns)
            if verdict.action is None:
                self.halt(Reason(verdict.reasons[0], verdict.detail))
                return None
            self._sent_ns = now_ns
            if self._last is not None:
                self.leases.obeyed(self._last[0])
            self._watchdog.sent(now_ns)
            self.supervisor.sent()
            return Order(verdict.action, row, verdict.changed)

    def know(self, mobility: Mobility) -> None:
        """Take over what the driver knows of how the robot can move, when it has connected."""
        with self.lock:
            self.gate.know(mobility)

    def require_tighter(self, config: SafetyConfig) -> None:
        """Raise ConfigError unless other limits fit the robot and are as tight as these."""
        require_tighter(self.config, config, self.spec)
        if not self.spec.lockstep and config.watchdog_s <= self.spec.period_s:
            raise ConfigError(
                "safety.watchdog_s", got=config.watchdog_s,
                expected=f"more than the control period, {self.spec.period_s} s",
            )  # fmt: skip
        SafetyGate(config, self.spec, self.gate.mobility)

    def tighten(self, config: SafetyConfig) -> None:
        """Take over tighter limits. A robot that is driven is stopped for it, and goes on with the
        next command.

        Raises:
            ConfigError: They do not fit, or are not as tight as those of now.
        """
        with self.lock:
            self.require_tighter(config)
            if self.supervisor.state is SafetyState.ACTIVE:
                self.halt(Reason(LIMITS_TIGHTENED, "the limits were tightened"))
            self.config = config
            self.gate.replace(config)
            self.supervisor.replace(self._make_conditions(config))
            if self._newest is not None:
                self.observed(self._newest)

    def _make_conditions(self, config: SafetyConfig) -> list[StopCondition]:
        """What stops the robot beside the emergency stop, the most telling first."""
        spec = self.spec
        self._watchdog = CommandWatchdog(config.watchdog_s)
        self._age = ObservationAge(config.max_observation_age_s)
        self._watchers: list[ForceStop | BoundaryStop] = list(BoundaryStop.all_for(config, spec))
        self._watchers += ForceStop.all_for(config, spec)
        timed: list[StopCondition] = [] if spec.lockstep else [self._age, self._watchdog]
        return [*self._faults, *self._watchers, *timed]

    def executed(self, order: Order, action: Array) -> None:
        """The driver carried an order out, as this action, (A,)."""
        if not np.array_equal(action, order.action):
            with self.lock:
                self.gate.executed(action)

    def observed(self, observation: Observation) -> None:
        """Take over a new reading, which must fit the spec."""
        with self.lock:
            self._newest = observation
            self.gate.observe(observation.arrays, observation.stamp_ns)
            for watcher in self._watchers:
                watcher.observe(observation.arrays)
            age_ns = self._clock.wall_ns() - observation.stamp_ns
            self._age.observed(age_ns, self._clock.monotonic_ns())

    def check(self) -> bool:
        """Look at everything that may call for a stop; stop if need be, and tell whether."""
        self.leases.expire()
        with self.lock:
            stop_now = self.supervisor.check(self._clock.monotonic_ns())
            if stop_now:
                self._halted()
            return stop_now

    def halt(self, reason: Reason) -> None:
        """Stop the robot for something that happened and is over."""
        with self.lock:
            if self.supervisor.trip(reason):
                self._halted()

    def close(self, why: str) -> None:
        """Stop the robot, and let no commands in until :meth:`open`; that is no fault.

        No readings are expected meanwhile.
        """
        with self.lock:
            self._busy = why
            self._age.suspend()
            self._halted()
            if not self.supervisor.present:
                self.supervisor.idle()

    def open(self, *, fresh: bool = False) -> None:
        """Let commands in again; ``fresh`` after a reset, by which an earlier cause is settled."""
        with self.lock:
            self._busy = ""
            if fresh:
                self.gate.trust()
            self.check()
            if fresh and not self.supervisor.present:
                self.supervisor.idle()

    def lease_changed(self, reason: str) -> None:
        """A lease was granted (empty reason) or ended: the holder before may not drive any more."""
        with self.lock:
            if reason and self.supervisor.state is SafetyState.ACTIVE:
                self.halt(Reason(LEASE, reason))

    @property
    def emergency_pressed(self) -> bool:
        """Whether the emergency stop is latched."""
        return self._emergency.pressed

    def press_emergency(self, who: str) -> None:
        """Latch the emergency stop and stop the robot."""
        with self.lock:
            self._emergency.press(who)
            self.check()
            self._halted()

    def reset_emergency(self) -> None:
        """Release the emergency stop; the robot stays where it is until new commands come."""
        with self.lock:
            self._emergency.reset()
            self.check()

    def _validate(self, chunk: ActionChunk, token: int) -> None:
        try:
            self.leases.check(token)
        except LeaseError as error:
            raise Refused(error.code, str(error)) from error
        last_token, before = self._last or (None, 0)
        if token == last_token and chunk.sequence <= before:
            raise Refused(SEQUENCE, f"chunk {chunk.sequence} came after chunk {before}")
        self._validate_rows(chunk)
        self.check()
        self.supervisor.admit()
        if self._busy:
            raise Refused(BUSY, self._busy)
        now_ns = self._clock.monotonic_ns()
        start_ns = self._clock.monotonic_of(chunk.start_ns) if chunk.start_ns else now_ns
        ahead_s = (start_ns - now_ns) * 1e-9
        if ahead_s > self.config.max_chunk_s:
            raise Refused(
                FUTURE,
                f"chunk starts in {ahead_s:.3f} s, allowed {self.config.max_chunk_s:g} s; are the "
                "clocks of the hosts synchronised?",
            )
        if not self.player.offer(chunk, start_ns, now_ns):
            raise Refused(STALE_CHUNK, f"the last row of chunk {chunk.sequence} was due before now")
        self._last = (token, chunk.sequence)

    def _validate_rows(self, chunk: ActionChunk) -> None:
        rows, wanted = chunk.actions_ta, self.spec.action
        if rows.shape[1:] != wanted.shape:
            raise Refused(SHAPE, f"chunk has shape {rows.shape}, needs (T, {wanted.size})")
        if rows.dtype != wanted.dtype:
            raise Refused(DTYPE, f"chunk is {rows.dtype}, needs {wanted.dtype}")
        if rows.dtype.kind == "f" and not _all_finite(rows):
            bad = np.argwhere(~np.isfinite(rows))[0]
            name = wanted.names[bad[1]] if wanted.names else f"element {bad[1]}"
            raise Refused(NOT_FINITE, f"row {bad[0]}: {name} = {rows[tuple(bad)]}")
        length_s = len(rows) * chunk.period_ns * 1e-9
        if length_s > self.config.max_chunk_s and len(rows) > 1:
            raise Refused(
                CHUNK_TOO_LONG,
                f"chunk lasts {length_s:.3f} s, allowed {self.config.max_chunk_s:g} s",
            )

    def _halted(self) -> None:
        """Stop the robot, and forget everything that was to be played."""
        self._stopper.request()
        self.player.clear()
        self.gate.hold()
        self._watchdog.disarm()
        if self._last is not None and self._last[0] == 0:
            self._last = None  # without a lease, a sender that was restarted counts from anew

    def _earliest_ns(self) -> int:
        if self.spec.lockstep:
            return 0
        return self._sent_ns + int(self.spec.period_s * _CLOSEST_PERIODS * 1e9)


def _all_finite(rows: Array) -> bool:
    # for one row a third of numpy's time; a sum of finite numbers may overflow: look closer
    if len(rows) == 1 and math.isfinite(sum(rows[0].tolist())):
        return True
    return bool(np.isfinite(rows).all())
