"""How long a process is deaf after it was suspended, while others of its graph are killed and come anew.

    tools/run python benchmarks/system/suspensions.py --domains 81 82 83 --seconds 500
    tools/run python benchmarks/system/suspensions.py --domains 81 82 83 --seconds 500 --mended

In each ROS domain there are peers of plain rclpy that all talk to each other five times a second. Again and again one
of them is suspended for 2.5 to 10 s; meanwhile one to three others are killed and started anew. What is measured is the
time from its resumption until it hears all that live, and all that live hear it. What does not within 40 s counts as
deaf, and is started anew. With ``--mended`` peers do what our nodes and our supervisor do: they end when their shared
memory was made anew without them, and are started again; what killed processes held is given back after each death.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from user_comm.start import start_rclpy
from user_core.command_line import Parser
from user_core.runtime.dds.abandoned_mutexes import release_abandoned_mutexes
from user_core.runtime.dds.replaced_ports import OwnPorts
from user_testing import systems

#: What is not heard for this long counts as deaf, seconds.
_DEAF_S = 40.0
_QUALITY = QoSProfile(depth=10)


def be_peer(name: str, mended: bool) -> None:
    """Say the name five times a second, and print whom it has heard when."""
    start_rclpy([])
    node = Node(
        f"peer_{name.replace('.', '_')}", start_parameter_services=False, enable_rosout=False
    )
    heard: dict[str, float] = {}
    publisher = node.create_publisher(String, "beat", _QUALITY)

    def take(message: Any) -> None:
        heard[message.data] = time.monotonic()

    def look() -> None:
        if ports.replaced():
            os._exit(1)

    node.create_subscription(String, "beat", take, _QUALITY)
    node.create_timer(0.2, lambda: publisher.publish(String(data=name)))
    node.create_timer(0.25, lambda: print(json.dumps(heard), flush=True))
    if mended:
        ports = OwnPorts()
        node.create_timer(2.0, look)
    rclpy.spin(node)


class Peer:
    """A process of :func:`be_peer`, of a place; each that follows another has a higher number."""

    def __init__(self, place: int, number: int, domain: int, mended: bool) -> None:
        self.place, self.number, self.name = place, number, f"{place}.{number}"
        self.heard: dict[str, float] = {}
        words = [sys.executable, __file__, "--peer", self.name, *["--mended"] * mended]
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        self.process = systems.start(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard = json.loads(line)


class Domain:
    """Peers of one ROS domain."""

    def __init__(self, domain: int, peers: int, mended: bool) -> None:
        self._domain, self._mended = domain, mended
        self._random = random.Random(domain)
        self._peers = [Peer(place, 0, domain, mended) for place in range(peers)]
        self.recoveries_s: list[float] = []
        self.deaf = self.ended = 0

    def run(self, seconds: float) -> None:
        self._wait(120.0, None)
        end_s = time.monotonic() + seconds
        try:
            while time.monotonic() < end_s:
                self._suspend_one()
        finally:
            for peer in self._peers:
                peer.process.kill()
                peer.process.wait()

    def _suspend_one(self) -> None:
        victim = self._random.choice(self._peers)
        hold_s = self._random.uniform(2.5, self._random.choice([6.0, 6.0, 10.0]))
        os.kill(victim.process.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        for _ in range(self._random.choice([1, 2, 3, 3])):
            time.sleep(self._random.choice([0.0, 0.0, self._random.uniform(0.1, 1.0)]))
            self._anew(self._random.choice([peer for peer in self._peers if peer is not victim]))
            if self._mended:
                release_abandoned_mutexes()
        time.sleep(max(0.0, hold_s - (time.monotonic() - began_s)))
        os.kill(victim.process.pid, signal.SIGCONT)
        took_s = self._wait(_DEAF_S, victim.place)
        self.recoveries_s.append(took_s)
        if took_s >= _DEAF_S:
            self.deaf += 1
            for peer in list(self._peers):  # which of them it is nobody can say
                self._anew(peer)
        self._wait(_DEAF_S, None)

    def _anew(self, peer: Peer) -> None:
        peer.process.kill()
        peer.process.wait()
        self._peers[peer.place] = Peer(peer.place, peer.number + 1, self._domain, self._mended)

    def _wait(self, limit_s: float, place: int | None) -> float:
        """How long it takes until all (or one of them and the others) hear each other, at most ``limit_s``."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < limit_s:
            for peer in list(self._peers):
                if peer.process.poll() is not None:
                    self.ended += 1
                    self._anew(peer)
            if all(
                listener.heard.get(speaker.name, 0.0) > began_s
                for listener in self._peers
                for speaker in self._peers
                if listener is not speaker
                and (place is None or place in (listener.place, speaker.place))
            ):
                return time.monotonic() - began_s
            time.sleep(0.05)
        return limit_s


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, nargs="+", default=[81])
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--peers", type=int, default=7)
    parser.add_argument("--mended", action="store_true")
    parser.add_argument("--peer", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        be_peer(arguments.peer, arguments.mended)
        return
    domains = [Domain(number, arguments.peers, arguments.mended) for number in arguments.domains]
    with ThreadPoolExecutor(len(domains)) as pool:
        list(pool.map(lambda domain: domain.run(arguments.seconds), domains))
    took_s = np.array([s for domain in domains for s in domain.recoveries_s])
    print(
        f"{len(took_s)} suspensions: p50 {np.percentile(took_s, 50):.1f} s, p95 {np.percentile(took_s, 95):.1f} s, "
        f"worst {took_s.max():.1f} s; deaf for {_DEAF_S:g} s: {sum(d.deaf for d in domains)}; ended by themselves: "
        f"{sum(d.ended for d in domains)}; load {os.getloadavg()[1]:.0f}"
    )


if __name__ == "__main__":
    main()
