"""What a bridge carries: the topics that leave a host, and the routes made from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from user_comm import topics
from user_comm.bridge.keys import key_of, keys_meet
from user_comm.net.sessions import LOCAL_ENDPOINT, ZenohConfig
from user_comm.topics import TOPICS, Durability, Quality, Reliability, Topic
from user_core.config import Config, setting
from user_core.errors import ConfigError

MIB = 2**20
#: Zenoh's, most urgent first.
Priority = Literal[
    "real_time", "interactive_high", "interactive_low", "data_high", "data", "data_low",
    "background",
]  # fmt: skip


class Way(str, Enum):
    """Which way a topic crosses."""

    UP = "robot to learner"
    DOWN = "learner to robots"


@dataclass(frozen=True)
class Crossing:
    """How one topic crosses.

    Attributes:
        topic: The topic.
        way: Which way.
        priority: Zenoh's priority, by name.
        waits: Whether a message that the link cannot take now waits for it, instead of being
            dropped; only where one's own link is all that can be slow.
        max_bytes: A larger message is refused.
        max_rate_hz: No more than this many; the newest wins. 0: all.
        merged: On the learner's host the robots' messages come together on one topic.
        shared: One topic of that absolute name for a whole host, not one for each robot.
        addressed: Of what goes down, each robot gets its own.
    """

    topic: Topic
    way: Way
    priority: Priority = "data"
    waits: bool = False
    max_bytes: int = MIB
    max_rate_hz: float = 0.0
    merged: bool = False
    shared: bool = False
    addressed: bool = False


CROSSINGS: tuple[Crossing, ...] = (
    # Bulk. It waits at the robot's end of the link (the outbox sees to it that there is never
    # much), so that what must not wait can pass it on a connection of its own.
    Crossing(topics.TRAJECTORY, Way.UP, "data_low", waits=True, max_bytes=8 * MIB, merged=True),
    # The outbox times its resending by the acks.
    Crossing(topics.TRAJECTORY_ACK, Way.DOWN, "interactive_high"),
    # The actor has only a few observations under way, so that they are no bulk.
    Crossing(topics.REMOTE_OBSERVATION, Way.UP, "data_high", max_bytes=8 * MIB),
    Crossing(topics.REMOTE_ACTION, Way.DOWN, "real_time", addressed=True),
    Crossing(topics.REMOTE_REFUSAL, Way.DOWN, "interactive_high", addressed=True),
    Crossing(topics.POLICY, Way.DOWN, "interactive_low"),
    Crossing(topics.ROBOT_SPEC, Way.UP, "interactive_low"),
    Crossing(topics.SAFETY_STATUS, Way.UP, "interactive_high", max_rate_hz=20.0),
    Crossing(topics.EPISODE_RESULT, Way.UP, "data_high"),
    Crossing(topics.ACTOR_STATUS, Way.UP, "data_high", max_rate_hz=10.0),
    Crossing(topics.REPLAY_STATUS, Way.DOWN, "data_high", max_rate_hz=2.0),
    Crossing(topics.LEARNER_STATUS, Way.DOWN, "data_high", max_rate_hz=2.0),
    Crossing(topics.DIAGNOSTICS, Way.UP, "background", merged=True, shared=True),
)


Role = Literal["robot", "learner", "none"]


class Route(Config):
    """One topic, one way."""

    topic: str = setting(
        doc="ROS topic, absolute or below the bridge's namespace. Where the key begins with *, a "
        "* in the topic stands for the same: /*/robot_spec.",
        min_length=1,
    )
    direction: Literal["out", "in"] = setting(doc="out: from ROS to Zenoh; in: the other way.")
    key: str = setting("", doc="Zenoh key; empty: the topic's full name without the first slash.")
    type: str = setting("", doc="Message type; empty: that of the topic table.")
    reliable: bool = setting(True, doc="Quality of service in ROS; a known topic has the table's.")
    latched: bool = setting(
        False, doc="Keep the last value for late subscribers; a known topic has the table's."
    )
    depth: int = setting(
        10,
        doc="Messages that may wait, in ROS and here; a known topic has the table's.",
        ge=1,
        le=1000,
    )
    priority: Priority = setting("data", doc="Zenoh's priority.")
    waits: bool = setting(
        False, doc="A message that the link cannot take waits for it, instead of being dropped."
    )
    max_bytes: int = setting(MIB, doc="Larger messages are refused.", unit="bytes", ge=4)
    max_rate_hz: float = setting(
        0.0,
        doc="Highest rate; of messages in between the newest is carried. 0: all.",
        unit="Hz",
        ge=0,
    )

    def validate(self) -> None:
        if "*" in self.topic and (self.direction == "out" or not self.key.startswith("*/")):
            raise ConfigError(
                f"route of {self.topic!r}",
                got=f"a * in the topic, key {self.key!r}",
                expected="a route in, with a key that begins with */",
            )
        if "*" in self.key and self.direction == "out":
            raise ConfigError(f"route of {self.topic!r}", got=f"key {self.key!r}",
                              expected="a key without * for a route out")  # fmt: skip

    @property
    def quality(self) -> Quality:
        """How it is carried in ROS."""
        return Quality(
            depth=self.depth,
            reliability=Reliability.RELIABLE if self.reliable else Reliability.BEST_EFFORT,
            durability=Durability.TRANSIENT_LOCAL if self.latched else Durability.VOLATILE,
        )


class BridgeConfig(Config):
    """Parameters of bridge_node."""

    role: Role = setting(
        "none",
        doc="robot or learner: carry what the topic table says; none: the given routes only.",
    )
    robot: str = setting("robot0", doc="The robot's namespace, and where its keys begin.")
    learner: str = setting("learner", doc="The learner's namespace, and where its keys begin.")
    inference_for: tuple[str, ...] = setting(
        (), doc="Robots whose policy runs on this host, where the role is learner."
    )
    routes: tuple[Route, ...] = setting(
        (), doc="Further routes; one of a topic that the role carries already takes its place."
    )
    leave_out: tuple[str, ...] = setting((), doc="Topics of the table that are not carried.")
    zenoh: ZenohConfig = setting(ZenohConfig(connect=(LOCAL_ENDPOINT,)), doc="Where the router is.")
    graph: str = setting(
        "", doc="Name of the local ROS graph, for finding loops; empty: this host and domain."
    )
    max_robots: int = setting(64, doc="Largest number of robots whose topics a * stands for.", ge=1)
    refresh_s: float = setting(
        5.0, doc="Time after which a kept value is sent again, in case it was lost.", unit="s", gt=0
    )
    status_period_s: float = setting(
        1.0, doc="Time between two measurements of the round trip.", unit="s", gt=0
    )

    def validate(self) -> None:
        unknown = sorted(set(self.leave_out) - {c.topic.name for c in CROSSINGS})
        if unknown:
            raise ConfigError("leave_out", got=unknown,
                              expected=f"some of {[c.topic.name for c in CROSSINGS]}")  # fmt: skip

    def all_routes(self, namespace: str = "") -> tuple[Route, ...]:
        """The routes with nothing left open; a topic is in the table, or has a type.

        Args:
            namespace: The bridge's, for relative topics.

        Raises:
            ConfigError: A type is missing; or a key would be carried both ways, which is a loop.
        """
        given = tuple(_complete(route, namespace) for route in self.routes)
        taken = {(route.topic, route.direction) for route in given}
        derived = (r for r in self._of_role() if (r.topic, r.direction) not in taken)
        routes = (*derived, *given)
        for out in (r for r in routes if r.direction == "out"):
            for back in (r for r in routes if r.direction == "in"):
                if keys_meet(out.key, back.key) or out.topic == back.topic:
                    raise ConfigError(
                        f"routes of {out.topic!r} and {back.topic!r}",
                        got=f"key {out.key!r} out, {back.key!r} in",
                        expected="each to be carried one way",
                        hint="What came in would go out again",
                    )
        return routes

    def _of_role(self) -> Iterator[Route]:
        for crossing in CROSSINGS:
            if self.role == "none" or crossing.topic.name in self.leave_out:
                continue
            if crossing.addressed and self.role == "learner":
                for robot in self.inference_for:
                    yield _derived(crossing, self.role, robot, self.learner)
            else:
                yield _derived(crossing, self.role, self.robot, self.learner)


def _derived(crossing: Crossing, role: Role, robot: str, learner: str) -> Route:
    name = crossing.topic.name.lstrip("/")
    up = crossing.way is Way.UP
    leaves = (role == "robot") == up
    if crossing.addressed:
        topic, key = f"/{robot}/{name}", f"{learner}/{robot}/{name}"
    elif not up:
        topic, key = f"/{learner}/{name}", f"{learner}/{name}"
    elif role == "robot":
        topic, key = f"/{name}" if crossing.shared else f"/{robot}/{name}", f"{robot}/{name}"
    else:
        merged = f"/{name}" if crossing.shared else f"/{learner}/{name}"
        topic, key = merged if crossing.merged else f"/*/{name}", f"*/{name}"
    route = Route(
        topic=topic,
        direction="out" if leaves else "in",
        key=key,
        priority=crossing.priority,
        waits=crossing.waits and leaves,
        max_bytes=crossing.max_bytes,
        max_rate_hz=crossing.max_rate_hz if leaves else 0.0,
    )
    return _like(route, crossing.topic)


def _complete(route: Route, namespace: str) -> Route:
    prefix = "" if route.topic.startswith("/") else f"{namespace.rstrip('/')}/"
    route = route.replace(topic=prefix + route.topic)
    route = route.replace(key=route.key or key_of(route.topic))
    if route.type:
        return route
    for topic in TOPICS:
        name = topic.name if topic.name.startswith("/") else f"/{topic.name}"
        if route.topic.endswith(name):
            return _like(route, topic)
    raise ConfigError(
        f"type of {route.topic!r}", got="none", expected="package/msg/Name, because it is not a "
        "topic of the table",
    )  # fmt: skip


def _like(route: Route, topic: Topic) -> Route:
    quality = topic.quality
    return route.replace(
        type=topic.type,
        depth=quality.depth,
        reliable=quality.reliability is Reliability.RELIABLE,
        latched=quality.durability is Durability.TRANSIENT_LOCAL,
    )
