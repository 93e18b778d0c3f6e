"""Opens and closes a gripper: by its topic, action, service, or calls; or within the arm's message."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Any, Protocol

import numpy as np

from user_core.errors import ConfigError, SuiteError
from user_core.reasons import GRIPPER_REJECTED, NO_REASON, Reason
from user_core.specs import Array
from user_hal.robots.ros2.calls import Call, CallConfig, perform, prepared
from user_hal.robots.ros2.commanding.senders import fill_trajectory, require_listener, stamp
from user_hal.robots.ros2.contract.grippers import GripperConfig
from user_hal.robots.ros2.filling import Duration, Template
from user_hal.robots.ros2.messages import (
    BOOL,
    GRIPPER_ACTION,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBER,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    is_action,
    is_service,
)
from user_hal.topic_io import TopicIo, TopicPublisher

#: Words of which one must stand in the fields of a gripper's message.
_OPENINGS = ("value", "values", "opening", "open")
#: After this long, a goal that was rejected is sent again.
_RETRY_S = 0.5


class GripperSender:
    """Opens and closes a gripper.

    Args:
        io: Topics.
        config: Which way, and what open and closed are there.
        where: Path of the keys in the contract, for errors.

    Raises:
        TransportError: A type is not installed.
        ConfigError: Fields are mapped that the type has not got.
    """

    def __init__(self, io: TopicIo, config: GripperConfig, where: str = "action.gripper") -> None:
        self._io, self.config = io, config
        self._sent = math.nan  # asked for
        self._holds = math.nan  # accepted
        self._sent_s = -math.inf  # when, monotonic
        self._retry_s = math.inf  # when what was rejected is sent again
        self._closed, self._opened = (
            np.broadcast_to(np.asarray(numbers, float), (config.fingers,))
            for numbers in (config.closed, config.opened)
        )
        self._template: Template | None = None
        self.port: _Port = self._make_port(io, where)

    @property
    def publisher(self) -> Any:
        """What it sends with."""
        return self.port.publisher

    def send(self, opening: float) -> float:
        """Ask for an opening, 0 closed to 1 open; returns the opening that now holds.

        A change smaller than ``min_change`` is not sent, so that a controller that plans anew
        for each command is not kept busy; nor is any within ``min_interval_s`` of the last. What
        the server rejects changes nothing (0 is returned where nothing was accepted yet), and is
        sent again after a while. A gripper that is only opened or closed returns 1 or 0.
        """
        opening = self._decided(opening)
        now_s = time.monotonic()
        due = self._rejected() and now_s >= self._retry_s
        changed = not abs(opening - self._sent) < self.config.min_change
        if (due or changed) and now_s - self._sent_s >= self.config.min_interval_s:
            self._publish(opening)
            self._sent, self._sent_s, self._retry_s = opening, now_s, now_s + _RETRY_S
        accepted = self.port.accepted
        if not math.isnan(self._sent) and (
            accepted or (accepted is None and math.isnan(self._holds))
        ):
            self._holds = self._sent
        return 0.0 if math.isnan(self._holds) else self._holds

    def fingers(self, opening: float) -> Array:
        """The gripper's own numbers for an opening, one per finger."""
        values: Array = self._closed + opening * (self._opened - self._closed)
        return values

    @property
    def opening(self) -> float:
        """The opening that was asked for last; NaN: none was."""
        return self._sent

    def trouble(self) -> Reason:
        """Why the gripper does not do what it was told; false if it does."""
        if not self._rejected():
            return NO_REASON
        return Reason(GRIPPER_REJECTED, self.port.complaint(self._sent))

    def require(self, waited_s: float) -> None:
        """Raise DeviceTimeout unless somebody takes what is sent."""
        if self.config.require_subscriber:
            self.port.require(self._io, waited_s)

    def forget(self) -> None:
        """Send the next opening whatever it is."""
        self._sent, self._sent_s = math.nan, -math.inf
        self._retry_s = math.inf

    def close(self) -> None:
        """End the publisher."""
        self.port.close()

    def _decided(self, opening: float) -> float:
        """The opening; of a gripper that is only opened or closed, 1 or 0."""
        at, half = self.config.switch_at, self.config.hysteresis / 2
        if at is None:
            return opening
        if math.isnan(self._sent):
            return 1.0 if opening >= at else 0.0
        if opening >= at + half:
            return 1.0
        return 0.0 if opening < at - half else self._sent

    def _rejected(self) -> bool:
        return self.port.accepted is False

    def _make_port(self, io: TopicIo, where: str) -> _Port:
        config = self.config
        if config.in_command:
            return _NoPort()
        if config.open is not None and config.close is not None:
            return _CallsPort(io, config.open, config.close, where)
        if is_service(config.type):
            cls = io.request_class(config.type)
            self._template = self._mapped(cls, where)
            return _ServicePort(io, config, cls)
        port = (
            _GoalPort(io, config.topic, config.type)
            if is_action(config.type)
            else _TopicPort(io, config.topic, config.type)
        )
        if config.fields:
            self._template = self._mapped(type(port.publisher.new()), where)
        return port

    def _mapped(self, cls: type[Any], where: str) -> Template:
        config, where = self.config, f"{where}.fields"
        template = Template(self._io, cls, config.type, config.fields, self._words(1.0), where)
        if not template.used & set(_OPENINGS):
            raise ConfigError(
                where,
                got="the same message whatever the opening",
                expected=f"one of the words {list(_OPENINGS)} in a field that is no text",
                hint="A gripper that is told by words is opened and closed by two calls: open, close",
            )
        return template

    def _words(self, opening: float) -> dict[str, Any]:
        values, at = self.fingers(opening).tolist(), self.config.switch_at
        return {
            "value": values[0],
            "values": values,
            "joints": list(self.config.joints),
            "opening": float(opening),
            "open": opening >= (0.5 if at is None else at),
            "max_effort": self.config.max_effort,
            "duration": Duration(self.config.time_from_start_s),
        }

    def _publish(self, opening: float) -> None:
        config, values = self.config, self.fingers(opening)
        if isinstance(self.port, _CallsPort):
            self.port.choose(opening >= 0.5)
            return
        if isinstance(self.port, _NoPort):
            return
        message = self.port.new()
        if self._template is not None:
            self._template.fill(message, self._words(opening))
        elif config.type == NUMBER:
            message.data = float(values[0])
        elif config.type == BOOL:
            message.data = bool(values[0] > 0.5)
        elif config.type == NUMBERS:
            message.data = values.tolist()
        elif config.type == JOINT_STATE:
            stamp(message.header, self._io.now_ns())
            self._fill_joint_state(message, values)
        elif config.type == PARALLEL_GRIPPER_ACTION:
            self._fill_joint_state(message.command, values)
        elif config.type == JOINT_TRAJECTORY:
            joints = list(config.joints)
            fill_trajectory(self._io, message, joints, values, config.time_from_start_s)
        elif config.type == GRIPPER_ACTION:
            message.command.position = float(values[0])
            message.command.max_effort = config.max_effort
        self.port.send(message)

    def _fill_joint_state(self, message: Any, values: Array) -> None:
        message.name, message.position = list(self.config.joints), values.tolist()
        if self.config.max_effort:
            message.effort = [self.config.max_effort] * len(values)


class _Port(Protocol):
    """One way to a gripper."""

    publisher: Any

    @property
    def accepted(self) -> bool | None:
        """Whether the newest command was taken; None while that is not known."""

    def new(self) -> Any:
        """A new message."""

    def send(self, message: Any) -> None:
        """Send it; returns at once."""

    def complaint(self, opening: float) -> str:
        """What is wrong, when an opening was not accepted."""

    def require(self, io: TopicIo, waited_s: float) -> None:
        """Raise DeviceTimeout unless somebody is there."""

    def close(self) -> None:
        """End it."""


class _NoPort:
    """The gripper is in the arm's message."""

    publisher = None
    accepted: bool | None = True

    def new(self) -> Any:
        raise NotImplementedError

    def send(self, message: Any) -> None:
        raise NotImplementedError

    def complaint(self, opening: float) -> str:
        return ""

    def require(self, io: TopicIo, waited_s: float) -> None:
        return None

    def close(self) -> None:
        return None


class _TopicPort:
    """A topic: what is sent is taken as accepted."""

    def __init__(self, io: TopicIo, topic: str, type_name: str) -> None:
        self.publisher: TopicPublisher = self._open(io, topic, type_name)
        self._type = type_name

    def _open(self, io: TopicIo, topic: str, type_name: str) -> TopicPublisher:
        return io.publisher(topic, type_name)

    @property
    def accepted(self) -> bool | None:
        return True

    def new(self) -> Any:
        return self.publisher.new()

    def send(self, message: Any) -> None:
        self.publisher.publish(message)

    def complaint(self, opening: float) -> str:
        return (
            f"action {self.publisher.topic!r} ({self._type}) rejects opening "
            f"{opening:g}: the gripper may not be homed, or cannot open that wide"
        )

    def require(self, io: TopicIo, waited_s: float) -> None:
        deadline_s = time.monotonic() + waited_s
        while not self.publisher.subscribers and time.monotonic() < deadline_s:
            time.sleep(0.005)
        require_listener(io, self.publisher, self._type, waited_s)

    def close(self) -> None:
        self.publisher.close()


class _GoalPort(_TopicPort):
    """An action: its server answers whether it takes a goal."""

    def _open(self, io: TopicIo, topic: str, type_name: str) -> TopicPublisher:
        return io.goals(topic, type_name)

    @property
    def accepted(self) -> bool | None:
        accepted: bool | None = getattr(self.publisher, "accepted", None)
        return accepted


class _Worker:
    """Makes calls in a thread, the newest that is wanted next; nobody waits for them."""

    def __init__(self, name: str) -> None:
        self.publisher = self
        self._changed = threading.Condition()
        self._wanted: Any = None
        self._closed = False
        self._accepted: bool | None = True
        self._error = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> bool | None:
        with self._changed:
            return self._accepted

    def send(self, message: Any) -> None:
        with self._changed:
            self._wanted, self._accepted = message, None
            self._changed.notify()

    def complaint(self, opening: float) -> str:
        return f"the gripper does not take opening {opening:g}: {self._error}"

    def require(self, io: TopicIo, waited_s: float) -> None:
        return None  # a service that is not there is told by the first call

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def call(self, wanted: Any) -> None:
        """Make one call; raises what it raises."""
        raise NotImplementedError

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted is not None)
                if self._closed:
                    return
                wanted, self._wanted = self._wanted, None
            error = ""
            try:
                self.call(wanted)
            except SuiteError as failed:
                error = str(failed)
            except Exception as failed:  # ROS may shut down meanwhile
                error = f"{type(failed).__name__}: {failed}"
            with self._changed:
                if self._wanted is None:  # else the answer is to a wish of before
                    self._accepted, self._error = not error, error


class _ServicePort(_Worker):
    """A service with a request for each opening."""

    def __init__(self, io: TopicIo, config: GripperConfig, cls: type[Any]) -> None:
        self._io, self._config, self._cls = io, config, cls
        super().__init__(f"gripper {config.topic}")

    def new(self) -> Any:
        return self._cls()

    def call(self, wanted: Any) -> None:
        config = self._config
        perform(self._io, Call(config.topic, config.type, wanted, config.success, config.timeout_s))


class _CallsPort(_Worker):
    """One call that opens, and one that closes. A goal of an action is sent, and not waited for:
    the next one replaces it."""

    def __init__(self, io: TopicIo, open_: CallConfig, close: CallConfig, where: str) -> None:
        self._io = io
        self._calls = {
            True: prepared(io, open_, f"{where}.open"),
            False: prepared(io, close, f"{where}.close"),
        }
        self._goals = {
            key: _GoalPort(io, call.name, call.type_name)
            for key, call in self._calls.items()
            if call.is_action
        }
        self._newest: _GoalPort | None = None
        super().__init__("gripper calls")

    def choose(self, opens: bool) -> None:
        """Open or close it."""
        self._newest = self._goals.get(opens)
        if self._newest is not None:
            self._newest.send(self._calls[opens].request)
        else:
            self.send(self._calls[opens])

    @property
    def accepted(self) -> bool | None:
        return super().accepted if self._newest is None else self._newest.accepted

    def new(self) -> Any:
        raise NotImplementedError

    def complaint(self, opening: float) -> str:
        port = self._newest
        return super().complaint(opening) if port is None else port.complaint(opening)

    def require(self, io: TopicIo, waited_s: float) -> None:
        for port in self._goals.values():
            port.require(io, waited_s)

    def call(self, wanted: Any) -> None:
        perform(self._io, wanted)

    def close(self) -> None:
        super().close()
        for port in self._goals.values():
            with contextlib.suppress(SuiteError):
                port.close()
