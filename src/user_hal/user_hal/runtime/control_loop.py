"""The loop that runs a robot: read, show, command."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from user_core.body.embodiment import OwnSpace, Space
from user_core.body.mobility import mobility_of
from user_core.config import Config, setting
from user_core.errors import DeviceTimeout, SafetyError, SpecError, SuiteError, is_of_a_person
from user_core.interfaces import Robot
from user_core.reasons import LOOP_DIED, NO_REASON, SHAPE, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.pacing import LatenessReport, Pacer
from user_core.types import ActionChunk, AppliedAction, Lease, Observation
from user_hal.runtime.command_path import CommandPath, Order
from user_hal.runtime.driver_guard import (
    DemandedStop,
    DriverGuard,
    DriverLimits,
    Sentinel,
    Stopper,
)
from user_hal.runtime.grants import GrantOrder
from user_hal.runtime.leases import LeaseBook, LeaseConfig
from user_hal.runtime.obeyed import ObeyedLog
from user_hal.safety import SafetyConfig
from user_hal.safety.emergency_stop import LatchFile
from user_hal.safety.stops import SafetyState


class LoopConfig(Config):
    """How a robot is run."""

    rate_hz: float = setting(
        0.0,
        doc="Observations a second; 0: one per control period of the robot. A robot in lockstep "
        "gives one per command instead.",
        unit="Hz",
        ge=0,
    )
    idle_s: float = setting(
        0.5,
        doc="A robot in lockstep that waits for commands shows its last observation again after "
        "this time, for those that missed it.",
        unit="s",
        gt=0,
    )
    blend_rows: int = setting(
        0, doc="Number of rows over which a new chunk is blended with the one before.", ge=0
    )
    driver: DriverLimits = setting(factory=DriverLimits, doc="Deadlines of the driver's calls.")


@dataclass(frozen=True)
class HalStatus:
    """A snapshot.

    Attributes:
        state: Whether commands may pass.
        cause: Why the robot was stopped; false while commands pass or none are wanted.
        present: Whether that cause still holds.
        passed: Commands that passed unchanged, since the start.
        limited: Commands that were changed.
        refused: Commands that were refused.
        reasons: How often each reason for a change or refusal occurred.
        lease: The lease, if anybody holds one.
        lease_left_s: Seconds that are left of it.
        newest_token: Newest fencing number.
        stop_failure: Why the last stop of the robot failed; false when it did not.
        lateness: How the loop keeps its deadlines.
    """

    state: SafetyState
    cause: Reason
    present: bool
    passed: int
    limited: int
    refused: int
    reasons: Mapping[str, int]
    lease: Lease | None
    lease_left_s: float
    newest_token: int
    stop_failure: Reason
    lateness: LatenessReport


_log = logging.getLogger(__name__)
#: Lateness is reported of at least this many cycles, the last ones, and of twice as many at most.
_REPORTED_CYCLES = 1000

#: How often the sentinel looks: this much later than its time a watchdog may act.
SENTINEL_PERIOD_S = 0.02
#: How long the loop waits for a stop to be done before it looks again.
_STOP_POLL_NS = 1_000_000
#: Whether the kernel says which threads of a process there are.
_KERNEL_TELLS = os.path.isdir("/proc/self/task")
_AFTER_ERROR_NS = 100_000_000


class HalLoop:
    """Runs one robot behind the safety gate.

    A robot in real time is read at a fixed rate, on absolute deadlines, and commanded when a
    row of a chunk is due. A robot in lockstep is commanded as soon as a command comes, and read
    at once. The loop's thread makes all calls of the driver but ``stop``; another thread, the
    sentinel, watches the clocks and can stop the robot while the loop is stuck in the driver.

    All public methods but :meth:`step` may be called from any thread, and none waits for the
    driver. A robot in lockstep may also be run without a thread, by whoever calls :meth:`step`
    (see :class:`~user_hal.local.LocalHal`).

    Args:
        robot: The driver, not connected.
        config: How it is run.
        safety: What may reach it.
        lease: Whether and how it is leased.
        resource: Its name as a resource.
        on_observation: Called with every observation, in the loop's thread; should be quick.
        on_status: Called when the state has changed, in the sentinel's thread.
        clock: Tells the time.
        make_stopper: Makes what stops the robot.
        latch: Keeps the emergency stop latched while no process runs; None: it ends with this
            one.
        on_lost: Called once, in the sentinel's thread, when the loop can drive no more: its
            thread has died, or the driver hangs or fails in the same way for ever. The robot
            has been told to stop by then.
        space: In which commands come; None: the driver's own. Observations are given on as the
            driver shows them, for whoever shows them to translate.
        grants: Which grants of a fleet's scheduler are obeyed; None: what this process sees.
        obeyed: Where it is noted who commanded the robot; None: in memory.

    Attributes:
        path: The way of a command.
        leases: Who may command it.
        deadlines: When it is read, and how punctually.
        acting: The chunk that was played last.
        waiter: How the loop waits; may be replaced before :meth:`start`.
    """

    #: How long :meth:`close` waits for a stop, and for the driver to return, seconds.
    CLOSE_TIMEOUT_S = 5.0

    def __init__(
        self,
        robot: Robot,
        config: LoopConfig,
        safety: SafetyConfig,
        lease: LeaseConfig,
        *,
        resource: str = "robot",
        on_observation: Callable[[Observation], None] = lambda observation: None,
        on_status: Callable[[HalStatus], None] = lambda status: None,
        clock: Clock | None = None,
        make_stopper: Callable[[Callable[[], None]], Stopper] = Stopper,
        latch: LatchFile | None = None,
        on_lost: Callable[[Reason], None] = lambda reason: None,
        space: Space | None = None,
        grants: GrantOrder | None = None,
        obeyed: ObeyedLog | None = None,
    ) -> None:
        self._on_lost, self._lost = on_lost, NO_REASON
        self.space: Space = OwnSpace(robot.spec) if space is None else space
        self.spec, self.config, self._robot = robot.spec, config, robot
        self._clock = clock or Clock()
        self._on_observation, self._on_status = on_observation, on_status
        limit_s = config.driver.call_limit_s(robot.spec, safety.watchdog_s)
        self._stopper = make_stopper(lambda: self._guard.stop_robot())
        self._guard = DriverGuard(robot, config.driver, limit_s, self._stopper.request, self._clock)
        self._demanded = DemandedStop(robot)
        self.leases = LeaseBook(resource, lease, self._clock, self._lease_changed, grants, obeyed)
        self.path = CommandPath(
            robot.spec,
            safety,
            self.leases,
            self._clock,
            faults=[self._guard, self._demanded],
            stopper=self._stopper,
            blend_rows=config.blend_rows,
            mobility=mobility_of(robot),
        )
        period_s = 1.0 / config.rate_hz if config.rate_hz else robot.spec.period_s
        self.deadlines = Pacer(
            int((config.idle_s if self.spec.lockstep else period_s) * 1e9), _REPORTED_CYCLES
        )
        self.acting: ActionChunk | None = None
        self._applied: AppliedAction | None = None
        self._last: Observation | None = None
        self._resets = Resets()
        self.waiter: Waiter = ConditionWaiter()
        self._ending = False
        self._shown: tuple[object, ...] = ()
        self._sentinel: Sentinel | None = None
        self._thread: threading.Thread | None = None
        self._latch = latch
        if latch is not None and (who := latch.pressed_by):
            _log.error("the emergency stop is latched: %s", who)  # only a reset releases it
            self.path.press_emergency(f"{who}, before this start")

    def start(self, *, own_thread: bool = True) -> None:
        """Connect to the robot and run it, in threads of its own. Goes on trying to connect.

        Args:
            own_thread: False for a robot in lockstep: whoever calls :meth:`step` runs it.

        Raises:
            DeviceError: The driver is still stuck in a call of the run before.
        """
        if self._thread is not None and self._thread.is_alive():
            raise DeviceTimeout(
                "start of the control loop",
                got="a driver that is still stuck in a call of the run before",
                hint="Wait until it returns, or restart the process.",
            )
        self._ending, self._applied, self._last = False, None, None
        self._lost = NO_REASON
        self._thread = None
        self._guard.begin()
        self._stopper.start()
        self._sentinel = Sentinel(self.look, SENTINEL_PERIOD_S)
        self._sentinel.start()
        if own_thread:
            thread = threading.Thread(target=self._run, name="hal_loop", daemon=True)
            thread.start()
            # Not before: the sentinel takes a thread that does not run yet for dead.
            self._thread = thread

    def submit(self, chunk: ActionChunk, token: int | None = None) -> None:
        """Take an action chunk; ``token`` of the lease, where the chunk's own is not meant.

        Raises:
            user_hal.safety.rules.Refused: It is not let in; the reason is counted.
        """
        try:
            chunk = self.space.commanded(chunk)
        except SpecError as error:
            self.path.refuse(SHAPE, str(error))
        self.path.submit(chunk, token)
        if self._thread is not None and threading.current_thread() is not self._thread:
            self.waiter.wake()

    def reset(self, seed: int | None, token: int = 0) -> Future[Observation]:
        """Bring the robot to the start of an episode.

        The future gives the first observation, or raises SuiteError.

        Raises:
            LeaseError: The token is not that of the newest lease.
            SafetyError: The emergency stop is latched.
        """
        self.leases.check(token)
        with self.path.lock:
            self._require_no_emergency()
            self.path.close("the robot is being reset")
        self.leases.obeyed(token)
        done = self._resets.add(seed)
        self.waiter.wake()
        return done

    def press_emergency(self, who: str) -> None:
        """Stop the robot, latched until :meth:`reset_emergency`, also by the next process.

        Raises:
            SafetyError: The latch cannot be written; the robot is stopped all the same.
        """
        self.path.press_emergency(who)
        if self._latch is not None:
            self._latch.press(who)  # the robot does not wait for the disk

    def reset_emergency(self) -> None:
        """Release the emergency stop; the robot stays where it is until new commands come.

        Raises:
            SafetyError: The latch cannot be removed; it stays pressed then.
        """
        if self._latch is not None:
            self._latch.release()
        self._demanded.acknowledge()
        self.path.reset_emergency()

    def require_tighter(self, safety: SafetyConfig) -> None:
        """Raise ConfigError unless :meth:`tighten` would take these limits."""
        self.path.require_tighter(safety)

    def tighten(self, safety: SafetyConfig) -> None:
        """Take over tighter limits; a robot that is driven is stopped for it, and goes on.

        Raises:
            ConfigError: They do not fit, or are not as tight as those of now.
        """
        self.path.tighten(safety)

    @property
    def fault(self) -> Reason:
        """What is wrong with the driver; false when it can be commanded."""
        return self._guard.check(self._clock.monotonic_ns())

    @property
    def failure(self) -> SuiteError | None:
        """What the driver raised last; None while nothing failed since the last good reading."""
        return self._guard.failure

    @property
    def connected(self) -> bool:
        """Whether the driver's connection is open, also where a reading failed."""
        return self._guard.connected

    @property
    def lost(self) -> Reason:
        """Why the loop can drive no more; false while it can."""
        thread = self._thread
        if self._ending or self._sentinel is None:
            return NO_REASON
        if thread is not None and not is_running(thread):
            return Reason(LOOP_DIED, "the thread of the control loop has ended")
        return self._guard.given_up

    def wait_for_stop(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Wait until the stops that were asked for are done; tell whether they are."""
        return self._stopper.wait(timeout_s)

    def status(self) -> HalStatus:
        """State, counts, lease and punctuality at this moment."""
        lease, left_s = self.leases.current
        with self.path.lock:
            supervisor, counters = self.path.supervisor, self.path.gate.counters
            return HalStatus(
                state=supervisor.state,
                cause=supervisor.cause,
                present=supervisor.present,
                passed=counters.passed,
                limited=counters.limited,
                refused=counters.refused,
                reasons=dict(counters.reasons),
                lease=lease,
                lease_left_s=left_s,
                newest_token=self.leases.newest_token,
                stop_failure=self._stopper.failure,
                lateness=self.deadlines.report(),
            )

    def close(self) -> None:
        """Stop the robot, let go of it, and end all leases. May be started again.

        Returns also when the driver is stuck, after a while.
        """
        self.leases.end("the robot was shut down")
        self.path.close("the robot is shut down")
        if not self._stopper.wait(self.CLOSE_TIMEOUT_S):
            _log.error("the robot's stop() has not returned; going on without it")
        self._ending = True
        self.waiter.wake()
        if self._thread is None:
            self._end()
        else:
            self._thread.join(self.CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                _log.error("the driver is stuck in a call; its thread is left behind")
        if self._sentinel is not None:
            self._sentinel.close()
        self._stopper.close(1.0)

    def look(self) -> None:
        """One look of the sentinel."""
        self.path.check()
        if (lost := self.lost) and not self._lost:
            self._lose(lost)
        if (demand := self._demanded.latched) and not self.path.emergency_pressed:
            self.press_emergency(f"the robot ({demand.text})")
        emergency = self.path.supervisor.state is SafetyState.EMERGENCY
        if self._guard.running and (emergency or self._guard.overran):
            self._stopper.request()  # a call is moving the robot on, for instance a reset
        supervisor = self.path.supervisor
        cause = supervisor.cause.code
        lease, _ = self.leases.current
        shown = (supervisor.state, cause, supervisor.present, lease)
        if shown != self._shown:
            self._shown = shown
            self._on_status(self.status())

    def _lose(self, lost: Reason) -> None:
        self._lost = lost
        _log.error("the control loop is given up: %s", lost.text)
        self.path.halt(lost)
        self._stopper.request()
        self._on_lost(lost)

    def step(self) -> int:
        """Do what is due now; return when to come back, on the monotonic clock."""
        self.do_what_is_due()
        return self._next_ns()

    def do_what_is_due(self) -> None:
        """One cycle, in the loop's thread: recover the driver, reset, command, read."""
        if not self._guard.healthy:
            self._refuse_resets()
            if self._clock.monotonic_ns() < self._guard.retry_ns:
                return
            observation = self._guard.recover()
            if observation is None:
                return
            self.path.know(mobility_of(self._robot))
            self._begin_with(observation, fresh=self._applied is None)
        if self._resets:
            if self._stopper.pending:
                return
            self._do_reset()
        order = self.path.take()
        if order is not None:
            self._carry_out(order)
        if self._guard.healthy and self.deadlines.reached(self._clock.monotonic_ns()):
            self._observe()

    def _safe_step(self) -> int:
        """A step; a mistake in our own code stops the robot, and does not end the loop."""
        try:
            return self.step()
        except BaseException as error:  # SystemExit of a plugin, too
            _log.exception("a cycle of the control loop failed")
            self.path.halt(Reason.of(error))
            return self._clock.monotonic_ns() + _AFTER_ERROR_NS

    def _next_ns(self) -> int:
        if not self._guard.healthy:
            return self._guard.retry_ns
        if self._resets:
            return self._clock.monotonic_ns() + _STOP_POLL_NS  # it waits for a stop
        due_ns = self.path.due_ns
        if due_ns is None:
            return self.deadlines.due_ns
        if self._stopper.pending:
            due_ns = max(due_ns, self._clock.monotonic_ns() + _STOP_POLL_NS)
        return min(due_ns, self.deadlines.due_ns)

    def _carry_out(self, order: Order) -> None:
        """Send a command; of a robot in lockstep, show what came of it."""
        row = order.row
        try:
            executed = self._guard.command(order.action)
            self.path.executed(order, executed)
            if self.path.supervisor.state is not SafetyState.ACTIVE:
                self._stopper.request()  # a stop came between the gate and the driver
            self.acting = row.chunk
            self._applied = AppliedAction(
                executed, row.chunk.sequence, row.number, order.changed, self._clock.wall_ns()
            )
            if self.spec.lockstep:
                self._show(self._guard.read())
                self.deadlines.start(self._clock.monotonic_ns())
        except SuiteError:
            self.path.check()  # stops the robot: the guard has a fault now

    def _observe(self) -> None:
        """Show a new reading; of a robot in lockstep, the last one again."""
        if self.spec.lockstep:
            if self._last is not None:
                self._publish(self._last)
            return
        try:
            self._show(self._guard.read())
        except SuiteError:
            self.path.check()

    def _show(self, observation: Observation) -> None:
        self._publish(self._taken_over(observation))

    def _taken_over(self, observation: Observation) -> Observation:
        self._last = Observation(
            observation.arrays,
            observation.stamp_ns,
            observation.sequence,
            observation.episode,
            observation.task,
            self._applied,
        )
        self.path.observed(self._last)
        return self._last

    def _begin_with(self, observation: Observation, *, fresh: bool) -> Observation:
        """Start anew with a first reading. Commands from before it must not be carried out;
        those that answer it are let in."""
        first = self._taken_over(observation)
        self.deadlines.start(self._clock.monotonic_ns())
        self.waiter.discard()
        if not self._resets:
            self.path.open(fresh=fresh)
        self._publish(first)
        return first

    def _publish(self, observation: Observation) -> None:
        try:
            self._on_observation(observation)
        except BaseException as error:  # showing must not end the loop
            if is_of_a_person(error):
                raise
            _log.exception("an observation could not be shown")

    def _do_reset(self) -> None:
        request = self._resets.next()
        if request is None:
            return
        self._applied = None
        try:
            self._require_no_emergency()
            observation = self._guard.reset(request.seed)
        except SuiteError as error:
            self.path.check()
            if self._guard.healthy:  # it was not the driver that failed
                self.path.open()
            request.done.set_exception(error)
            return
        request.done.set_result(self._begin_with(observation, fresh=True))

    def _require_no_emergency(self) -> None:
        if self.path.supervisor.state is SafetyState.EMERGENCY:
            raise SafetyError(
                "reset of the robot",
                got="a latched emergency stop",
                hint="Reset the emergency stop first, when the robot is safe to move.",
            )

    def _refuse_resets(self) -> None:
        if self._resets:
            fault = self._guard.check(self._clock.monotonic_ns())
            got = fault.text or "a driver that failed"
            self._resets.refuse(SafetyError("reset of the robot", got=got))

    def _lease_changed(self, reason: str) -> None:
        self.path.lease_changed(reason)
        self.waiter.wake()

    def _run(self) -> None:
        while not self._ending:
            until_ns = self._safe_step()
            try:
                self.waiter.wait(until_ns)
            except BaseException as error:  # of what is called while it waits
                _log.exception("the control loop could not wait for commands")
                self.path.halt(Reason.of(error))
                time.sleep(_AFTER_ERROR_NS * 1e-9)
        self._end()

    def _end(self) -> None:
        self._stopper.wait(self.CLOSE_TIMEOUT_S)  # a stop that fell into a call is repeated
        self._guard.close()
        self._refuse_resets()


def is_running(thread: threading.Thread) -> bool:
    """Whether a thread is there still, also for the kernel: code in C can end its own thread
    (``pthread_exit``), and Python does not hear of it."""
    if not thread.is_alive() or not _KERNEL_TELLS:
        return thread.is_alive()
    return os.path.exists(f"/proc/self/task/{thread.native_id}")


class ResetRequest(NamedTuple):
    """One reset.

    Attributes:
        seed: Makes the start reproducible; None: any start.
        done: Gets the first observation, or the error.
    """

    seed: int | None
    done: Future[Observation]


class Resets:
    """A queue of resets. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[ResetRequest] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, seed: int | None) -> Future[Observation]:
        """Ask for a reset."""
        request = ResetRequest(seed, Future())
        with self._lock:
            self._waiting.append(request)
        return request.done

    def next(self) -> ResetRequest | None:
        """Take the oldest, if there is one."""
        with self._lock:
            return self._waiting.pop(0) if self._waiting else None

    def refuse(self, error: SuiteError) -> None:
        """Answer all that wait with an error."""
        while request := self.next():
            request.done.set_exception(error)


class Waiter(Protocol):
    """Waits in the loop's thread. Commands may arrive while it waits, and end the wait."""

    def wait(self, until_ns: int) -> None:
        """Wait until this moment of the monotonic clock, or until there are news."""

    def wake(self) -> None:
        """There are news: end the wait, or the next one. From any thread."""

    def discard(self) -> None:
        """Throw away what has arrived and was not looked at: it is from before."""


class ConditionWaiter:
    """Waits on a condition; commands come by other ways."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._news = False

    def wait(self, until_ns: int) -> None:
        """Wait."""
        with self._changed:
            left_s = (until_ns - time.monotonic_ns()) * 1e-9
            if not self._news and left_s > 0:
                self._changed.wait(left_s)
            self._news = False

    def wake(self) -> None:
        """End the wait."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def discard(self) -> None:
        """Nothing arrives here."""
