"""Processes of other hosts that train with a learner: how they are asked for, and what is heard of them.

The first host keeps a ``torch.distributed.TCPStore``. Every other host runs ``learner_ranks``
(:mod:`user_learner.ranks.beside`), which says there who it is and with how many processes, is told which of all
these are, and starts them. It gives a sign of life each second, and says why one of them ended. What is said there
is not encrypted, and whoever reaches the port may join: a network of one's own is needed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil

from user_core.errors import ConfigError, RankFailed, RankLost, SuiteError, codes_that_may_pass
from user_learner.ranks.meeting import MEET_S, software, what_differs

_log = logging.getLogger(__name__)
#: Time between two signs of life, and how long none may come.
BEAT_S, SILENT_S = 1.0, 15.0
#: Keys in the store: who is expected; of a host, by its name; of a rank, by its number.
EXPECTED, COME, REFUSED, PLACE, BEAT = "hosts", "host/", "refused/", "place/", "beat/"
ENDED = "ended/"
_PORT = 29500
#: By which interface gloo and NCCL go, where nobody says it.
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def address_of(meeting: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; raises ConfigError."""
    host, _, port = meeting.rpartition(":")
    host, port = (host, port) if host else (port, str(_PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(
            "meeting", got=meeting or "nothing",
            expected="HOST:PORT, under which the other hosts reach the learner's",
        )  # fmt: skip
    return host.strip("[]"), int(port)


def require_own_address(host: str) -> None:
    """Raise ConfigError unless this is a name or address of this host: the learner waited two minutes for itself."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            "meeting", got=f"{host}: {error.strerror or error}", expected="a name or address of the learner's host",
        ) from error  # fmt: skip
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(address)
            return
    own = sorted(
        one.address
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    )
    raise ConfigError(
        "meeting", got=host, expected=f"an address of the learner's host, here {', '.join(own) or 'localhost'}",
        hint="The learner keeps the place where all meet; the other hosts come to it",
    )  # fmt: skip


def use_interface_to(host: str, own: bool) -> None:
    """Let gloo and NCCL meet by the interface that leads to a host, not by what this one's name stands for.

    Args:
        host: The first one.
        own: Whether that is this one.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)[0]
    mine = str(address[0])
    if not own:
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            mine = str(probe.getsockname()[0])
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == mine for one in addresses):
            for variable in _INTERFACES:
                os.environ.setdefault(variable, name)


@dataclass(frozen=True)
class OtherHosts:
    """The hosts that have come.

    Attributes:
        first: The lowest rank of each, by its name.
        count: How many processes each has.
    """

    first: Mapping[str, int]
    count: Mapping[str, int]

    @property
    def ranks(self) -> Mapping[int, str]:
        """Name of the host of each rank that is elsewhere."""
        return {
            rank: name
            for name, first in self.first.items()
            for rank in range(first, first + self.count[name])
        }

    @classmethod
    def admit(cls, store: Any, names: Sequence[str], here: int) -> OtherHosts:
        """Wait for all hosts, and tell each which ranks its processes are.

        Args:
            store: That of the first host.
            names: Who is expected.
            here: Processes of the first host.

        Raises:
            RankLost: One has not come.
            ConfigError: One has other software; it is told so, too.
        """
        store.set(EXPECTED, json.dumps(list(names)))
        first, count, number = dict[str, int](), dict[str, int](), here
        for name in names:
            _log.info(
                "waiting for host %s, where `user up learner_ranks` starts its processes", name
            )
            try:
                store.wait([COME + name], timedelta(seconds=MEET_S))
            except RuntimeError as error:
                raise RankLost(
                    f"host {name} of the learner", got=f"nothing of it within {MEET_S:g} s",
                    expected="that it comes", hint="`user up learner_ranks` there starts its processes",
                ) from error  # fmt: skip
            said = json.loads(store.get(COME + name))
            if differing := what_differs(said["software"], software()):
                other = ConfigError(
                    f"software of host {name}", got=differing[0], expected=differing[1],
                    hint="Install the same on all hosts",
                )  # fmt: skip
                store.set(REFUSED + name, str(other))
                raise other
            first[name], count[name] = number, int(said["ranks"])
            number += count[name]
        for name in names:
            store.set(PLACE + name, json.dumps({"first": first[name], "world": number}))
        return cls(first, count)


class Listening:
    """What is heard of other hosts while all train.

    Args:
        store: A connection of its own to that of the first host.
        hosts: Who has come.
    """

    def __init__(self, store: Any, hosts: OtherHosts) -> None:
        self._store, self._hosts = store, hosts
        now_s = time.monotonic()
        self._heard = dict.fromkeys(hosts.first, (b"", now_s))
        self._next_s = now_s

    def look(self) -> SuiteError | None:
        """Why nothing will come of this training any more, if so. Looks at most twice a second."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + BEAT_S / 2
        for rank, name in self._hosts.ranks.items():
            if self._store.check([f"{ENDED}{rank}"]):
                said = json.loads(self._store.get(f"{ENDED}{rank}"))
                kind = (
                    RankLost
                    if said["lost"] or said["code"] in codes_that_may_pass()
                    else RankFailed
                )
                return kind(f"rank {rank}, on {name}: {said['text']}")
        for name, (beat, heard_s) in self._heard.items():
            new = self._store.get(BEAT + name) if self._store.check([BEAT + name]) else b""
            if new != beat:
                self._heard[name] = (new, now_s)
            elif now_s - heard_s > SILENT_S:
                return RankLost(
                    f"host {name} of the learner", got=f"no sign of life for {SILENT_S:g} s",
                    expected=f"one each {BEAT_S:g} s",
                )  # fmt: skip
        return None
