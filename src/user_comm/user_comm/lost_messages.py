"""What a message costs that the middleware does not take: that message, and nothing else.

A write of FastDDS gives up after 100 ms (``max_blocking_time``) when it does not get a lock that a thread without
a processor holds, and rclpy raises ``RCLError`` ("Failed to publish: cannot publish data"). That happens on a full
machine, now and then, wherever something is said: in a control loop, in a heartbeat, in the answer of a service, in
the middle of a transition. A message that is lost on its way hurts nobody, and one that did not set out is no worse.
So it is counted and shown on the diagnostics, and what is said once for everybody to come (a latched topic) is said
again until it has set out.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rclpy.executors import Executor, ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy
from rclpy.task import Future

from user_comm.diagnostics import Item, Level

#: What rclpy raises where the middleware refuses; it does not export it everywhere.
RCLError: type[Exception] = _rclpy.RCLError
#: What ends one round of an executor: an answer that is not taken, an endpoint that another thread destroyed under it.
_OF_ONE_CALL: tuple[type[Exception], ...] = (RCLError, _rclpy.InvalidHandle)
T = TypeVar("T")
if TYPE_CHECKING:
    _Publisher: TypeAlias = Publisher[Any]
else:
    _Publisher = Publisher  # Jazzy's takes no parameters
#: For this long after the last one lost messages are a warning, seconds.
_RECENT_S = 10.0
#: More failures than this within this time are no lost messages any more.
_MOST, _WITHIN_S = 50, 5.0
#: Pause of what must go on in spite of that, seconds.
_PAUSE_S = 0.2


class LostMessages:
    """The account of one node. May be used from any thread.

    Attributes:
        say: Is told of each in words; they may be many.
    """

    def __init__(self) -> None:
        self.say: Callable[[str], object] = lambda text: None
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last_s, self._last_error = 0.0, ""
        self._latched: list[LenientPublisher] = []

    @property
    def total(self) -> int:
        """How many were lost."""
        with self._lock:
            return self._counts.total()

    def note(self, what: str, error: BaseException) -> None:
        """One more, of a topic or a service."""
        with self._lock:
            self._counts[what] += 1
            self._last_s, self._last_error = time.monotonic(), str(error)
        self.say(f"{what} was not taken by the middleware: {error}")

    def publisher_class(self, *args: Any, **options: Any) -> LenientPublisher:
        """What ``rclpy.node.Node.create_publisher`` takes for ``publisher_class``."""
        publisher = LenientPublisher(*args, **options)
        publisher.lost = self
        if publisher.is_latched:
            with self._lock:
                self._latched.append(publisher)
        return publisher

    def forget(self, publisher: Publisher[Any]) -> None:
        """A publisher ends; what it did not get rid of is lost."""
        with self._lock:
            self._latched = [one for one in self._latched if one is not publisher]

    def say_again(self) -> None:
        """Publish again what is latched and was not taken. Called with each heartbeat."""
        with self._lock:
            latched = tuple(self._latched)
        for publisher in latched:
            publisher.say_again()

    def item(self) -> Item:
        """For the diagnostics: a warning while messages are being lost."""
        with self._lock:
            counts, for_s = dict(self._counts), time.monotonic() - self._last_s
            error = self._last_error
        recent = bool(counts) and for_s < _RECENT_S
        text = "none" if not counts else f"{sum(counts.values())} not taken by the middleware"
        if recent:
            text += f": {error}"
        values = {"total": sum(counts.values()), **counts}
        return Item("lost messages", Level.WARN if recent else Level.OK, text, values)


class LenientPublisher(_Publisher):
    """A publisher of rclpy that counts what the middleware does not take, instead of raising.

    What is wrong with the message or the publisher itself (``TypeError``, ``InvalidHandle``) is raised as ever, and
    so is everything after ROS was shut down.
    """

    lost: LostMessages

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_latched = self.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        self._saying = threading.RLock()  # one that is said again must not overtake a newer one
        self._unsaid: Any = None

    def publish(self, msg: Any) -> None:
        """Publish; a message that is not taken is counted."""
        if not self.is_latched:
            self._publish(msg)
            return
        with self._saying:
            self._unsaid = None if self._publish(msg) else msg

    def say_again(self) -> None:
        """Publish the newest message again if it was not taken."""
        with self._saying:
            if self._unsaid is not None:
                self.publish(self._unsaid)

    def _publish(self, msg: Any) -> bool:
        try:
            super().publish(msg)
        except RCLError as error:
            if not _can_go_on(error):
                raise
            self.lost.note(self.topic, error)
            return False
        return True


class LenientStateMachine:
    """A life cycle's state machine of rcl whose transitions stand, also when they could not be announced.

    rcl changes the state, publishes it on ``~/transition_event``, and reports an error if that fails: rclpy would take
    the transition for impossible, leave its callback out and the node in ``configuring`` for good.

    Args:
        machine: That of rclpy.
        lost: Counts the announcements.
    """

    def __init__(self, machine: Any, lost: LostMessages) -> None:
        self._machine, self._lost = machine, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def trigger_transition_by_id(self, transition: int, publish: bool) -> None:
        """Make a transition; raises RCLError where it is not possible in the present state."""
        self._trigger(self._machine.trigger_transition_by_id, transition, publish)

    def trigger_transition_by_label(self, transition: str, publish: bool) -> None:
        """Make a transition; raises RCLError where it is not possible in the present state."""
        self._trigger(self._machine.trigger_transition_by_label, transition, publish)

    def _trigger(
        self, trigger: Callable[[Any, bool], None], transition: Any, publish: bool
    ) -> None:
        before = self._machine.current_state
        try:
            trigger(transition, publish)
        except RCLError as error:
            if self._machine.current_state == before:
                raise
            self._lost.note("~/transition_event", error)


def spin(
    executor: Executor,
    done: Future[Any] | None = None,
    *,
    failed: Callable[[BaseException], object],
    tolerates: type[Exception] | tuple[type[Exception], ...] = _OF_ONE_CALL,
    for_ever: bool = False,
) -> None:
    """Spin, also after a callback has raised: one answer that could not be sent must not end a process, nor a thread.

    Args:
        executor: Spins until ``done``, or until its context was shut down.
        done: Ends it; none for a thread that spins as long as there is ROS.
        failed: Is told what was raised.
        tolerates: What may be raised; anything else comes through.
        for_ever: Go on slowly where nothing but failures come. Otherwise the fiftieth within five seconds is raised.
    """
    recent: deque[float] = deque(maxlen=_MOST)
    while True:
        try:
            if done is None:
                executor.spin()
            else:
                executor.spin_until_future_complete(done)
            return
        except ExternalShutdownException:
            if done is None:
                return
            raise
        except tolerates as error:
            if not executor.context.ok():
                return
            failed(error)
            recent.append(time.monotonic())
            if len(recent) == _MOST and recent[-1] - recent[0] < _WITHIN_S:
                if not for_ever:
                    raise
                time.sleep(_PAUSE_S)


def twice(send: Callable[[], T]) -> T:
    """Send what must not be lost, and once more where the middleware does not take it; then RCLError is raised."""
    try:
        return send()
    except RCLError as error:
        if not _can_go_on(error):
            raise
    return send()


def _can_go_on(error: BaseException) -> bool:
    """Whether this was one message; a context or publisher that is gone takes none any more."""
    return "invalid" not in str(error)
