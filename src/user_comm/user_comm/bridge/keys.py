"""Keys of topics, and the liveliness tokens of bridges, as zenoh-bridge-ros2dds has them.

The key of a topic is its name without the first slash. Who publishes it to Zenoh shows a
liveliness token ``@/<id>/@ros2_lv/MP/<key>/<type>/<qos>`` (``MS`` for who subscribes), with §
for each slash. The quality of service is ``<K if keyed>:<reliability>:<durability>:
<history>,<depth>[:<user data>]``, in Cyclone DDS's numbers. A stock bridge makes a route when it
sees one. (Format as in its ``liveliness_mgt.rs``.)

Ours say more, for each other: ``@/<id>/@user_bridge/<graph>/<topic>`` for each topic that is
carried out of a ROS graph.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import zenoh

from user_comm.topics import Durability, Quality, Reliability

#: All tokens of ours in one graph: ``GRAPH.format(graph=...)``.
GRAPH = "@/*/@user_bridge/{graph}/*"
_SLASH = "§"
_RELIABLE, _BEST_EFFORT = 1, 0
_TRANSIENT_LOCAL, _VOLATILE = 1, 0
_KEEP_LAST = 0


def key_of(topic: str) -> str:
    """The key of an absolute topic name."""
    return topic.lstrip("/")


def keys_meet(one: str, other: str) -> bool:
    """Whether some key fits both key expressions."""
    return bool(zenoh.KeyExpr(one).intersects(zenoh.KeyExpr(other)))


def bridge_token(zid: str) -> str:
    """The token that says that there is a bridge."""
    return f"@/{zid}/@ros2_lv"


def route_token(
    zid: str, publishes: bool, key: str, type_name: str, quality: Quality, type_hash: str = ""
) -> str:
    """The token of a route.

    Args:
        zid: Zenoh's id of the session.
        publishes: Whether the bridge publishes to Zenoh (or subscribes).
        key: The route's key.
        type_name: ``package/msg/Name``.
        quality: As in the ROS graph.
        type_hash: ``RIHS01_...``, where ROS knows it.
    """
    kind = "MP" if publishes else "MS"
    return f"@/{zid}/@ros2_lv/{kind}/{_escape(key)}/{_escape(type_name)}/{_qos(quality, type_hash)}"


def graph_token(zid: str, graph: str, topic: str) -> str:
    """The token that says that a topic is carried out of a ROS graph."""
    return f"@/{zid}/@user_bridge/{graph}/{_escape(topic)}"


def topic_of_graph_token(token: str) -> str:
    """The topic in a token of :func:`graph_token`."""
    return token.rpartition("/")[2].replace(_SLASH, "/")


def local_graph(domain: int) -> str:
    """A name for the ROS graph that this process sees: the host, its network, and the domain.

    It cannot be guessed from elsewhere, so that nothing there can write for this graph.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [
        boot.read_text(encoding="ascii") if boot.exists() else os.uname().nodename,
        str(domain),
        os.environ.get("RMW_IMPLEMENTATION", ""),
    ]
    if os.path.exists("/proc/self/ns/net"):
        parts.append(os.readlink("/proc/self/ns/net"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _escape(text: str) -> str:
    return text.replace("/", _SLASH)


def _qos(quality: Quality, type_hash: str) -> str:
    reliable = quality.reliability is Reliability.RELIABLE
    latched = quality.durability is Durability.TRANSIENT_LOCAL
    numbers = (
        f":{_RELIABLE if reliable else _BEST_EFFORT}"
        f":{_TRANSIENT_LOCAL if latched else _VOLATILE}"
        f":{_KEEP_LAST},{quality.depth}"
    )
    return numbers + (f":typehash={type_hash};" if type_hash else "")
