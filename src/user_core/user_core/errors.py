"""The error tree: every error says what failed, what was got, what was expected and what to do.

``code`` is stable and travels: it is the key of a refusal counter, the ``name`` of a
diagnostic, and the ``error_code`` in service answers, so that a person or a program can
act on the kind of an error without reading its text.
"""

from __future__ import annotations

import threading
from typing import ClassVar


class SuiteError(Exception):
    """Base of all errors that USER raises on purpose.

    ``may_pass`` says whether the same attempt may go well later, because something outside
    changes (a cable, a disk, a peer). What cannot pass is not tried for ever.

    Args:
        what: What failed, named precisely (which key, which joint, which file).
        got: What was found instead of what was needed.
        expected: What would have been right.
        hint: What the reader can do about it.
    """

    code: ClassVar[str] = "error"
    may_pass: ClassVar[bool] = False

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, hint: str = ""
    ) -> None:
        self.what, self.got, self.expected, self.hint = what, got, expected, hint
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        if self.got is not None:
            text += f": got {self.got}"
        if self.expected is not None:
            text += f"{',' if self.got is not None else ':'} expected {self.expected}"
        if self.hint:
            text += f"{'' if text.endswith(('?', '.')) else '.'} {self.hint}"
        return text


class ConfigError(SuiteError, ValueError):
    """A configuration value is unknown, of the wrong type, or out of range.

    Attributes:
        key: Where it stands in its document: names of keys and numbers of elements.
    """

    code = "config"
    key: tuple[str | int, ...] = ()


class SpecError(SuiteError, ValueError):
    """An array, observation or action does not fit its spec."""

    code = "spec"


class PluginError(SuiteError):
    """A plugin is not there, cannot be imported, or breaks its contract."""

    code = "plugin"


class CodecError(SuiteError, ValueError):
    """A message or file was refused while decoding; nothing was allocated for it."""

    code = "codec"


class DeviceError(SuiteError):
    """A robot, camera or teleoperation device failed."""

    code = "device"
    may_pass = True


class DeviceNotConnected(DeviceError):
    """The device was used before ``connect`` or after ``close``, or went away."""

    code = "device_not_connected"


class DeviceInUse(DeviceError):
    """Another process on this host drives the device."""

    code = "device_in_use"


class DeviceTimeout(DeviceError):
    """The device did not answer, or its data stopped coming, within its time limit."""

    code = "device_timeout"


class DeviceFault(DeviceError):
    """The device answered, and said that it cannot go on (a fault, a bad reading)."""

    code = "device_fault"


class PluginFault(DeviceFault):
    """Code of a plugin did what no device does: raised SystemExit, a TypeError, and their like."""

    code = "plugin_fault"
    may_pass = False


class ImplausibleReading(DeviceFault):
    """A reading that the device cannot have measured: no joint moves so far in the time."""

    code = "implausible_reading"


class SafetyError(SuiteError):
    """The safety gate refused a command; the robot is held or stopped."""

    code = "safety"
    may_pass = True


class LeaseError(SuiteError):
    """A command or request came from somebody who does not hold the newest lease."""

    code = "lease"
    may_pass = True


class OldGrant(LeaseError):
    """A command or request came under a grant of the fleet's scheduler that is over."""

    code = "old_grant"


class StoreError(SuiteError):
    """The outbox or the replay store cannot do what was asked."""

    code = "store"
    may_pass = True


class SchemaMismatch(StoreError):
    """Data of another schema was refused; the message spells out the difference."""

    code = "schema_mismatch"
    may_pass = False


class StoreCorrupt(StoreError):
    """Stored bytes do not match their checksum or index; they were set aside."""

    code = "store_corrupt"
    may_pass = False


class StoreFull(StoreError):
    """A disk or its quota is full; nothing was dropped, and collection must pause."""

    code = "store_full"


class PolicyError(SuiteError):
    """A policy version was refused (wrong hash, foreign configuration, missing base)."""

    code = "policy"


class TransportError(SuiteError):
    """A link, session or topic could not be used."""

    code = "transport"
    may_pass = True


class RankLost(TransportError):
    """A process that trains with others was killed, or is not reached; all of them begin again."""

    code = "rank_lost"


class RankFailed(SuiteError):
    """A process that trains with others ended by a fault of its own; all of them begin again."""

    code = "rank_failed"


class EngineError(SuiteError):
    """An engine that runs jobs refuses one, or what it needs is not here."""

    code = "engine"


class EngineSilent(EngineError):
    """An engine that runs jobs cannot be reached."""

    code = "engine_silent"
    may_pass = True


class ThreadEnded(SuiteError):
    """A thread that a node needs ended by an error that nothing in it expected; the node begins anew."""

    code = "thread_ended"


class StopAsked(SystemExit):
    """A signal asks this process to end: raised by our signal handlers, in the main thread."""


def is_of_a_person(error: BaseException) -> bool:
    """Whether an exception is the wish of a person (Ctrl-C, SIGTERM) that this process ends.

    All others that are no ``Exception``, for instance SystemExit in a plugin, are faults of the
    code that raised them.
    """
    if isinstance(error, StopAsked):
        return True
    is_main = threading.current_thread() is threading.main_thread()
    return isinstance(error, KeyboardInterrupt) and is_main


def in_words(error: BaseException, limit: int = 2000) -> str:
    """Kind and text of whatever somebody else's code raised, in one line of at most about ``limit`` letters.

    Such an error may have no text, megabytes of it, letters that no message can carry, or raise another
    error while it is asked for its text.
    """
    kind = type(error).__name__
    try:
        text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    except BaseException as another:  # whatever it raises: it says nothing
        text = f"an error whose text cannot be had: its __str__ raised {type(another).__name__}"
    if len(text) > limit:
        text = f"{text[: limit * 3 // 4]} ... {text[-limit // 4 :]}"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{kind}: {text}" if text else kind


def codes_that_may_pass() -> frozenset[str]:
    """Codes of the errors of our tree that may go well later."""
    found, waiting = set(), [SuiteError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.may_pass:
            found.add(kind.code)
    return frozenset(found)


def may_pass(error: BaseException) -> bool:
    """Whether what failed by this error may go well later without anybody mending anything."""
    return error.may_pass if isinstance(error, SuiteError) else isinstance(error, OSError)
