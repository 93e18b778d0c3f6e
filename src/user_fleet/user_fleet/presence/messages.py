"""What hosts and scheduler tell each other, as JSON, and under which keys.

A host writes below its own name only, and the scheduler below its own: so the access rules of a network
(``user net``) keep everybody from speaking for another. What still does not fit its key is refused by whoever
reads it.

========================================  ==========================================================
``HOST/fleet/alive/LIFE``                 liveliness token: the agent is there, in this life (a hint)
``HOST/fleet/heartbeat``                  :class:`Heartbeat`, twice a second
``HOST/fleet/report``                     asked for: the :class:`~user_fleet.resources.model.HostReport`
``HOST/fleet/log``                        asked for: a :class:`LogPart` of what was started for a grant
``SCHEDULER/fleet/assignments/HOST``      :class:`Assignment`, when it changes and every two seconds
========================================  ==========================================================
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from user_core.config import Config, from_mapping, setting, to_mapping
from user_core.errors import CodecError, ConfigError
from user_fleet.resources.model import parse_json, to_json
from user_fleet.scheduling.experiment import Run

MAX_MESSAGE_BYTES = 2**16
#: Most of a log in one part; as JSON it may take six times as much.
LOG_PART_BYTES = 2**15
_MOST = 256
M = TypeVar("M", bound="Message")


def alive_key(host: str, life: str) -> str:
    """Key of the token of an agent."""
    return f"{host}/fleet/alive/{life}"


def heartbeat_key(host: str) -> str:
    """Key of the heartbeats of a host; ``*``: of all."""
    return f"{host}/fleet/heartbeat"


def report_key(host: str) -> str:
    """Key under which the report of a host is asked for."""
    return f"{host}/fleet/report"


def log_key(host: str) -> str:
    """Key under which the output of what was started for a grant is asked for."""
    return f"{host}/fleet/log"


def assignment_key(scheduler: str, host: str) -> str:
    """Key of what a scheduler tells a host."""
    return f"{scheduler}/fleet/assignments/{host}"


class Message(Config):
    """What travels as JSON."""

    most_bytes: ClassVar[int] = MAX_MESSAGE_BYTES

    def to_json(self) -> bytes:
        """As it travels."""
        return to_json(to_mapping(self))

    @classmethod
    def from_json(cls: type[M], data: bytes) -> M:
        """Read one that came from elsewhere. Raises CodecError."""
        what = cls.__name__.lower()
        found = parse_json(data, cls.most_bytes, what)
        try:
            return from_mapping(cls, found)
        except ConfigError as error:
            raise CodecError(f"{what}: {error}") from error


class Failure(Config):
    """What a grant was for has failed."""

    fencing: int = setting(doc="Number of the grant.", ge=1)
    text: str = setting("", doc="How, for people.", max_length=500)


class Heartbeat(Message):
    """An agent is there, and what has ended since."""

    host: str = setting(doc="Name of the host.", min_length=1, max_length=128)
    life: str = setting(doc="Identity of this life of the agent.", min_length=8, max_length=64)
    sequence: int = setting(doc="Counts the heartbeats of this life.", ge=1)
    wall_ns: int = setting(doc="Clock of the host.", unit="ns", ge=0)
    report: int = setting(0, doc="Number of its newest report; 0: none yet.", ge=0)
    epoch: int = setting(0, doc="Token of the scheduler that it obeys.", ge=0)
    assignment: int = setting(0, doc="Number of the assignment that it carries out.", ge=0)
    given_back: tuple[int, ...] = setting(
        (), doc="Grants whose use has ended; said until they are gone from the assignment.",
        max_length=_MOST,
    )  # fmt: skip
    done: tuple[int, ...] = setting(
        (), doc="Grants whose use is over, by itself and well; said as long.", max_length=_MOST
    )
    failed: tuple[Failure, ...] = setting(
        (), doc="Grants whose use has failed; said as long.", max_length=_MOST
    )


class Granted(Config):
    """A grant, as the host is told."""

    fencing: int = setting(doc="Its number.", ge=1)
    resource: str = setting(doc="Id of the resource.", min_length=5, max_length=288)
    experiment: str = setting(doc="Who has it.", min_length=1, max_length=64)
    role: str = setting(doc="For which role.", min_length=1, max_length=64)
    yields: bool = setting(False, doc="To be given back at the end of the episode.")
    run: Run | None = setting(None, doc="What to start for it.")
    peers: dict[str, str] = setting(
        factory=dict, doc="Of what the run asks of other roles, what is known: learner.address."
    )


class Assignment(Message):
    """All that a host is to do, by the scheduler that has written last."""

    host: str = setting(doc="Name of the host.", min_length=1, max_length=128)
    life: str = setting(
        doc="Which of the agents that use this name; no other obeys.", min_length=8, max_length=64
    )
    epoch: int = setting(doc="Token of the scheduler; an older one is not obeyed.", ge=1)
    sequence: int = setting(doc="Counts the changes that this scheduler made.", ge=1)
    grants: tuple[Granted, ...] = setting((), doc="Grants in force.", max_length=_MOST)


class LogPart(Message):
    """A part of what was printed by what was started for a grant."""

    most_bytes: ClassVar[int] = 8 * LOG_PART_BYTES

    fencing: int = setting(doc="Number of the grant.", ge=1)
    offset: int = setting(0, doc="Where the part begins.", unit="B", ge=0)
    size: int = setting(0, doc="How much there is in all.", unit="B", ge=0)
    end: int = setting(0, doc="Where the part ends.", unit="B", ge=0)
    text: str = setting("", doc="The part.")
