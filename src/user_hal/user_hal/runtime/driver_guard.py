"""Calls of a driver with deadlines, and the threads that stop a robot while a call is stuck.

:class:`DriverGuard` makes the calls and brings a driver back after a failure; :class:`Stopper`
stops the robot from a thread of its own; :class:`Sentinel` looks for what calls for a stop while
the control loop is busy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from user_core.config import Config, setting
from user_core.errors import (
    DeviceFault,
    DeviceNotConnected,
    DeviceTimeout,
    PluginFault,
    SpecError,
    SuiteError,
    in_words,
    is_of_a_person,
)
from user_core.interfaces import Robot
from user_core.reasons import HANGS, NO_REASON, STOP_FAILED, EqualFailures, Reason
from user_core.runtime.backoff import Backoff, BackoffConfig
from user_core.runtime.clock import Clock
from user_core.specs import Array, RobotSpec, check_arrays
from user_core.types import Observation

_log = logging.getLogger(__name__)
T = TypeVar("T")

#: A lockstep robot simulates in its commands, and may take long.
_LOCKSTEP_LIMIT_S = 10.0
#: Failures after having worked for this long are not counted together with those before.
_HEALTHY_S = 10.0
#: What no cable and no device brings about: the driver itself is wrong.
_MISTAKES = (
    TypeError, AttributeError, NameError, ImportError, AssertionError, NotImplementedError,
    SyntaxError,
)  # fmt: skip
#: Readings that are tried before the connection is made anew.
_PROBES = 3


class DriverLimits(Config):
    """How long the calls of a driver may take, and how it is brought back."""

    call_s: float = setting(
        0.0,
        doc="Longest time of a read or command; 0: half of the watchdog's time (10 s for a robot "
        "in lockstep).",
        unit="s",
        ge=0,
    )
    reset_s: float = setting(60.0, doc="Longest time of a reset.", unit="s", gt=0)
    connect_s: float = setting(30.0, doc="Longest time of a connect.", unit="s", gt=0)
    backoff: BackoffConfig = setting(
        factory=BackoffConfig, doc="Waiting times between attempts after a failure."
    )
    hang_s: float = setting(
        30.0,
        doc="A call that is late by this long ends the process, so that another takes over; 0: never.",
        unit="s",
        ge=0,
    )
    equal_failures: int = setting(
        8,
        doc="Equal failures in a row, of a kind that does not pass by itself, after which the "
        "driver is given up and the process ends; 0: never.",
        ge=0,
    )

    def call_limit_s(self, spec: RobotSpec, watchdog_s: float) -> float:
        """Longest time of a read or command."""
        return self.call_s or (_LOCKSTEP_LIMIT_S if spec.lockstep else watchdog_s / 2)


class _Call(NamedTuple):
    what: str
    began_ns: int
    limit_s: float


def said_by(error: BaseException) -> str:
    """An error of somebody else's code in words; ``sys.exit()`` says what it is."""
    text = in_words(error)
    return f"{text} (it called sys.exit)" if isinstance(error, SystemExit) else text


def _is_mistake(error: BaseException) -> bool:
    return isinstance(error, _MISTAKES) or not isinstance(error, Exception)


class DriverGuard:
    """Stands between the loop and a driver.

    One thread, the loop's, makes the calls. Another, the sentinel's, asks :meth:`check` and so
    finds out that a call takes too long while it still does. Whatever a driver does wrong
    (raises, blocks, returns what does not fit its spec) becomes a fault with a code and a
    detail, and while there is a fault the driver gets no commands. It is probed with growing
    pauses, first by a read, then by a new connection, and the fault ends with the first good
    reading.

    Args:
        robot: The driver.
        limits: Its deadlines.
        call_limit_s: Longest time of a read or command.
        stop: Asks for a stop of the robot; must return at once.
        clock: Tells the time.

    Attributes:
        failure: What the driver raised last; None since the last good reading.
    """

    def __init__(
        self,
        robot: Robot,
        limits: DriverLimits,
        call_limit_s: float,
        stop: Callable[[], None],
        clock: Clock | None = None,
    ) -> None:
        self.robot, self.spec = robot, robot.spec
        self._limits, self._call_limit_s = limits, call_limit_s
        self._stop = stop
        self._clock = clock or Clock()
        self._backoff = Backoff.of(limits.backoff)
        self._retry_ns = 0
        self._recovered_ns: int | None = None
        self._lock = threading.Lock()
        self._running: _Call | None = None
        self._fault: Reason = Reason(DeviceNotConnected.code, "not connected yet")
        self._overran = self._stopped_during_call = False
        self._connected = self._attempted = False
        self.failure: SuiteError | None = None
        self._equal = EqualFailures(limits.equal_failures)

    @property
    def given_up(self) -> Reason:
        """Why it is no use to go on with this driver; false while it may be."""
        call, limit_s = self._running, self._limits.hang_s
        if call is not None and limit_s:
            late_s = (self._clock.monotonic_ns() - call.began_ns) * 1e-9 - call.limit_s
            if late_s > limit_s:
                return Reason(
                    HANGS,
                    f"{call.what}() of the driver has not returned for {late_s + call.limit_s:.0f} s",
                )
        return self._equal.given_up

    def check(self, now_ns: int) -> Reason:
        """The fault that forbids motion, false if none does; finds calls that take too long."""
        call = self._running
        if call is not None and now_ns - call.began_ns > call.limit_s * 1e9:
            with self._lock:
                if self._running is call and not self._overran:
                    self._overran = True
                    _log.error("driver: %s has not returned for %g s", call.what, call.limit_s)
            age_s = (now_ns - call.began_ns) * 1e-9
            setting = f"{call.what if call.what in ('connect', 'reset') else 'call'}_s"
            return Reason(
                DeviceTimeout.code,
                f"{call.what}() of the driver has not returned for {age_s:.2f} s, allowed "
                f"{call.limit_s:g} s (loop.driver.{setting})",
            )
        return self._fault

    @property
    def running(self) -> bool:
        """Whether the driver is in a call now."""
        return self._running is not None

    @property
    def overran(self) -> bool:
        """Whether a call is running that takes too long."""
        return self._overran and self._running is not None

    @property
    def healthy(self) -> bool:
        """Whether it may be commanded."""
        return not self._fault

    @property
    def connected(self) -> bool:
        """Whether the connection was opened, and the driver has not said since that there is none."""
        return self._connected

    @property
    def retry_ns(self) -> int:
        """When the next attempt to bring it back is due."""
        return self._retry_ns

    def begin(self) -> None:
        """A new run begins: what failed in the one before is no reason to wait."""
        self._retry_ns, self.failure = 0, None
        self._equal.clear()

    def connect(self) -> None:
        """Open the connection; raises what the driver raises, SuiteError in any case."""
        self._attempted = True
        self._call("connect", self._limits.connect_s, self.robot.connect)
        self._connected = True

    def read(self) -> Observation:
        """A new reading that fits the spec.

        Raises:
            SuiteError: The driver failed; the fault says how.
        """
        return self._call("read", self._call_limit_s, self._checked_read)

    def command(self, action: Array) -> Array:
        """Send a command; returns what was really sent. Raises as :meth:`read`."""
        return self._call("command", self._call_limit_s, self._checked_command, action)

    def reset(self, seed: int | None) -> Observation:
        """Reset the robot; returns its first observation. Raises as :meth:`read`."""
        return self._call("reset", self._limits.reset_s, self._checked_reset, seed)

    def recover(self) -> Observation | None:
        """Try to bring the driver back; returns a good reading when it is back."""
        try:
            if not self._connected or self._backoff.attempts > _PROBES:
                self._disconnect()
                self.connect()
            observation = self.read()
        except SuiteError:
            return None
        _log.info("driver: connected and read")
        self._recovered_ns, self._retry_ns = self._clock.monotonic_ns(), 0
        self._fault, self.failure = NO_REASON, None
        return observation

    def stop_robot(self) -> None:
        """Stop the robot, from any thread; raises what the driver raises.

        A stop that falls into a call is repeated after the call, which may have sent a command
        after the stop. Nothing moves through a connection that is not there.
        """
        if not self._attempted:
            return
        with self._lock:
            self._stopped_during_call = self._running is not None
        try:
            self.robot.stop()
        except DeviceNotConnected as error:
            _log.debug("driver: stop: %s", error)

    def close(self) -> None:
        """Close the driver; an error is logged, because nothing more can be done about it."""
        self._fault = Reason(DeviceNotConnected.code, "closed")
        self._disconnect()

    def _disconnect(self) -> None:
        if self._attempted:
            self._connected = False
            try:
                self._call("close", self._limits.connect_s, self.robot.close)
            except SuiteError as error:
                _log.warning("driver: close failed: %s", error)
            self._attempted = False

    def _call(self, what: str, limit_s: float, function: Callable[..., T], *args: object) -> T:
        with self._lock:
            self._running = _Call(what, self._clock.monotonic_ns(), limit_s)
            self._overran = self._stopped_during_call = False
        try:
            result = function(*args)
        except SuiteError as error:
            raise self._failed(what, error) from error
        except BaseException as error:  # a driver may raise anything, SystemExit too
            if is_of_a_person(error):
                raise
            kind = PluginFault if _is_mistake(error) else DeviceFault
            fault = kind(f"{what}() of the driver raised {said_by(error)}")
            raise self._failed(what, fault) from error
        finally:
            with self._lock:
                self._running = None
                overran, again = self._overran, self._stopped_during_call
            if again or overran:
                self._stop()
        if overran:
            raise self._failed(what, DeviceTimeout(f"{what}() of the driver took too long"))
        return result

    def _failed(self, what: str, error: SuiteError) -> SuiteError:
        detail = str(error) if what in str(error) else f"{what}() of the driver: {error}"
        if not self._fault:
            _log.error("driver: %s", detail)
        if isinstance(error, DeviceNotConnected):
            self._connected = False
        self._fault, self.failure = Reason(error.code, detail), error
        now_ns, recovered_ns = self._clock.monotonic_ns(), self._recovered_ns
        worked_s = 0.0 if recovered_ns is None else (now_ns - recovered_ns) * 1e-9
        heals = error.may_pass and not (self.spec.lockstep and isinstance(error, DeviceFault))
        if heals or worked_s > _HEALTHY_S:  # a simulation does not heal by itself
            self._equal.clear()
        if not heals:
            self._equal.add(self._fault)
        self._retry_ns = now_ns + int(self._backoff.failed(worked_s) * 1e9)
        self._recovered_ns = None
        return error

    def _checked_read(self) -> Observation:
        return self._checked(self.robot.read())

    def _checked_reset(self, seed: int | None) -> Observation:
        return self._checked(self.robot.reset(seed))

    def _checked(self, observation: Observation) -> Observation:
        try:
            check_arrays(observation.arrays, self.spec.observation)
        except SpecError as error:
            raise DeviceFault(f"reading of the robot does not fit its spec: {error}") from error
        return observation

    def _checked_command(self, action: Array) -> Array:
        executed = self.robot.command(action)
        try:
            if not self.spec.action.fits(executed):
                self.spec.action.check(executed, "action")  # says what is wrong
        except SpecError as error:
            raise DeviceFault(f"what the driver says it sent is no action: {error}") from error
        return executed


class DemandedStop:
    """What a driver itself hears that forbids motion: a stop condition.

    A driver that hears such things (``ros2`` of its contract's ``stop_when``) has two methods:
    ``stop_demand()`` gives a ``reason``, false if the robot may move, and whether it is
    ``latched``: then only a person may let it move again, by a reset of the emergency stop; and
    ``acknowledge_stop()``, upon which it forgets what was latched and has ended. Both may be
    called by any thread, and return at once.

    Args:
        robot: The driver.
    """

    def __init__(self, robot: Robot) -> None:
        self._demand = getattr(robot, "stop_demand", None)
        self._acknowledge = getattr(robot, "acknowledge_stop", None)

    def check(self, now_ns: int) -> Reason:
        """Why the robot must stand still; false if it may move."""
        return NO_REASON if self._demand is None else self._demand().reason

    @property
    def latched(self) -> Reason:
        """Why only a person may let the robot move again; false if nothing asks for that."""
        if self._demand is None:
            return NO_REASON
        demand = self._demand()
        return demand.reason if demand.latched else NO_REASON

    def acknowledge(self) -> None:
        """A person has seen to it."""
        if self._acknowledge is not None:
            self._acknowledge()


#: Pause before a stop that raised is tried again, seconds.
_RETRY_S = 0.05


class Stopper:
    """Calls ``stop`` when asked to, and never makes the asker wait.

    A stop that raises is tried again until it succeeds. Requests that come while a stop is
    running lead to one more after it, so that a stop always begins after it was asked for.

    Args:
        stop: Stops the robot; may be called from any thread, may block.
        name: Of the thread.
    """

    def __init__(self, stop: Callable[[], None], name: str = "stopper") -> None:
        self._stop = stop
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._closed = True
        self._failure, self._name = NO_REASON, name
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to do what was asked for."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Have the robot stopped; returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    @property
    def pending(self) -> bool:
        """Whether a stop was asked for that is not done."""
        return self._done < self._asked

    @property
    def failure(self) -> Reason:
        """Why the last stop failed; false when it did not."""
        return self._failure

    def wait(self, timeout_s: float) -> bool:
        """Wait until all stops that were asked for are done; tell whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.pending, timeout_s)

    def close(self, timeout_s: float) -> None:
        """End the thread, when it is not stuck in a stop."""
        with self._changed:
            self._closed = True
            self._asked = self._done  # a stop that is still wanted is not for the next start
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.pending or self._closed)
                if self._closed and not self.pending:
                    return
                asked = self._asked
            try:
                self._stop()
            except BaseException as error:  # whatever the driver raises: try again
                self._report(said_by(error))
                with self._changed:
                    if self._closed:
                        return
                    self._changed.wait(_RETRY_S)
                continue
            with self._changed:
                self._done, self._failure = min(asked, self._asked), NO_REASON
                self._changed.notify_all()

    def _report(self, text: str) -> None:
        if text != self._failure.text:
            _log.error("stop failed, trying again: %s", text)
        self._failure = Reason(STOP_FAILED, text)


class Sentinel:
    """Calls ``look`` at short intervals until it is closed. What it raises is logged.

    Args:
        look: Looks at everything that may call for a stop; must not block.
        period_s: Time between two looks.
    """

    def __init__(self, look: Callable[[], None], period_s: float) -> None:
        self._look, self._period_s = look, period_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sentinel", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            try:
                self._look()
            except BaseException as error:  # nothing may end the watch
                if repr(error) != self._trouble:
                    _log.exception("sentinel: a look failed; it goes on")
                self._trouble = repr(error)
