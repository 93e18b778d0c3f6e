"""What stops the robot because a topic or service says so: a protective stop, a safety mode, a door."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceTimeout, SuiteError
from user_core.reasons import NO_REASON, ROBOT_STOP, Reason
from user_hal.robots.ros2.field_paths import FieldPath, NotSelected
from user_hal.robots.ros2.filling import constant, constants
from user_hal.robots.ros2.messages import is_service
from user_hal.topic_io import TopicIo, TopicSubscription

Plain = bool | int | float | str


class StopWhenConfig(Config):
    """A condition on a topic or service under which the robot must stand still."""

    topic: str = setting("", doc="Topic, for instance /io_and_status_controller/safety_mode.")
    service: str = setting(
        "",
        doc="Instead of a topic: a service that is asked again and again, for instance "
        "/dashboard_client/get_safety_mode.",
    )
    request: dict[str, Any] = setting(factory=dict, doc="Fields of the request to the service.")
    every_s: float = setting(0.5, doc="How often the service is asked.", unit="s", ge=0.02, le=60)
    type: str = setting(doc="Its message or service type.")
    field: str = setting(
        doc="Path to the value in the message, or in the service's answer, for instance mode."
    )
    equals: Plain | tuple[Plain, ...] | None = setting(
        None,
        doc="Stop while the field has this value, or one of these; constants of the message type "
        "by their names, too. Of several fields ([*]) one is enough.",
    )
    not_equals: Plain | tuple[Plain, ...] | None = setting(
        None, doc="Stop while the field has another value than this, or than all of these."
    )
    above: float | None = setting(None, doc="Stop while the field is larger.")
    below: float | None = setting(None, doc="Stop while the field is smaller.")
    latched: bool = setting(
        False,
        doc="The stop is an emergency stop of the HAL: it stays until a person resets it (service "
        "reset_emergency_stop) and the condition has ended. Else the robot may move again "
        "as soon as the condition ends and commands come.",
    )
    reason: str = setting("", doc="What it means, for people: protective stop.")
    required: bool = setting(
        True, doc="Connecting fails while no message has come: what is not known is not safe."
    )
    max_age_s: float | None = setting(
        None,
        doc="Stop, too, if the topic is silent for longer. Empty: it may be said once and hold; a "
        "service that does not answer for three times every_s (at least 1 s) stops the robot.",
        unit="s",
        gt=0,
    )

    def validate(self) -> None:
        """Refuse none, or several, of the comparisons; a topic and a service, or none of them."""
        if bool(self.topic) == bool(self.service):
            raise ConfigError(
                "stop_when", got=f"topic {self.topic!r} and service {self.service!r}",
                expected="one of the two",
            )  # fmt: skip
        if is_service(self.type) != bool(self.service):
            kind = "srv" if self.service else "msg"
            raise ConfigError("type", got=self.type, expected=f"package/{kind}/Name")
        if self.request and not self.service:
            raise ConfigError("request", got=self.request, expected="none beside a topic")
        given = [k for k in _COMPARISONS if getattr(self, k) is not None]
        if len(given) != 1 and set(given) != {"above", "below"}:
            raise ConfigError(
                f"stop_when of {self.source}", got=given or "no comparison",
                expected=f"one of {list(_COMPARISONS)}",
            )  # fmt: skip
        FieldPath(self.field)

    @property
    def source(self) -> str:
        """The topic or service."""
        return self.topic or self.service

    @property
    def silent_s(self) -> float | None:
        """How long nothing may be heard; None: for ever."""
        if self.max_age_s is not None or not self.service:
            return self.max_age_s
        return max(1.0, 3 * self.every_s)


_COMPARISONS = ("equals", "not_equals", "above", "below")


class StopDemand(NamedTuple):
    """Why a robot must stand still.

    Attributes:
        reason: False if it may move.
        latched: Whether only a person may let it move again.
    """

    reason: Reason
    latched: bool


FREE = StopDemand(NO_REASON, latched=False)


class StopCondition:
    """One condition; what its topic said last.

    Args:
        config: The condition.
    """

    def __init__(self, config: StopWhenConfig) -> None:
        self.config = config
        self._path = FieldPath(config.field)
        self._wanted = _several(config.equals if config.equals is not None else config.not_equals)
        self._value: Any = None
        self._heard_s: float | None = None
        self._tripped = ""  # a latched condition has held since the last acknowledgement
        self.complaint = ""  # why nothing can be heard, as far as that is known

    @property
    def heard(self) -> bool:
        """Whether a message has come."""
        return self._heard_s is not None

    def prepare(self, cls: type[Any]) -> None:
        """Nothing has come yet. Names of constants of the message type become their values.

        Raises:
            ConfigError: The type has no such field.
        """
        self._path.check(cls, self.config.type)
        holder: Any = cls()  # of the field, whose constants count
        for name in self.config.field.split(".")[:-1]:
            holder = getattr(holder, name, None)
        self._wanted = tuple(
            known
            if isinstance(one, str) and (known := constant(type(holder), one)) is not None
            else one
            for one in self._wanted
        )
        self.forget()

    def forget(self) -> None:
        """Nothing has come yet."""
        self._value, self._heard_s, self._tripped, self.complaint = None, None, "", ""

    def receive(self, message: Any) -> None:
        """Take a message of the topic, or an answer."""
        try:
            self._value = _plain(self._path.get(message))
        except NotSelected:
            return  # it is about others
        except (AttributeError, IndexError):
            self._value = None  # a list that is too short: unknown, see _holds()
        self._heard_s = time.monotonic()
        if self.config.latched and self._holds():
            self._tripped = self._text()

    def check(self) -> StopDemand:
        """Why the robot must stand still. A latched condition that has come and gone is told until
        :meth:`acknowledge`; silence is never latched."""
        text, latched = self._found()
        return StopDemand(Reason(ROBOT_STOP, text), latched) if text else FREE

    def _found(self) -> tuple[str, bool]:
        config = self.config
        because = f" ({self.complaint})" if self.complaint else ""
        if self._heard_s is None:
            text = f"nothing was heard of {config.source!r} yet{because}"
            return (text if config.required else ""), False
        age_s, allowed_s = time.monotonic() - self._heard_s, config.silent_s
        if allowed_s is not None and age_s > allowed_s:
            silent = f"{config.source!r} is silent for {age_s:.2f} s"
            return f"{silent}, allowed {allowed_s:g} s{because}", False
        return (self._text() if self._holds() else self._tripped), config.latched

    def acknowledge(self) -> None:
        """A latched condition is seen to; if it still holds, it is told again."""
        self._tripped = ""

    def _holds(self) -> bool:
        value = self._value
        if isinstance(value, list):  # of several elements, by [*]
            return not value or any(self._is_met(each) for each in value)
        return self._is_met(value)

    def _is_met(self, value: Any) -> bool:
        config = self.config
        if value is None:
            return True  # the field is not there: what is not known is not safe
        if config.equals is not None:
            return value in self._wanted
        if config.not_equals is not None:
            return value not in self._wanted
        if value != value:  # NaN
            return True
        return (config.above is not None and value > config.above) or (
            config.below is not None and value < config.below
        )

    def _text(self) -> str:
        config = self.config
        key = next(k for k in _COMPARISONS if getattr(config, k) is not None)
        said = f"{config.source!r} says {config.field} = {self._value!r}"
        rule = f"stop when {key.replace('_', ' ')} {getattr(config, key)!r}"
        return f"{config.reason or 'stop condition'}: {said} ({rule})"


class StopConditions:
    """All conditions of a robot. Messages come from threads of the topics.

    Args:
        configs: The conditions; the first that holds is told.
    """

    def __init__(self, configs: Sequence[StopWhenConfig]) -> None:
        self._conditions = [StopCondition(config) for config in configs]
        self._subscriptions: list[TopicSubscription] = []
        self._askers: list[_Asker] = []

    def open(self, io: TopicIo) -> None:
        """Subscribe. Publishers that keep their last message for those that come later are heard
        so, the others as well; a message that comes twice does no harm.

        Raises:
            ConfigError, TransportError: A type is not installed, or has no such field.
        """
        askers = []
        for condition in self._conditions:
            if condition.config.service:
                askers.append(_Asker(io, condition))
            else:
                condition.prepare(io.message_class(condition.config.type))
        for condition in self._conditions:
            config = condition.config
            if config.service:
                continue
            for latched in (True, False):
                self._subscriptions.append(
                    io.subscribe(
                        config.topic,
                        config.type,
                        condition.receive,
                        depth=8,
                        reliability="reliable" if latched else "best_effort",
                        latched=latched,
                    )
                )
        for asker in askers:
            self._askers.append(asker)
            asker.start()

    def wait(self, deadline_s: float, waited_s: float) -> None:
        """Wait until all topics have spoken that must; raises DeviceTimeout."""
        for condition in self._conditions:
            while condition.config.required and not condition.heard:
                if time.monotonic() > deadline_s:
                    config = condition.config
                    what = "message" if config.topic else "answer"
                    raise DeviceTimeout(
                        f"{'topic' if config.topic else 'service'} {config.source!r} (stop_when)",
                        got=f"no {what} within {waited_s:g} s"
                        + (f": {condition.complaint}" if condition.complaint else ""),
                        expected=config.type,
                        hint=f"Start what {'publishes' if config.topic else 'serves'} it, or write "
                        "required: false",
                    )
                time.sleep(0.005)

    def check(self) -> StopDemand:
        """The first demand that holds, a latched one before others."""
        found = [demand for c in self._conditions if (demand := c.check()).reason]
        return next((demand for demand in found if demand.latched), found[0] if found else FREE)

    def acknowledge(self) -> None:
        """What was latched is seen to."""
        for condition in self._conditions:
            condition.acknowledge()

    def close(self) -> None:
        """Unsubscribe, and ask no more."""
        askers, self._askers = self._askers, []
        for asker in askers:
            asker.close()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.close()


class _Asker:
    """Asks a service in a thread of its own; its answers are the messages of a condition.

    Args:
        io: Calls it.
        condition: Takes the answers.

    Raises:
        ConfigError: The request has not the fields of its type.
        TransportError: The type is not installed.
    """

    def __init__(self, io: TopicIo, condition: StopCondition) -> None:
        self._io, self._condition = io, condition
        config = condition.config
        cls = io.request_class(config.type)
        where = f"stop_when of {config.service}: request"
        self._request = constants(io, cls, config.type, config.request, where)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ask {config.service}", daemon=True)

    def start(self) -> None:
        """Nothing has been answered yet."""
        self._condition.forget()
        self._thread.start()

    def close(self) -> None:
        """Ask no more; what is being asked is not waited for."""
        self._ending.set()

    def _run(self) -> None:
        config, condition, known = self._condition.config, self._condition, False
        while not self._ending.is_set():
            try:
                answer = self._io.call(
                    config.service, config.type, self._request, timeout_s=max(1.0, config.every_s)
                )
                if self._ending.is_set():
                    return
                if not known:
                    condition.prepare(type(answer))
                    known = True
                condition.complaint = ""
                condition.receive(answer)
            except SuiteError as error:
                condition.complaint = str(error)
            except Exception as error:  # ROS may shut down meanwhile
                condition.complaint = f"{type(error).__name__}: {error}"
            self._ending.wait(config.every_s)


def _plain(value: Any) -> Any:
    """Numbers of ROS as those of Python: a byte is a number, an array a list."""
    if isinstance(value, bytes):
        return value[0] if len(value) == 1 else list(value)
    if isinstance(value, (str, bool, int, float)) or not hasattr(value, "__iter__"):
        return value
    return [_plain(one) for one in value]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
