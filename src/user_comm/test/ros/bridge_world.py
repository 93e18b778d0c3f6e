"""ROS graphs, bridges and a router in one process, for tests of the bridge."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
import zenoh
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from user_comm.bridge import Bridge, BridgeConfig
from user_comm.links import ZenohConfig, open_session
from user_comm.links.router import RouterConfig
from user_comm.links.session import to_zenoh
from user_comm.quality import Quality
from user_comm.ros_qos import profile


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{probe.getsockname()[1]}"


def until(condition: Callable[[], Any], what: str, timeout_s: float = 45.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"still not: {what}"
        time.sleep(0.01)


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
        self._executor.shutdown()
        self._spinning.join(5.0)
        for node in self.nodes:
            node.destroy_node()
        self.context.try_shutdown()


class BridgeWorld:
    """What a test opens is closed with it, in reverse order."""

    def __init__(self, first_domain: int) -> None:
        self.endpoint = free_endpoint()
        self._domain = first_domain
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
        graph = Graph(self._domain)
        self._domain += 1
        self._open.append(graph.close)
        return graph

    def bridge(self, graph: Graph, *, wait: bool = True, **config: Any) -> Bridge:
        config.setdefault("zenoh", ZenohConfig(connect=(self.endpoint,), shared_memory=False))
        node = graph.node(f"bridge{len(graph.nodes)}")
        bridge = Bridge(node, BridgeConfig(**config), self.said.append)
        self._open.append(bridge.close)
        bridge.start()
        if wait:
            until(lambda: all(link.is_up for link in bridge.links.values()), "the bridge is up")
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
