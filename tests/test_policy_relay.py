"""The relay of a site as a process: it hears of versions on a topic, and serves them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from user_comm import topics
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.server import PolicyServer
from user_core.types import PolicyVersion
from user_testing.ports import free_endpoint
from user_testing.processes import NodeProcess
from user_testing.worlds.acting import GraphProbe


def test_a_relay_serves_what_the_topic_announces(tmp_path: Path, ros_domain: int) -> None:
    site, learner = free_endpoint(), free_endpoint()
    probe = GraphProbe()
    announced = []
    zenoh = {"mode": "router", "listen": [site], "connect": [learner], "shared_memory": False}
    relay = NodeProcess(
        "user_comm.nodes.policy_relay", {"zenoh": zenoh, "key": "site7/policy"}, tmp_path
    )
    tell = probe.speaker(topics.POLICY)
    config = ZenohConfig(mode="router", listen=(learner,), shared_memory=False)
    near = ZenohConfig(connect=(site,), shared_memory=False)
    try:
        with open_session(config) as session:
            with PolicyServer(session, "user/policy", lambda a: announced.append(a)) as server:
                relay.start()
                with PolicyPuller(
                    lambda end: open_session(near, end), relay="site7/policy"
                ) as robot:
                    weights = np.random.default_rng(0).standard_normal(50_000, np.float32)
                    for number in (1, 2):
                        arrays = {"w": weights * np.float32(1 + 1e-4 * number)}
                        server.publish(PolicyVersion(number, arrays, created_ns=time.time_ns()))
                        tell(announced[-1])
                        robot.announced(announced[-1])
                        probe.until(lambda n=number: robot.newest(n - 1), f"version {number}")
                    assert robot.stats.detours == 0
                    assert server.served_bytes == sum(a.size for a in announced)
    finally:
        relay.close()
        probe.close()
