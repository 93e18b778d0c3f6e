"""Subscriptions that refuse what they cannot take, count it, and go on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from user_comm.cdr import CdrLimits, read_cdr
from user_comm.diagnostics import Item, Level, code_of
from user_comm.logs import Throttle
from user_core.errors import SuiteError


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


#: Code under which a message is counted whose bytes are no message of its type.
MALFORMED = "malformed"


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
        callback: Gets every value that was taken. What it raises is its own affair.
        profile: Quality of service.
        limits: Sizes that are checked on the bytes, before anything is allocated for them.
        callback_group: As for ``Node.create_subscription``.

    Attributes:
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
    ) -> None:
        self._node = node
        self._type, self._decode, self._callback = message_type, decode, callback
        self._limits = limits or CdrLimits()
        self._say = Throttle()
        self.subscription = node.create_subscription(
            message_type,
            topic,
            self._take,
            profile,
            raw=True,
            callback_group=callback_group,
        )
        self.topic = self.subscription.topic_name
        self.counts = Refusals(self.topic)

    def destroy(self) -> None:
        """Stop listening."""
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
            self._callback(value)

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
