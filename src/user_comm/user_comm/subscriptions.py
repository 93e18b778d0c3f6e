"""Subscriptions that refuse what they cannot take, and the reader beside the executor.

:class:`CheckedSubscription` takes a topic's bytes, checks and decodes them, counts what it refuses,
and goes on. :class:`TopicReader` reads topics past rclpy's executor where that is too slow: a
driver's topics, the bridge's, and those that a control loop waits for itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.service import Service as RosService

from user_comm.cdr import CdrLimits, read_cdr
from user_comm.converters import converter_of
from user_comm.diagnostics import Item, Level, code_of
from user_comm.logs import Throttle
from user_comm.topics import Topic, interface_class, profile
from user_core.errors import SuiteError

#: Code under which a message is counted whose bytes are no message of its type.
MALFORMED = "malformed"
#: After this long the reader's own thread looks whether its node is still there.
_LONGEST_WAIT_NS = 100_000_000
#: A thread that has not waited with its reader for this long does something else.
_ABSENT_NS = 1_000_000_000
#: Pause after the middleware could not wait, seconds.
_AGAIN_S = 0.2


class Refusals:
    """How many messages of one topic were taken, and how many refused, by error code.

    Args:
        name: Name of the topic.
        recent_s: For how long a refusal is shown as a warning, seconds.
        clock_s: A clock that does not go back, seconds.
    """

    def __init__(
        self,
        name: str,
        recent_s: float = 10.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.last_error = ""
        self._recent_s, self._clock_s = recent_s, clock_s
        self._last_s = -float("inf")
        self._lock = threading.Lock()

    def accept(self) -> None:
        """Count a message that was taken."""
        self.accepted += 1

    def refuse(self, code: str, error: str) -> None:
        """Count a message that was refused."""
        with self._lock:
            self.refused[code] += 1
            self.last_error = error
            self._last_s = self._clock_s()

    def item(self) -> Item:
        """The counts as a diagnostic: a warning while there was a refusal lately."""
        with self._lock:
            recent = self._clock_s() - self._last_s < self._recent_s
            values = {f"refused_{code}": count for code, count in sorted(self.refused.items())}
            total = sum(self.refused.values())
            last = self.last_error
        message = f"{self.accepted} messages taken" + (f", {total} refused" if total else "")
        return Item(
            f"topic {self.name}",
            Level.WARN if recent else Level.OK,
            f"{message}; last: {last}" if recent else message,
            {
                "accepted": self.accepted,
                **values,
                **({"last_error": last} if last else {}),
            },
        )


class CheckedSubscription:
    """Takes the serialised bytes of a topic, checks, decodes, and hands the value on.

    No exception of deserialisation or decoding reaches the executor: a message that cannot be
    taken is counted under the code of its error, logged with the topic's name (at most once in
    five seconds per code), and forgotten.

    Args:
        node: Subscribes.
        topic: Name of the topic, relative to the node's namespace.
        message_type: Class of the message.
        decode: Fields of the message to value; raises an error of our tree to refuse it. Without
            one the callback gets the message itself.
        callback: Gets every value that was taken. What it raises is not caught here.
        profile: Quality of service.
        limits: Sizes that are checked on the bytes, before anything is allocated for them.
        callback_group: As for ``Node.create_subscription``.
        reader: Takes the messages, in place of an executor.

    Attributes:
        callback: Who gets the values. Whose thread reads may exchange it between two readings.
        counts: How many messages were taken and refused.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        message_type: type[Any],
        decode: Callable[[Any], Any] | None,
        callback: Callable[[Any], None],
        profile: QoSProfile,
        *,
        limits: CdrLimits | None = None,
        callback_group: CallbackGroup | None = None,
        reader: TopicReader | None = None,
    ) -> None:
        self._node, self._reader = node, reader
        self._type, self._decode, self.callback = message_type, decode, callback
        self._limits = limits or CdrLimits()
        self._say = Throttle()
        if reader is not None:
            self.subscription = reader.subscribe(message_type, topic, profile, self._take)
        else:
            self.subscription = node.create_subscription(
                message_type, topic, self._take, profile, raw=True, callback_group=callback_group
            )
        self.topic = self.subscription.topic_name
        self.counts = Refusals(self.topic)

    def destroy(self) -> None:
        """Stop listening."""
        if self._reader is not None:
            self._reader.unsubscribe(self.subscription)
        else:
            self._node.destroy_subscription(self.subscription)

    def _take(self, data: bytes) -> None:
        try:
            value = decode_bytes(data, self._type, self._decode, self._limits)
        except SuiteError as error:
            self._refuse(code_of(error), error)
        except Exception as error:  # the middleware's deserialiser may raise anything
            self._refuse(MALFORMED, error)
        else:
            self.counts.accept()
            self.callback(value)

    def _refuse(self, code: str, error: Exception) -> None:
        self.counts.refuse(code, str(error))
        if text := self._say(code, f"{self.topic}: refused a message ({code}): {error}"):
            self._node.get_logger().warning(text)


def decode_bytes(
    data: bytes,
    message_type: type[Any],
    decode: Callable[[Any], Any] | None,
    limits: CdrLimits,
) -> Any:
    """Serialised bytes to a value, or to a message where there is no ``decode``.

    Raises an error of our tree for what was refused by us. The middleware's deserialiser only
    gets to see what we could read, and makes messages for those who want some; it raises what
    it likes.
    """
    fields = read_cdr(data, message_type, limits)
    return deserialize_message(data, message_type) if decode is None else decode(fields)


def let_go(node: Node, destroy: Callable[[], object]) -> None:
    """Destroy an endpoint of a node in the thread of the executor that spins the node, soon.

    Publishers and subscriptions have event handlers, and action clients are waited for as a whole;
    rclpy's executor collects all of them, and raises InvalidHandle, which ends its spinning, where
    one is destroyed by another thread before it waits. Between two rounds nothing can be pulled
    from under it. A node that nobody spins is served at once.

    Args:
        node: Whose endpoint it is.
        destroy: Destroys it; not called any more once the executor has ended, since the node's
            end takes all its endpoints with it.
    """

    def quietly() -> None:
        with suppress(_rclpy.InvalidHandle):  # the node went first
            destroy()

    executor = node.executor
    if executor is None:
        quietly()
    else:
        with suppress(AttributeError):  # Jazzy's, when it has ended, has nothing to be woken by
            executor.create_task(quietly)


class BesideExecutor(CallbackGroup):
    """A callback group that no executor ever finds ready: a :class:`TopicReader` takes instead."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        return


class WhileUnread(MutuallyExclusiveCallbackGroup):
    """A callback group for what a thread reads that waits with a :class:`TopicReader`: an executor
    takes it only while that thread does not, be it stuck, or not there.

    Args:
        reader: The reader of that thread.
    """

    def __init__(self, reader: TopicReader) -> None:
        super().__init__()
        self._reader = reader

    def can_execute(self, entity: Any) -> bool:
        return not self._reader.is_read and super().can_execute(entity)


@dataclass(eq=False)
class _Source:
    """A subscription that is read, and who gets its messages."""

    subscription: Any
    callback: Callable[[Any], object]
    depth: int
    on_writer: Callable[[bytes], object] | None = None


@dataclass(eq=False)
class _Calls:
    """A service or a client, whose requests or answers are read.

    Attributes:
        endpoint: It.
        handler: Gets each request of a service with its header; None for a client, whose pending
            futures get the answers.
    """

    endpoint: RosService[Any, Any] | Client[Any, Any]
    handler: Callable[[Any, Any], object] | None = None


class TopicReader:
    """Reads topics beside the executor: one wait set in C, one thread.

    rclpy's executor builds its wait set anew for every message, in Python: half a millisecond of a
    core each (docs/measurements/messages.md). And what it receives has to be handed over to the thread that
    needs it, which must first be scheduled and get the interpreter. So these subscriptions are
    kept out of the executor's sight, and read in one of two ways:

    - **By the caller's thread** (without ``thread``), which waits for messages together with its
      next deadline: :meth:`wait`, then :meth:`take`. A control loop does so.
    - **By a thread of the reader's own** (with ``thread``), which runs as long as there is
      anything to read. With ``period_s`` it lets messages come together for this long, and takes
      them all at one look: a driver wants the newest every few milliseconds, no more.

    The caller's thread may also take the answers of a client and the requests of a service: then a
    call between two control loops needs no other thread on either side (:meth:`read_calls`).

    The wait set is used as rclpy's own ``wait_for_message`` does; there is no public way.

    Args:
        node: Subscribes.
        thread: Name of the reader's own thread; None: the caller's thread reads.
        period_s: Shortest time between two looks of that thread, seconds.
        on_error: Gets a topic and what the middleware raised when it was read; the other topics
            go on. Only used by the reader's own thread.
    """

    def __init__(
        self,
        node: Node,
        thread: str | None = None,
        *,
        period_s: float = 0.0,
        on_error: Callable[[str, BaseException], object] = lambda topic, error: None,
    ) -> None:
        self._node, self._period_s, self._on_error = node, period_s, on_error
        self._thread_name = thread
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._wanted: tuple[_Source, ...] = ()
        self._changed = True
        self._held = ExitStack()  # handles that must live while the wait set knows them
        self._sources: tuple[_Source, ...] = ()
        self._wanted_calls: tuple[_Calls, ...] = ()
        self._calls: tuple[_Calls, ...] = ()
        self._waits, self._waited_ns = False, 0
        self._wait_set: Any = None
        self._bell = GuardCondition(None, None, context=node.context)

    def subscribe(
        self,
        message_type: type[Any],
        topic: str,
        profile: QoSProfile,
        callback: Callable[[Any], object],
        *,
        raw: bool = True,
        on_writer: Callable[[bytes], object] | None = None,
    ) -> Any:
        """Read a topic from now on; ``callback`` gets the messages in the thread that reads.

        Args:
            message_type: Class of the message.
            topic: Name of the topic, relative to the node's namespace.
            profile: Quality of service; at most ``depth`` messages are taken at one look.
            callback: Gets each message. In the reader's own thread it must not raise.
            raw: Hand over serialised bytes instead of messages.
            on_writer: Gets the number (GID) of the publisher of each message, before the message;
                empty where the middleware does not tell.

        Returns:
            The subscription of rclpy, for :meth:`unsubscribe`.
        """
        subscription = self._node.create_subscription(
            message_type, topic, callback, profile, raw=raw, callback_group=BesideExecutor()
        )
        with self._lock:
            source = _Source(subscription, callback, profile.depth, on_writer)
            self._wanted = (*self._wanted, source)
            self._changed = True
            if self._thread_name is not None and self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=self._thread_name, daemon=True
                )
                self._thread.start()
        self._bell.trigger()
        return subscription

    def unsubscribe(self, subscription: Any) -> None:
        """End a subscription. A look that has begun may still hand over a message."""
        with self._lock:
            self._wanted = tuple(s for s in self._wanted if s.subscription is not subscription)
            self._changed = True
        let_go(self._node, lambda: self._node.destroy_subscription(subscription))
        self._bell.trigger()

    def read_calls(
        self,
        endpoint: RosService[Any, Any] | Client[Any, Any],
        handler: Callable[[Any, Any], object] | None = None,
    ) -> None:
        """Take a client's answers, or a service's requests, from now on, in the caller's thread.

        Args:
            endpoint: The client, in a group :class:`BesideExecutor`; or the service, in a group
                :class:`WhileUnread`, or it would go unanswered while nobody reads.
            handler: Of a service: gets each request, and the header to answer it with.
        """
        with self._lock:
            self._wanted_calls = (*self._wanted_calls, _Calls(endpoint, handler))
            self._changed = True
        self._bell.trigger()

    def forget_calls(self, endpoint: RosService[Any, Any] | Client[Any, Any]) -> None:
        """Take them no longer."""
        with self._lock:
            self._wanted_calls = tuple(c for c in self._wanted_calls if c.endpoint is not endpoint)
            self._changed = True
        self._bell.trigger()

    @property
    def is_read(self) -> bool:
        """Whether a thread waits with this reader now, or did a moment ago."""
        return self._waits or time.monotonic_ns() - self._waited_ns < _ABSENT_NS

    def listen(self, topic: Topic, callback: Callable[[Any], None]) -> CheckedSubscription:
        """Read a topic of the table whose messages stand for core values, checked."""
        return CheckedSubscription(
            self._node,
            topic.name,
            interface_class(topic.type),
            converter_of(topic.type).decode,
            callback,
            profile(topic.quality),
            reader=self,
        )

    def wait(self, duration_ns: int) -> None:
        """Wait until a message is there, or :meth:`wake` was called, or for this long."""
        if self._changed:
            self._rebuild()
        wait_set = self._wait_set
        wait_set.clear_entities()
        for source in self._sources:
            wait_set.add_subscription(source.subscription.handle)
        for calls in self._calls:
            add = wait_set.add_client if calls.handler is None else wait_set.add_service
            add(calls.endpoint.handle)
        wait_set.add_guard_condition(self._bell.handle)
        self._waits = True
        try:
            wait_set.wait(max(0, duration_ns))
        finally:
            self._waited_ns = time.monotonic_ns()
            self._waits = False

    def take(self) -> bool:
        """Hand over what has arrived, oldest first, and return at once; whether there was any."""
        if self._changed:
            self._rebuild()
        found = [_take(source) for source in self._sources]
        for calls in self._calls:
            _take_calls(calls)
        return any(found)

    def wake(self) -> None:
        """End the wait, or the next one. From any thread."""
        self._bell.trigger()

    def close(self) -> None:
        """End all subscriptions, and the thread. Nobody else may be waiting."""
        for source in self._wanted:
            self.unsubscribe(source.subscription)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._held.close()
        self._bell.destroy()

    def _rebuild(self) -> None:
        """A wait set of the subscriptions that are wanted now."""
        with self._lock:
            self._changed = False
            wanted, wanted_calls = self._wanted, self._wanted_calls
        held, kept, kept_calls = ExitStack(), [], []
        for source in wanted:
            with suppress(Exception):  # InvalidHandle: it was destroyed with its node
                held.enter_context(source.subscription.handle)
                kept.append(source)
        for calls in wanted_calls:
            with suppress(Exception):
                held.enter_context(calls.endpoint.handle)
                kept_calls.append(calls)
        self._held.close()
        self._held, self._sources, self._calls = held, tuple(kept), tuple(kept_calls)
        services = sum(calls.handler is not None for calls in kept_calls)
        clients = len(kept_calls) - services
        context = self._node.context.handle
        assert context is not None
        with context:
            self._wait_set = _rclpy.WaitSet(len(kept), 1, 0, clients, services, 0, context)

    # --- the reader's own thread --------------------------------------------------------

    def _run(self) -> None:
        while self._goes_on():
            try:
                self.wait(_LONGEST_WAIT_NS)
            except Exception as error:
                if self._node.context.ok():  # else ROS was shut down meanwhile
                    self._on_error("the wait for messages", error)
                    time.sleep(_AGAIN_S)
                self._changed = True
                continue
            ready = [
                source
                for index, source in enumerate(self._sources)
                if self._wait_set.is_ready("subscription", index)
            ]
            self._take_from(ready)
            if self._period_s and ready:
                self._look_often()

    def _look_often(self) -> None:
        """While something comes at every look, look again after a pause, without a wait set."""
        due_s = time.monotonic()
        found = True
        while found and not self._changed:
            due_s = max(due_s + self._period_s, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            found = self._take_from(self._sources)

    def _take_from(self, sources: Sequence[_Source]) -> bool:
        found = False
        for source in sources:
            try:
                found |= _take(source)
            except (Exception, SystemExit) as error:  # one topic must not end all others
                self._on_error(source.subscription.topic_name, error)
        return found

    def _goes_on(self) -> bool:
        """Whether there is anything to read; else the thread ends, until there is again."""
        with self._lock:
            try:
                with self._node.handle:
                    alive = bool(self._wanted) and self._node.context.ok()
            except Exception:  # InvalidHandle: the node is destroyed
                alive = False
            if not alive:
                self._held.close()
                self._thread, self._changed = None, True
            return alive


def writer_of(info: Mapping[str, Any]) -> bytes:
    """The number (GID) of the publisher of a message, as the graph has it; empty where the
    middleware does not tell."""
    gid = info.get("publisher_gid")
    return bytes(gid["data"]) if isinstance(gid, Mapping) and "data" in gid else b""


def _take(source: _Source) -> bool:
    """Hand over what has arrived on one topic, at most as much as is kept; whether any had."""
    subscription, found = source.subscription, False
    for _ in range(source.depth):
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            break
        found = True
        if source.on_writer is not None:
            source.on_writer(writer_of(taken[1]))
        source.callback(taken[0])
    return found


def _take_calls(calls: _Calls) -> None:
    """Hand over the requests of a service, or the answers to a client."""
    endpoint: Any = calls.endpoint
    while calls.handler is not None:
        request, header = endpoint.handle.service_take_request(endpoint.srv_type.Request)
        if header is None:
            return
        calls.handler(request, header)
    while True:
        header, response = endpoint.handle.take_response(endpoint.srv_type.Response)
        if header is None:
            return
        with suppress(KeyError):  # nobody waits for it any more
            endpoint.get_pending_request(header.request_id.sequence_number).set_result(response)
