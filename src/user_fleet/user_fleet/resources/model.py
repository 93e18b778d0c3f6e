"""What a fleet is made of: resources, and the report of one host about those that it has.

A report travels as JSON. What comes over the wire is checked before it is believed: its size before it
is parsed, then every key, count and length, and that each resource belongs to the host that
reports it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from user_core.config import Config, from_mapping, setting, to_mapping
from user_core.errors import CodecError, ConfigError, SuiteError
from user_core.reasons import NO_REASON, Reason
from user_core.specs import ActionKind, RobotSpec

Kind = Literal["robot", "gpu", "cpu", "camera", "teleop", "host"]
KINDS: tuple[Kind, ...] = ("robot", "gpu", "cpu", "camera", "teleop", "host")
#: ``ready``: can be used now. ``busy``: somebody outside of the fleet uses it. ``incomplete``:
#: offered, but something is missing for it. ``faulty``: it failed. ``absent``: it was there, and
#: is not now.
Health = Literal["ready", "busy", "incomplete", "faulty", "absent"]
#: Largest report of a host.
MAX_REPORT_BYTES = 2**20
MAX_RESOURCES = 256
_DEEPEST = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")
_GIB = 2**30


class Resource(Config):
    """One thing that can be had: a robot, a GPU, a camera.

    ``id`` is ``HOST/KIND/NAME`` and stays the same while the thing does, also over restarts and
    when it is plugged in elsewhere on the same host, as far as the device can be told from others.
    """

    id: str = setting(doc="HOST/KIND/NAME.", min_length=5, max_length=288)
    kind: Kind = setting(doc="What sort of thing it is.")
    model: str = setting("", doc="Make or type, for people and for requirements.", max_length=256)
    serial: str = setting("", doc="Serial number, where the device tells it.", max_length=128)
    site: str = setting("", doc="Place; data of a robot is made there.", max_length=64)
    joints: int = setting(0, doc="Degrees of freedom of a robot; 0: unknown.", ge=0, le=1024)
    action_kind: str = setting("", doc="Kind of a robot's actions.", max_length=64)
    spec: dict[str, Any] = setting(
        factory=dict, doc="Action and observation spec of a robot (RobotSpec as plain data)."
    )
    cameras: tuple[str, ...] = setting((), doc="Images among the observations.", max_length=32)
    tags: tuple[str, ...] = setting((), doc="Words that requirements ask for.", max_length=64)
    amounts: dict[str, float] = setting(
        factory=dict, doc="How much there is, by name and SI unit: memory_bytes, cores, ..."
    )
    driver: str = setting("", doc="Plugin that talks to it.", max_length=256)
    params: dict[str, Any] = setting(factory=dict, doc="Parameters of the driver that select it.")
    source: str = setting("", doc="How it was found: a file, a device, a plugin.", max_length=512)
    health: Health = setting("ready", doc="Whether it can be used.")
    reason_code: str = setting("", doc="Why it cannot, for programs.", max_length=64)
    reason: str = setting("", doc="Why it cannot, for people.", max_length=1024)

    def validate(self) -> None:
        parts = self.id.split("/")
        if len(parts) != 3 or parts[1] != self.kind or not all(map(_NAME.fullmatch, parts)):
            raise ConfigError("id", got=repr(self.id), expected=f"HOST/{self.kind}/NAME")
        for name, value in self.amounts.items():
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"amounts.{name}", got=value, expected="a finite number >= 0")
        if any(len(word) > 64 for word in (*self.tags, *self.cameras, *self.amounts)):
            raise ConfigError("tags, cameras, amounts", expected="words of at most 64 characters")
        if bool(self.reason) != (self.health != "ready"):
            raise ConfigError(
                "reason",
                got=repr(self.reason),
                expected=f"one exactly when not ready: {self.health}",
            )

    @property
    def host(self) -> str:
        """The host that has it."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """Its name among those of its kind on its host."""
        return self.id.rpartition("/")[2]

    @property
    def memory_gb(self) -> float:
        """All its memory, GiB; 0 where it has none."""
        return self.amounts.get("memory_bytes", 0.0) / _GIB

    def because(self) -> Reason:
        """Why it is not ready; false when it is."""
        return Reason(self.reason_code, self.reason) if self.reason else NO_REASON

    def unwell(self, health: Health, reason: Reason) -> Resource:
        """The same, not ready for a reason."""
        text = reason.text[:1024] or reason.code
        return self.replace(health=health, reason_code=reason.code[:64], reason=text)

    def with_spec(self, spec: RobotSpec) -> Resource:
        """The same with what the spec of a robot says."""
        images = tuple(name[:64] for name, item in spec.observation.items() if len(item.shape) == 3)
        return self.replace(
            joints=joints_of(spec),
            action_kind=str(spec.action_kind.value),
            cameras=images[:32],
            spec=spec.to_dict(),
        )


class Problem(Config):
    """Something that could not be looked at, or was found and is wrong; nothing else suffers."""

    what: str = setting(doc="Driver, file or device that it is about.", max_length=512)
    code: str = setting(doc="For programs.", max_length=64)
    text: str = setting(doc="For people.", max_length=2048)

    @classmethod
    def of(cls, what: str, reason: Reason | SuiteError) -> Problem:
        """From an error or a reason."""
        found = Reason.of(reason) if isinstance(reason, SuiteError) else reason
        return cls(what=what[:512], code=found.code[:64], text=found.text[:2048])


class HostReport(Config):
    """What a host has at one moment, said by its agent."""

    host: str = setting(doc="Name of the host; unique in the fleet.", min_length=1, max_length=128)
    site: str = setting("", doc="Place of the host.", max_length=64)
    life: str = setting(
        "", doc="Identity of this life of the agent; another one after each start.", max_length=64
    )
    address: str = setting(
        "", doc="Where other hosts reach it; empty: nobody knows.", max_length=253
    )
    version: str = setting("", doc="Version of the software of the host.", max_length=64)
    wall_ns: int = setting(0, doc="Clock of the host when this was said.", unit="ns", ge=0)
    sequence: int = setting(0, doc="Counts the reports of this life.", ge=0)
    resources: tuple[Resource, ...] = setting((), doc="What it has.", max_length=MAX_RESOURCES)
    problems: tuple[Problem, ...] = setting((), doc="What was wrong.", max_length=MAX_RESOURCES)

    def validate(self) -> None:
        if not _NAME.fullmatch(self.host):
            raise ConfigError("host", got=repr(self.host), expected="letters, digits, _ . : @ -")
        foreign = [item.id for item in self.resources if item.host != self.host]
        if foreign:
            raise ConfigError(
                "resources", got=f"{foreign[0]!r}", expected=f"those of host {self.host!r} only"
            )
        elsewhere = [item.id for item in self.resources if item.site != self.site]
        if elsewhere:
            raise ConfigError(
                "resources", got=f"{elsewhere[0]!r} at another site", expected=f"{self.site!r}"
            )
        ids = Counter(item.id for item in self.resources)
        if twice := [name for name, count in ids.items() if count > 1]:
            raise ConfigError("resources", got=f"{twice[0]!r} twice", expected="each id once")

    def to_json(self) -> bytes:
        """As it travels. Raises CodecError where it is too large."""
        data = to_json(to_mapping(self))
        if len(data) > MAX_REPORT_BYTES:
            raise CodecError(
                f"report of host {self.host!r}",
                got=f"{len(data)} bytes",
                expected=f"at most {MAX_REPORT_BYTES}",
                hint="Choose fewer drivers to look with, or tags and robot files for fewer robots",
            )
        return data

    @classmethod
    def from_json(cls, data: bytes) -> HostReport:
        """Read one that came from elsewhere.

        Raises:
            CodecError: It is too large, no JSON, or not what a report is.
        """
        found = parse_json(data, MAX_REPORT_BYTES, "report of a host")
        try:
            return from_mapping(cls, found)
        except ConfigError as error:
            raise CodecError(f"report of a host: {error}") from error


def joints_of(spec: RobotSpec) -> int:
    """Degrees of freedom: measured joints; else the joints that are commanded; else 0, unknown.

    A robot of several groups shows ``GROUP.joint_position`` for each; grippers do not count.
    """
    measured = [
        item.size
        for name, item in spec.observation.items()
        if name == "joint_position" or name.endswith(".joint_position")
    ]
    if measured:
        return sum(measured)
    if spec.action_kind in (
        ActionKind.JOINT_DELTA,
        ActionKind.JOINT_POSITION,
        ActionKind.JOINT_VELOCITY,
    ):
        return int(spec.action.size) - len(spec.grippers)
    return 0


def clean_name(text: str, otherwise: str = "unnamed") -> str:
    """A text as a part of an id: letters, digits and ``_ . : @ -``."""
    cleaned = re.sub(r"[^A-Za-z0-9_.:@-]+", "_", text).strip("_.:@-")
    return cleaned[:128] or otherwise


def uniquely_named(resources: Iterable[Resource]) -> list[Resource]:
    """The same, where several have one id with a number behind each but the first."""
    used: set[str] = set()
    found = []
    for item in resources:
        new, number = item.id, 2
        while new in used:
            new = f"{item.host}/{item.kind}/{item.name[:120]}_{number}"
            number += 1
        used.add(new)
        found.append(item if new == item.id else item.replace(id=new))
    return found


def to_json(data: Any) -> bytes:
    """Plain data as compact JSON; numbers that are not finite are refused."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()


def parse_json(data: bytes, limit: int, what: str) -> Mapping[str, Any]:
    """A mapping from JSON that somebody else wrote.

    Raises:
        CodecError: It is larger than ``limit``, no JSON, nested too deep, has a key twice or a
            number that is not finite, or is no mapping.
    """
    if len(data) > limit:
        raise CodecError(what, got=f"{len(data)} bytes", expected=f"at most {limit}")
    try:
        found = json.loads(data, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        text = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise CodecError(what, got=text[:200], expected="JSON") from error
    if not isinstance(found, dict):
        raise CodecError(what, got=type(found).__name__, expected="a mapping")
    if _deeper(found, _DEEPEST):
        raise CodecError(what, got="nested too deep", expected=f"at most {_DEEPEST} levels")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _deeper(data: Any, levels: int) -> bool:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return any(levels == 0 or _deeper(item, levels - 1) for item in inner)
