"""Services and actions that are called before and after motion, and what undoes them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceFault, SuiteError
from user_hal.robots.ros2.field_paths import FieldPath
from user_hal.robots.ros2.filling import constant, constants, field_types
from user_hal.topic_io import TopicIo

_log = logging.getLogger(__name__)

TRIGGER = "std_srvs/srv/Trigger"
#: Fields of answers that say whether a call succeeded, where the contract does not say it.
_VERDICTS = ("success", "ok")
#: Time for a call that is left when others have used theirs up.
_SHORTEST_S = 0.2
#: Fields that a complaint is taken from.
_TEXTS = ("message", "error_string", "error", "status_message")


class UndoConfig(Config):
    """A call that takes another one back; what it leaves out is the other's."""

    service: str = setting("", doc="Name of a service.")
    action: str = setting("", doc="Name of an action, instead of a service.")
    type: str = setting(
        "", doc="Its type, for instance std_srvs/srv/SetBool. Empty: std_srvs/srv/Trigger."
    )
    request: dict[str, Any] = setting(
        factory=dict,
        doc="Fields of the request or goal, as in the type; the others keep their defaults.",
    )
    success: dict[str, Any] | None = setting(
        None,
        doc="Fields of the answer or result, each with the value that it must have, for instance "
        "{ret: 0}; constants of the type by their names, too. Empty: a field success or ok, if there is one, must be true; {}: any answer.",
    )
    timeout_s: float = setting(5.0, doc="Longest time until it is done.", unit="s", gt=0)


class CallConfig(UndoConfig):
    """A service or action to call."""

    undo: UndoConfig | None = setting(
        None,
        doc="The call that takes this one back, made in the opposite order: of before, when the "
        "robot is closed; of home.before, when the way home has ended, however.",
    )

    def validate(self) -> None:
        """Refuse a call of nothing, or of two things."""
        if bool(self.service) == bool(self.action):
            raise ConfigError(
                "call", got=f"service {self.service!r} and action {self.action!r}",
                expected="one of the two",
            )  # fmt: skip
        if self.action and not self.type:
            raise ConfigError("type of the action", got="none", expected="package/action/Name")
        kind = "action" if self.action else "srv"
        if self.type and self.type.split("/")[1:2] != [kind]:
            raise ConfigError("type", got=self.type, expected=f"package/{kind}/Name")


@dataclass(frozen=True)
class Call:
    """A call that fits its type.

    Attributes:
        name: Of the service or action.
        type_name: Its type.
        request: What is sent.
        success: Fields of the answer with the values that they must have; None: see
            :class:`UndoConfig`.
        timeout_s: Longest time.
        undo: What takes it back.
    """

    name: str
    type_name: str
    request: Any
    success: dict[str, Any] | None
    timeout_s: float
    undo: Call | None = None

    @property
    def is_action(self) -> bool:
        """Whether it is a goal of an action."""
        return self.type_name.split("/")[1] == "action"


def prepare(io: TopicIo, configs: Sequence[CallConfig], where: str) -> list[Call]:
    """Calls that fit their types.

    Args:
        io: Knows the types.
        configs: What the contract says.
        where: Where it says so, for errors.

    Raises:
        ConfigError: A request has not the fields of its type.
        TransportError: A type is not installed.
    """
    return [prepared(io, config, f"{where}[{index}]") for index, config in enumerate(configs)]


def prepared(io: TopicIo, config: CallConfig, where: str) -> Call:
    """One call that fits its type; raises as :func:`prepare`."""
    undo = None
    if config.undo is not None:
        other = config.undo
        same = not (other.service or other.action)  # only the request is another
        whole = CallConfig(
            service=config.service if same else other.service,
            action=config.action if same else other.action,
            type=config.type if same else other.type,
            request=other.request,
            success=other.success,
            timeout_s=other.timeout_s,
        )
        undo = prepared(io, whole, f"{where}.undo")
    type_name = config.type or TRIGGER
    cls = io.request_class(type_name)
    request = constants(io, cls, type_name, config.request, f"{where}.request")
    for path in config.success or {}:
        FieldPath(path)
    name = config.service or config.action
    return Call(name, type_name, request, config.success, config.timeout_s, undo)


def perform(io: TopicIo, call: Call) -> Any:
    """Make a call; returns its answer.

    Raises:
        DeviceTimeout: Nobody serves it, or it is not done in time.
        DeviceFault: The answer is not what the contract asks for; says what was answered.
    """
    if not call.is_action:
        answer = io.call(call.name, call.type_name, call.request, timeout_s=call.timeout_s)
        _judge(f"service {call.name!r}", answer, call.success)
        return answer
    what = f"action {call.name!r}"
    ended, result = io.act(call.name, call.type_name, call.request, timeout_s=call.timeout_s)
    if ended != "succeeded":
        told = f": {described(result)}" if result is not None else ""
        raise DeviceFault(what, got=f"{ended}{told}", expected="succeeded")
    _judge(what, result, call.success)
    return result


class Performed:
    """Calls that were made, to be taken back in the opposite order."""

    def __init__(self, io: TopicIo) -> None:
        self._io = io
        self._undo: list[Call] = []

    def perform(self, calls: Sequence[Call]) -> None:
        """Make calls, in order; raises as :func:`perform`, and makes none after it."""
        for call in calls:
            perform(self._io, call)
            if call.undo is not None:
                self._undo.append(call.undo)

    def undo(self, within_s: float = math.inf) -> None:
        """Take back what was done. All is tried; raises the first error, after it is logged.

        Args:
            within_s: No more time than this is spent on servers that do not answer.
        """
        first: SuiteError | None = None
        deadline_s = time.monotonic() + within_s
        while self._undo:
            call = self._undo.pop()
            left_s = max(_SHORTEST_S, deadline_s - time.monotonic())
            try:
                perform(self._io, replace(call, timeout_s=min(call.timeout_s, left_s)))
            except SuiteError as error:
                _log.warning("undoing: %s", error)
                first = first or error
        if first is not None:
            raise first


def described(message: Any) -> str:
    """The plain fields of a message, for people: ``ret=-1, message='no power'``."""
    if message is None:
        return "nothing"
    try:
        names = list(field_types(type(message)))
    except (KeyError, TypeError, NameError):
        names = []
    names = names or list(vars(message))
    plain = {name: getattr(message, name) for name in names}
    shown = [f"{n}={v!r}" for n, v in plain.items() if isinstance(v, (bool, int, float, str))]
    return ", ".join(shown) or "no plain fields"


def _known(answer: Any, path: str, wanted: Any) -> Any:
    """A value that an answer must have; a constant of its type may stand there by its name."""
    if not isinstance(wanted, str):
        return wanted
    holder = answer
    for name in path.split(".")[:-1]:
        holder = getattr(holder, name, None)
    number = constant(type(holder), wanted)
    return wanted if number is None else number


def _judge(what: str, answer: Any, success: dict[str, Any] | None) -> None:
    if success is None:
        verdict = next((name for name in _VERDICTS if hasattr(answer, name)), None)
        if verdict is None or getattr(answer, verdict):
            return
        texts = [getattr(answer, name) for name in _TEXTS if getattr(answer, name, "")]
        raise DeviceFault(what, got=f"no: {texts[0] if texts else described(answer)}",
                          expected=verdict)  # fmt: skip
    for path, wanted in success.items():
        try:
            value = FieldPath(path).get(answer)
        except (AttributeError, IndexError) as error:
            raise DeviceFault(
                what, got=f"an answer without {path!r} ({described(answer)})", expected=path
            ) from error
        if value != _known(answer, path, wanted):
            raise DeviceFault(
                what, got=f"{path} = {value!r} ({described(answer)})", expected=f"{wanted!r}"
            )
