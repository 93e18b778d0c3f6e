"""The error tree: every error says what failed, what came, what was expected and what to do.

``code`` is stable and travels: it is the key of a refusal counter, the ``name`` of a
diagnostic, and the ``error_code`` in service answers, so that a person or a program can
act on the kind of an error without reading its text.
"""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Base of all errors that USER raises on purpose.

    Args:
        what: What failed, named precisely (which key, which joint, which file).
        came: What was found instead of what was needed.
        expected: What would have been right.
        cure: What the reader can do about it.
    """

    code: ClassVar[str] = "user"

    def __init__(
        self, what: str, *, came: object = None, expected: object = None, cure: str = ""
    ) -> None:
        self.what, self.came, self.expected, self.cure = what, came, expected, cure
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        if self.came is not None:
            text += f": got {self.came}"
        if self.expected is not None:
            text += f"{',' if self.came is not None else ':'} expected {self.expected}"
        if self.cure:
            text += f". {self.cure}"
        return text


class ConfigError(UserError, ValueError):
    """A configuration value is unknown, of the wrong type, or out of range."""

    code = "config"


class SpecError(UserError, ValueError):
    """An array, observation or action does not fit its spec."""

    code = "spec"


class PluginError(UserError):
    """A plugin is not there, cannot be imported, or breaks its contract."""

    code = "plugin"


class CodecError(UserError, ValueError):
    """A message or file was refused while decoding; nothing was allocated for it."""

    code = "codec"


class DeviceError(UserError):
    """A robot, camera or teleoperation device failed."""

    code = "device"


class DeviceNotConnected(DeviceError):
    """The device was used before ``connect`` or after ``close``, or went away."""

    code = "device_not_connected"


class DeviceTimeout(DeviceError):
    """The device did not answer, or its data stopped coming, within its time limit."""

    code = "device_timeout"


class DeviceFault(DeviceError):
    """The device answered, and said that it cannot go on (a fault, a bad reading)."""

    code = "device_fault"


class SafetyError(UserError):
    """The safety gate refused a command; the robot is held or stopped."""

    code = "safety"


class LeaseError(UserError):
    """A command or request came from somebody who does not hold the newest lease."""

    code = "lease"


class StoreError(UserError):
    """The outbox or the replay store cannot do what was asked."""

    code = "store"


class SchemaMismatch(StoreError):
    """Data of another schema came to the door; the message spells out the difference."""

    code = "schema_mismatch"


class StoreCorrupt(StoreError):
    """Stored bytes do not match their checksum or index; they were set aside."""

    code = "store_corrupt"


class StoreFull(StoreError):
    """A disk or its quota is full; nothing was dropped, and collection must pause."""

    code = "store_full"


class PolicyError(UserError):
    """A policy version was refused (wrong hash, foreign configuration, missing base)."""

    code = "policy"


class TransportError(UserError):
    """A link, session or topic could not be used."""

    code = "transport"
