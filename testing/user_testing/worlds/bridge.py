"""ROS graphs, bridges and a router in one process, for tests of the bridge."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import rclpy
import zenoh
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from user_comm.bridge.bridge import Bridge
from user_comm.bridge.config import BridgeConfig
from user_comm.net.router import RouterConfig
from user_comm.net.sessions import ZenohConfig, open_session, to_zenoh
from user_comm.start import end_spinning
from user_comm.topics import Quality, profile
from user_testing.ports import claim_domain, free_endpoint
from user_testing.waiting import wait_until


class Graph:
    """A ROS graph of its own, by its domain."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        self.context.init(domain_id=domain)
        self._executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Node] = []
        self._spinning = threading.Thread(target=self._executor.spin, daemon=True)
        self._spinning.start()

    def node(self, name: str, namespace: str = "") -> Node:
        name = f"{name}_{self.context.get_domain_id()}"
        node = Node(name, namespace=namespace, context=self.context)
        self._executor.add_node(node)
        self.nodes.append(node)
        return node

    def hear(self, kind: Any, topic: str, quality: Quality = Quality(depth=100)) -> list[Any]:  # noqa: B008
        heard: list[Any] = []
        self.node(f"listener{len(self.nodes)}").create_subscription(
            kind, topic, heard.append, profile(quality)
        )
        return heard

    def speaker(self, kind: Any, topic: str, quality: Quality = Quality(depth=100)) -> Any:  # noqa: B008
        return self.node(f"speaker{len(self.nodes)}").create_publisher(
            kind, topic, profile(quality)
        )

    def close(self) -> None:
        end_spinning(self._spinning, self._executor, *self.nodes)
        self.context.try_shutdown()


class BridgeWorld:
    """What a test opens is closed with it, in reverse order."""

    def __init__(self) -> None:
        self.endpoint = free_endpoint()
        self._open: list[Callable[[], Any]] = []
        self._router: Any = None
        self.said: list[str] = []

    def router(self) -> None:
        config = ZenohConfig(mode="router", listen=(self.endpoint,), shared_memory=False)
        self._router = open_session(config)

    def run(self, config: RouterConfig) -> None:
        self._router = zenoh.open(to_zenoh(config.options()))

    def kill_router(self) -> None:
        self._router.close()

    def graph(self) -> Graph:
        domain = claim_domain()
        graph = Graph(domain.number)
        self._open += [domain.release, graph.close]
        return graph

    def bridge(self, graph: Graph, *, wait: bool = True, **config: Any) -> Bridge:
        config.setdefault("zenoh", ZenohConfig(connect=(self.endpoint,), shared_memory=False))
        node = graph.node(f"bridge{len(graph.nodes)}")
        bridge = Bridge(node, BridgeConfig(**config), self.said.append)
        self._open.append(bridge.close)
        bridge.start()
        if wait:
            wait_until(
                lambda: all(link.is_up for link in bridge.links.values()), "the bridge is up"
            )
        return bridge

    def session(self, config: ZenohConfig | None = None) -> Any:
        session = open_session(config or ZenohConfig(connect=(self.endpoint,), shared_memory=False))
        self._open.append(session.close)
        return session

    def close(self) -> None:
        for close in reversed(self._open):
            close()
        if self._router is not None:
            self._router.close()
