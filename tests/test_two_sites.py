"""`user up two_sites`: two robots at two sites, one store, and each site's policies by its relay alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile, ReliabilityPolicy

from user_bringup.chaos.verdict import count_steps
from user_bringup.nodes.graph_listener import GraphListener
from user_bringup.nodes.monitor import Monitor
from user_comm.start import end_spinning
from user_learner.replay import StoreReader
from user_testing.ports import claim_domain, free_endpoint
from user_testing.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SITES = (0, 1)


class Flows(GraphListener):
    """Bytes of every flow of policies, from the diagnostics of one domain."""

    def __init__(self, domain: int) -> None:
        super().__init__("flows", ["diagnostic_msgs/msg/DiagnosticArray"], domain)
        self.bytes: dict[str, int] = {}

    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        quality = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        return DiagnosticArray, self._take, quality

    def _take(self, message: Any) -> None:
        for status in message.status:
            if ": flow policy" in status.name:
                values = {item.key: item.value for item in status.values}
                self.bytes[status.name] = int(values["bytes"])


class Run:
    """The deployment, and who listens to it."""

    def __init__(self, folder: Path, start: Callable[..., Any], stack: ExitStack):
        self.folder = folder / "r"
        above, *below = (free_endpoint() for _ in range(3))
        self.domains = [stack.enter_context(claim_domain()) for _ in range(3)]
        words = ["user", "up", "two_sites", "task:=reach", "speed:=2.0", "evaluate_every:=3"]
        words += [f"router:={above}", f"robot_router:={above}"]
        words += [f"site{site}_router:={below[site]}" for site in SITES]
        words += [f"site{site}_domain:={self.domains[site]}" for site in SITES]
        words += [f"learner_domain:={self.domains[-1]}"]
        words += ["--runs", str(folder), "--run", "r", "--no-table"]
        self.process = start(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
        self.monitor = stack.enter_context(Monitor(domains=self.domains))
        self.flows = [stack.enter_context(Flows(domain)) for domain in self.domains]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        def so_or_ended() -> bool:
            assert self.process.poll() is None, f"user up ended with {self.process.returncode}"
            return bool(condition())

        wait_until(so_or_ended, what, 240.0, seen=self.logs, period_s=0.1)

    def logs(self) -> str:
        files = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()[-600:]}" for file in files)

    def stored(self) -> dict[str, int]:
        """Rows in the store by actor."""
        if not (self.folder / "replay" / "index.sqlite").exists():
            return {}
        reader = StoreReader(self.folder / "replay")
        try:
            rows: dict[str, int] = {}
            for episode in reader.episodes():
                rows[episode.key.producer] = rows.get(episode.key.producer, 0) + episode.rows
            return rows
        finally:
            reader.close()

    def versions(self) -> list[int]:
        """The version that each robot acts with."""
        with self.monitor.lock:
            actors = self.monitor.state.actors
            return [actors[n].message.policy_version if n in actors else 0 for n in self.names]

    @property
    def names(self) -> list[str]:
        return [f"robot{site}" for site in SITES]

    def policy_bytes(self, host: int, flow: str) -> int:
        return self.flows[host].bytes.get(flow, 0)

    def end_learning(self) -> None:
        """No further versions; the learner's node stays, and says what it has served."""
        context = rclpy.Context()
        context.init(domain_id=self.domains[-1])
        node = rclpy.create_node("hand", context=context)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        try:
            client = node.create_client(ChangeState, "/learner/learner/change_state")
            assert client.wait_for_service(60)
            request = ChangeState.Request(
                transition=Transition(id=Transition.TRANSITION_DEACTIVATE)
            )
            answer = client.call_async(request)
            self.until(answer.done, "the learner's node answers")
            assert answer.result().success
        finally:
            end_spinning(thread, executor, node)
            context.try_shutdown()


@pytest.fixture
def run(tmp_path: Path, start_process: Any) -> Iterator[Run]:
    with ExitStack() as stack:
        yield Run(tmp_path, start_process, stack)


def test_two_sites_learn_together_and_policies_cross_once_for_each(run: Run) -> None:
    run.until(lambda: set(run.stored()) == set(run.names), "steps of both robots are stored")
    run.until(lambda: min(run.versions()) >= 10, "both act with newer policies")
    rows = run.stored()
    run.until(lambda: all(run.stored()[n] > rows[n] + 50 for n in run.names), "both go on")

    run.end_learning()
    numbers: dict[str, int] = {}

    def settled() -> bool:
        before = dict(numbers)
        for flows in run.flows:
            numbers.update(flows.bytes)
        time.sleep(2.5)  # each says its numbers once a second
        return numbers == before

    run.until(settled, "what was under way has arrived")
    served = run.policy_bytes(-1, "learner/learner: flow policy served")
    pulled = [run.policy_bytes(s, f"site{s}/relay{s}: flow policy") for s in SITES]
    passed_on = [run.policy_bytes(s, f"site{s}/relay{s}: flow policy served") for s in SITES]
    acted_on = [run.policy_bytes(s, f"robot{s}/actor{s}: flow policy") for s in SITES]
    assert min(pulled) > 0, run.logs()
    # Nobody but the two relays has asked the learner, and the robots asked their relays.
    assert sum(pulled) <= served <= 1.05 * sum(pulled)
    for given, taken in zip(passed_on, acted_on, strict=True):
        assert 0 < taken <= given <= 1.05 * taken

    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(120) == 0, run.logs()
    count = count_steps(run.folder)
    assert count.committed == count.stored + count.waiting > 200
    assert count.aside == 0
    lines = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    episodes = [line for line in lines if line["kind"] == "episode"]
    assert {line["robot"] for line in episodes} == set(run.names)
    assert len({(line["robot"], line["start_ns"]) for line in episodes}) == len(episodes)
    states = [line for line in lines if line["kind"] == "state"]
    assert max(line["actor_rate_hz"] for line in states) > 15  # both together: 20 a second each
