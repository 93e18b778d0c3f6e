"""Zenoh sessions: who connects to whom, with which credentials, and how often it is tried."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zenoh

from user_core.config import Config, setting
from user_core.errors import ConfigError, TransportError

AUTHORITY = "ca.pem"
CERTIFICATE = "certificate.pem"
KEY = "key.pem"


@dataclass(frozen=True)
class Credentials:
    """The files that ``user net`` makes for one robot, learner or router.

    Attributes:
        folder: Where they are.
    """

    folder: Path

    @property
    def authority(self) -> Path:
        """Certificate of the authority that signs everybody's."""
        return self.folder / AUTHORITY

    @property
    def certificate(self) -> Path:
        """Own certificate."""
        return self.folder / CERTIFICATE

    @property
    def key(self) -> Path:
        """Own private key."""
        return self.folder / KEY

    def check(self) -> Credentials:
        """Itself, if its files are there. Raises ConfigError."""
        missing = [f.name for f in (self.authority, self.certificate, self.key) if not f.is_file()]
        if missing:
            raise ConfigError(
                f"credentials in {str(self.folder)!r}",
                got=f"no {', '.join(missing)}",
                expected=f"{AUTHORITY}, {CERTIFICATE} and {KEY}",
                hint="Make them with `user net add-robot` (or add-learner) and copy the folder here",
            )
        return self

    def to_zenoh(self) -> dict[str, object]:
        """As Zenoh's ``transport/link/tls``: both ends show a certificate and check the other's."""
        return {
            "root_ca_certificate": str(self.authority),
            "listen_private_key": str(self.key),
            "listen_certificate": str(self.certificate),
            "connect_private_key": str(self.key),
            "connect_certificate": str(self.certificate),
            "enable_mtls": True,
            "verify_name_on_connect": True,
            "close_link_on_expiration": True,
        }


#: Where routers and learners listen, unless told otherwise. Not 7447, Zenoh's own, where the router of
#: rmw_zenoh (rmw_zenohd) listens. The deployments in user_bringup say the same.
PORT = 7457
LOCAL_ENDPOINT = f"tcp/127.0.0.1:{PORT}"

ENCRYPTED = ("tls/", "quic/")
#: Threads that receive, in a process that others connect to. When a link has been silent for its
#: lease, its socket is closed with what was not sent; that lingers for 10 s, and blocks one of these
#: threads (eclipse-zenoh 1.10.2, of its two): everybody else's messages waited so long.
_RECEIVING_THREADS = 32
_MOST_OF_A_COMMAND = 200
_RETRY = {"period_init_ms": 100, "period_max_ms": 500, "period_increase_factor": 1.5}


class ZenohConfig(Config):
    """One end of a Zenoh link."""

    mode: Literal["client", "router", "peer"] = setting(
        "client", doc="Robots are clients. The learner is a router, so that clients reach it."
    )
    connect: tuple[str, ...] = setting(
        (),
        doc="Endpoints to connect to, for instance tcp/127.0.0.1:7457 or, across networks, "
        "tls/learner.example.org:7457.",
    )
    listen: tuple[str, ...] = setting((), doc="Endpoints to listen on.")
    credentials: str = setting(
        "",
        doc="Folder with ca.pem, certificate.pem and key.pem, as `user net` makes it; needed by "
        "tls and quic.",
    )
    shared_memory: bool = setting(True, doc="Use shared memory between processes of one host.")
    max_message_bytes: int = setting(
        16 * 2**20, doc="Larger messages are dropped on arrival.", unit="bytes", ge=2**16
    )

    def validate(self) -> None:
        endpoints = (*self.connect, *self.listen)
        if any(e.startswith(ENCRYPTED) for e in endpoints) and not self.credentials:
            raise ConfigError(
                "credentials",
                got="none",
                expected=f"a folder with certificates, for {', '.join(endpoints)}",
                hint="Make one with `user net`",
            )

    def options(self) -> dict[str, Any]:
        """The configuration by Zenoh's own names.

        Nothing is discovered by multicast: a robot reaches what it is told to, and no other.
        The short lease notices a black hole within three seconds.
        """
        options: dict[str, Any] = {
            "mode": self.mode,
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": False,
            "connect/endpoints": list(self.connect),
            "listen/endpoints": list(self.listen),
            "connect/timeout_ms": 2000,
            "transport/unicast/open_timeout": 2000,
            "transport/unicast/accept_timeout": 2000,
            "transport/unicast/max_links": 4,
            "transport/link/tx/lease": 3000,
            "transport/link/tx/queue/size/data_low": 16,  # TCP may stand still for a moment
            "transport/link/rx/max_message_size": self.max_message_bytes,
            "transport/shared_memory/enabled": self.shared_memory,
            "timestamping/enabled": True,  # what is kept for late joiners needs an order
        }
        if self.connect:
            options["connect/retry"] = dict(_RETRY)
        if self.credentials:
            folder = Path(self.credentials).expanduser()
            options["transport/link/tls"] = Credentials(folder).check().to_zenoh()
        return options

    def to_zenoh(self) -> zenoh.Config:
        """The configuration as Zenoh takes it."""
        return to_zenoh(self.options())


def to_zenoh(options: dict[str, Any]) -> zenoh.Config:
    """Options by Zenoh's names (``transport/link/tx/lease``) as its configuration.

    Raises:
        ConfigError: Zenoh does not take one.
    """
    config: zenoh.Config = zenoh.Config()
    for key, value in options.items():
        try:
            config.insert_json5(key, json.dumps(value))
        except zenoh.ZError as error:
            raise ConfigError(f"Zenoh's {key}", got=f"{value!r} ({error})") from error
    return config


def prepare_runtime(listens: bool) -> None:
    """Give Zenoh's runtime of this process the threads that it needs; before its first session."""
    if listens:
        os.environ.setdefault("ZENOH_RUNTIME", f"(rx: (worker_threads: {_RECEIVING_THREADS}))")


def open_session(
    config: ZenohConfig, stop: threading.Event | None = None, retry_s: float = 0.5
) -> zenoh.Session:
    """Open a session. A client whose router is not there yet tries again until ``stop`` is set.

    Raises:
        ConfigError: The configuration is wrong, or credentials are missing.
        TransportError: A router or peer cannot listen on its endpoints; or ``stop`` was set.
    """
    while True:
        options = config.to_zenoh()  # anew: credentials may have come meanwhile
        prepare_runtime(bool(config.listen))
        try:
            return zenoh.open(options)
        except zenoh.ZError as error:
            reason = str(error).partition(" at ")[0]
            if config.mode != "client" or stop is None:
                expected = f"to listen on {list(config.listen)}, connect to {list(config.connect)}"
                raise not_opened(
                    "cannot open a Zenoh session", error, expected, config.listen
                ) from error
            if stop.wait(retry_s):
                raise TransportError(
                    f"gave up connecting to {list(config.connect)}", got=reason
                ) from error


def not_opened(
    what: str, error: zenoh.ZError, expected: str, listen: Iterable[str]
) -> TransportError:
    """The error for a session that could not be opened; names who holds an address in use."""
    reason = str(error).partition(" at ")[0]
    hint = "Is the endpoint free, and its host known?"
    if "in use" in reason:
        held = [text for endpoint in listen if (text := _holder(endpoint))]
        reason = "; ".join(held) or reason
        hint = "End that process, or give another port here and to all who connect to this one"
    return TransportError(what, got=reason, expected=expected, hint=hint)


def _holder(endpoint: str) -> str:
    """Who listens on the port of an endpoint of this machine, in words; empty: nobody."""
    import psutil  # only here: no node should start later for it

    address = endpoint.partition("/")[2].partition("?")[0].partition("#")[0]
    host, _, port = address.rpartition(":")
    try:
        connections = psutil.net_connections("udp" if endpoint.startswith("quic/") else "tcp")
    except (psutil.Error, OSError):  # not allowed to look
        return ""
    everywhere = {"0.0.0.0", "::"}
    mine = {host.strip("[]")}
    for one in connections:
        theirs = one.laddr.ip if one.laddr else ""
        if not one.laddr or str(one.laddr.port) != port or one.status not in ("LISTEN", "NONE"):
            continue
        if "localhost" in mine or theirs in mine or everywhere & (mine | {theirs}):
            return f"{endpoint} is in use by {_process_in_words(one.pid)}"
    return ""


def _process_in_words(pid: int | None) -> str:
    import psutil

    if pid is None:
        return "a process of another user"
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return f"process {pid}"
    return f"process {pid} ({command[:_MOST_OF_A_COMMAND]})"
