"""A Zenoh router, in this process: what robots connect to.

One typed configuration, that runs here (eclipse-zenoh has the router in its Python wheel) or
in a stock ``zenohd`` (:func:`json5`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from user_comm.links.session import ZenohConfig
from user_comm.net.access import access_control
from user_comm.net.network import FILE, Network
from user_core.config import Config, setting


@dataclass(frozen=True)
class RouterConfig(Config):
    """What the router runs with."""

    network: str = setting(
        "",
        doc="Folder of a network that `user net` has made: credentials, members and what they "
        "may do. Empty: no encryption and no access control, for one machine.",
    )
    listen: tuple[str, ...] = setting(
        (), doc="Where it listens; empty: as the network says, or tcp/127.0.0.1:7447."
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
            listen=self.listen or ("tcp/127.0.0.1:7447",),
            connect=self.connect,
            credentials=self.credentials,
            shared_memory=False,  # it would hide the network, even from namespaces of one host
            max_message_bytes=self.max_message_bytes,
        )
        if network is not None:
            session = replace(
                session,
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
