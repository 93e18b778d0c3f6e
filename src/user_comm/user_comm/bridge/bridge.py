"""The bridge: routes, the links that they use, and the threads between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zenoh
from rclpy.node import Node

from user_comm.bridge.config import BridgeConfig, Route
from user_comm.bridge.dispatcher import Dispatcher
from user_comm.bridge.keys import (
    GRAPH,
    bridge_token,
    graph_token,
    local_graph,
    route_token,
    topic_of_graph_token,
)
from user_comm.bridge.link import BridgeLink
from user_comm.bridge.routes import Inbound, Outbound, RouteCounts, priority_number, priority_of
from user_comm.subscriptions import TopicReader
from user_comm.topics import interface_class, profile

#: What must not wait behind bulk: real time to data_high.
_URGENT = priority_number(zenoh.Priority.DATA_HIGH)
URGENT, BULK = "urgent", "bulk"


class Bridge:
    """Carries topics between a ROS graph and Zenoh, from :meth:`start` to :meth:`close`.

    What came in never goes out again: a key and a topic are carried one way in a bridge, Zenoh
    hands no session what the same session has put, and what another bridge of the same ROS
    graph carries out of a topic, this one does not carry into it.

    Args:
        node: Subscribes and publishes.
        config: What is carried.
        say: For the log.

    Raises:
        ConfigError: A route is incomplete, or would be a loop.
        TransportError: A message type is not installed.
    """

    def __init__(self, node: Node, config: BridgeConfig, say: Callable[[str], object]) -> None:
        self._node, self._config = node, config
        self._graph = config.graph or local_graph(node.context.get_domain_id())
        self._foreign: dict[str, str] = {}  # tokens of other bridges in this graph, to topics
        self._carried_out: frozenset[str] = frozenset()
        self._tokens: dict[str, list[Any]] = {}  # by link; a token lives as long as it is held
        self._refreshed_s = time.monotonic()
        self.links = {
            name: BridgeLink(
                name,
                config.zenoh,
                lambda session, name=name: self._declare(name, session),  # type: ignore[misc]
                lambda name=name: self._link_changed(name),  # type: ignore[misc]
                self._refresh,
                say,
                config.status_period_s,
            )
            for name in (URGENT, BULK)
        }
        self._senders = {
            name: Dispatcher(f"bridge {name} out", lambda link=link: link.is_up)  # type: ignore[misc]
            for name, link in self.links.items()
        }
        self._publisher = Dispatcher("bridge in")
        self._reader = TopicReader(
            node,
            "bridge reader",
            on_error=lambda topic, error: say(f"{topic}: {type(error).__name__}: {error}"),
        )
        self._out: list[tuple[str, Outbound]] = []
        self._in: list[tuple[str, Inbound]] = []
        try:
            for route in config.all_routes(node.get_namespace()):
                self._add(route, say)
        except BaseException:
            self.close()
            raise

    @property
    def counts(self) -> tuple[RouteCounts, ...]:
        """The account of each route."""
        return (*(out.counts for _, out in self._out), *(into.counts for _, into in self._in))

    def start(self) -> None:
        """Begin."""
        for link in self.links.values():
            link.start()

    def close(self) -> None:
        """End everything."""
        self._reader.close()
        for sender in self._senders.values():
            sender.close()
        for link in self.links.values():
            link.close()
        self._publisher.close()
        for _, inbound in self._in:
            inbound.close()
        self._in.clear()

    def _add(self, route: Route, say: Callable[[str], object]) -> None:
        name = URGENT if priority_number(priority_of(route)) <= _URGENT else BULK
        if route.direction == "out":
            outbound = Outbound(route, self._senders[name], say)
            message_type = interface_class(route.type)
            self._reader.subscribe(message_type, route.topic, profile(route.quality), outbound.take)
            self._out.append((name, outbound))
        else:
            inbound = Inbound(
                route, self._node, self._publisher, lambda: self._carried_out,
                self._config.max_robots, say,
            )  # fmt: skip
            self._in.append((name, inbound))

    def _declare(self, name: str, session: zenoh.Session) -> None:
        """In a new session: tokens first, so that others know before anything comes."""
        zid = str(session.zid())
        liveliness = session.liveliness()
        tokens = [bridge_token(zid)]
        for _, out in (each for each in self._out if each[0] == name):
            route = out.route
            tokens.append(
                route_token(zid, True, route.key, route.type, route.quality, self._hash(route))
            )
            tokens.append(graph_token(zid, self._graph, route.topic))
        for _, into in (each for each in self._in if each[0] == name):
            route = into.route
            if "*" not in route.key:
                tokens.append(
                    route_token(zid, False, route.key, route.type, route.quality, self._hash(route))
                )
        kept: list[Any] = []
        if name == URGENT:
            kept.append(
                liveliness.declare_subscriber(
                    GRAPH.format(graph=self._graph),
                    zenoh.handlers.Callback(self._hear_token, None, indirect=False),
                    history=True,
                )
            )
        kept += [liveliness.declare_token(token) for token in tokens]
        self._tokens[name] = kept
        for each, into in self._in:
            if each == name:
                into.declare(session)
        for each, out in self._out:
            if each == name:
                out.declare(session)

    def _hear_token(self, sample: zenoh.Sample) -> None:
        token = str(sample.key_expr)
        if sample.kind == zenoh.SampleKind.DELETE:
            self._foreign.pop(token, None)
        elif token.split("/")[1] not in {link.zid for link in self.links.values()}:
            self._foreign[token] = topic_of_graph_token(token)
        self._carried_out = frozenset(self._foreign.values())

    def _link_changed(self, name: str) -> None:
        if self.links[name].is_up:
            for each, out in self._out:
                if each == name:
                    out.refresh()
        self._senders[name].wake()

    def _refresh(self) -> None:
        now_s = time.monotonic()
        if now_s - self._refreshed_s >= self._config.refresh_s:
            self._refreshed_s = now_s
            for name, out in self._out:
                if self.links[name].is_up:
                    out.refresh()

    def _hash(self, route: Route) -> str:
        """Hash of the type as ROS says it of an endpoint of ours; empty where it does not."""
        if "*" in route.topic:
            return ""
        about = (
            self._node.get_subscriptions_info_by_topic
            if route.direction == "out"
            else self._node.get_publishers_info_by_topic
        )
        for info in about(route.topic):
            text = str(getattr(info, "topic_type_hash", ""))
            if text.startswith("RIHS01_"):
                return text
        return ""
