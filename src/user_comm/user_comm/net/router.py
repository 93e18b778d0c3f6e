"""A Zenoh router in this process, and what its access control refuses.

One typed configuration, that runs here (eclipse-zenoh has the router in its Python wheel) or
in a stock ``zenohd`` (:func:`json5`).
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import zenoh

from user_comm.logs import Throttle
from user_comm.net.access import access_control
from user_comm.net.network import FILE, Network
from user_comm.net.sessions import LOCAL_ENDPOINT, ZenohConfig
from user_core.config import Config, setting


class RouterConfig(Config):
    """What the router runs with."""

    network: str = setting(
        "",
        doc="Folder of a network that `user net` has made: credentials, members and what they "
        "may do. Empty: no encryption and no access control, for one machine.",
    )
    listen: tuple[str, ...] = setting(
        (), doc="Where it listens; empty: as the network says, or tcp/127.0.0.1:7457."
    )
    connect: tuple[str, ...] = setting((), doc="Other routers, for the router of a site.")
    credentials: str = setting("", doc="Its credentials; empty: those of the network's router.")
    max_message_bytes: int = setting(
        16 * 2**20, doc="Larger messages are dropped on arrival.", unit="bytes", ge=2**16
    )

    def options(self) -> dict[str, Any]:
        """The configuration by Zenoh's own names."""
        network = Network(self.network) if self.network else None
        session = ZenohConfig(
            mode="router",
            listen=self.listen or (LOCAL_ENDPOINT,),
            connect=self.connect,
            credentials=self.credentials,
            shared_memory=False,  # it would hide the network, even from namespaces of one host
            max_message_bytes=self.max_message_bytes,
        )
        if network is not None:
            session = session.replace(
                listen=self.listen or network.members.endpoints,
                credentials=self.credentials or str(network.router.folder),
            )
        options = session.options()
        if network is not None:
            options["access_control"] = access_control(network.members)
        return options


def json5(config: RouterConfig) -> str:
    """The configuration for a stock ``zenohd -c``; plain JSON, which is JSON5 as well."""
    tree: dict[str, Any] = {}
    for path, value in config.options().items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        if isinstance(value, dict) and isinstance(place.get(name), dict):
            place[name].update(value)
        else:
            place[name] = value
    note = f"// Made by `user net` from {FILE}: change that one, not this.\n"
    return note + json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


_FILTER = "error,zenoh::net::routing::interceptor::access_control=trace"
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
#: Zenoh asks itself about all kinds of messages when a key is new; only what it says of a
#: message that has come begins so or is about a key that it has not just thought about.
_REFUSED = re.compile(
    rb"ThreadId\((?P<thread>\d+)\).*?(?P<cached>Using cached result: )?"
    rb"(?P<id>[0-9a-f]{1,32})(?: on \S+)? is unauthorized to (?P<what>[^()]+) \(ingress\) on (?P<key>\S+)"
)
_NAMED = re.compile(rb"\b([0-9a-f]{1,32}) on \S*CertCommonName\(([^)]*)\)")
_THINKS = re.compile(rb"ThreadId\((\d+)\).*?caching permissions for `([^`]+)`")
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_MOST_KEYS = 1000


class RefusalLog:
    """Counts what Zenoh's access control refuses from now on, and names who was refused.

    Zenoh tells only its own log, at the level of single messages. So that log goes through a pipe
    here: refusals are counted by who wanted to do what to which key, the rest is dropped or
    passed on. There is one in a process, made before any session.

    Args:
        say: Gets a line for people, at most one in five seconds for each name and act.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say, self._throttle = say, Throttle()
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._thinking: dict[bytes, bytes] = {}  # thread to key
        self._names: dict[bytes, str] = {}  # Zenoh id to name of the certificate
        out, into = os.pipe()
        _enlarge(into)
        self._real = os.dup(1)
        os.dup2(into, 1)  # Zenoh's log goes to standard output
        os.close(into)
        zenoh.init_log_from_env_or(_FILTER)
        threading.Thread(target=self._read, args=(out,), name="refusals", daemon=True).start()

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How often (who, did what, to which key) was refused."""
        with self._lock:
            return dict(self._counts)

    def _read(self, out: int) -> None:
        rest = b""
        while chunk := os.read(out, _PIPE_BYTES):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                self._take(lines)

    def _take(self, lines: bytes) -> None:
        # Every message of everybody leaves a line: whole blocks without a refusal are passed by.
        if b"unauthorized" not in lines and b"caching" not in lines and b"ERROR" not in lines:
            return
        for line in _COLOURS.sub(b"", lines).split(b"\n"):
            if named := _NAMED.search(line):
                self._names[named[1]] = named[2].decode(errors="replace")
                if len(self._names) > _MOST_KEYS:
                    self._names.pop(next(iter(self._names)))
            if found := _THINKS.search(line):
                self._thinking[found[1]] = found[2]
            elif found := _REFUSED.search(line):
                if found["cached"] or self._thinking.get(found["thread"]) != found["key"]:
                    self._count(found)
            elif b"authorized" not in line and b"access_control" not in line:
                os.write(self._real, line + b"\n")

    def _count(self, found: re.Match[bytes]) -> None:
        who = self._names.get(found["id"], "a stranger")
        entry = (who, found["what"].decode().lower(), found["key"].decode(errors="replace"))
        with self._lock:
            if entry not in self._counts and len(self._counts) >= _MOST_KEYS:
                entry = (who, entry[1], "(others)")
            self._counts[entry] += 1
        if text := self._throttle(entry[:2], f"refused: {who} may not {entry[1]} {entry[2]}"):
            self._say(text)


def _enlarge(pipe: int) -> None:
    try:
        import fcntl

        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, OSError):  # not Linux, or not allowed: the pipe is smaller
        return
