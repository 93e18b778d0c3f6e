"""Opening a Zenoh session: who listens, who connects, and patience while nobody is there."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any, Literal

import zenoh

from user_core.config import Config, setting
from user_core.errors import TransportError


@dataclass(frozen=True)
class ZenohConfig(Config):
    """One end of a Zenoh link."""

    mode: Literal["client", "router", "peer"] = setting(
        "client", doc="Robots are clients. The learner is a router, so that clients reach it."
    )
    connect: tuple[str, ...] = setting(
        (), doc="Endpoints to connect to, for instance tcp/127.0.0.1:7447."
    )
    listen: tuple[str, ...] = setting((), doc="Endpoints to listen on.")
    shared_memory: bool = setting(True, doc="Use shared memory between processes of one host.")

    def to_zenoh(self) -> zenoh.Config:
        """The configuration as Zenoh takes it.

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
            "transport/link/tx/lease": 3000,
            "transport/shared_memory/enabled": self.shared_memory,
        }
        if self.connect:
            retry = {"period_init_ms": 100, "period_max_ms": 500, "period_increase_factor": 1.5}
            options["connect/retry"] = retry
        config: zenoh.Config = zenoh.Config()
        for key, value in options.items():
            config.insert_json5(key, json.dumps(value))
        return config


def open_session(
    config: ZenohConfig, stop: threading.Event | None = None, retry_s: float = 0.5
) -> zenoh.Session:
    """Open a session. A client whose router is not there yet tries again until ``stop`` is set.

    Raises:
        TransportError: A router or peer cannot listen on its endpoints; or ``stop`` was set.
    """
    while True:
        try:
            return zenoh.open(config.to_zenoh())
        except zenoh.ZError as error:
            reason = str(error).partition(" at ")[0]
            if config.mode != "client" or stop is None:
                raise TransportError(
                    "cannot open a Zenoh session",
                    came=reason,
                    expected=f"to listen on {list(config.listen)}, connect to {list(config.connect)}",
                    cure="Is the endpoint free, and its host known?",
                ) from error
            if stop.wait(retry_s):
                raise TransportError(
                    f"gave up connecting to {list(config.connect)}", came=reason
                ) from error
