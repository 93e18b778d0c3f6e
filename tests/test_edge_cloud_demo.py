"""The demo over a bad link: its account of all steps, its link, its ends; slow: the whole of it."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from user_actor.outbox import Outbox
from user_core.types import TrajectoryChunk
from user_fleet.processes import is_alive
from user_learner.replay import StoreWriter
from user_testing.link_emulator import LinkQuality
from user_testing.ports import claim_domain
from user_testing.waiting import wait_until
from user_testing.worlds.outbox import SPEC, config_for, episode

EXAMPLE = Path(__file__).parents[1] / "examples/edge_cloud_demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edge_cloud_demo", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("arrive", [0, 3])
def test_each_committed_step_is_found_in_the_store_or_in_the_outbox(demo, tmp_path, arrive):
    assert demo.committed(tmp_path) == 0, "nothing has been there yet"
    outbox = Outbox(
        config_for(tmp_path / "edge" / "outbox", chunk_bytes=8192, chunk_s=30.0),
        demo.ROBOT, SPEC, "arm", "peg",
    )  # fmt: skip
    sent: list[TrajectoryChunk] = []
    try:
        with StoreWriter(tmp_path / "cloud" / "replay") as store:

            def send(chunk: TrajectoryChunk) -> None:
                """The link is cut after the first few; these may come again."""
                if len(sent) < arrive and chunk.id not in [other.id for other in sent]:
                    assert store.append(chunk).status == "staged"
                    sent.append(chunk)

            episode(outbox, 0, 300)
            assert outbox.flush(20)
            outbox.deliver_to(send)
            wait_until(lambda: len(sent) == arrive, "some arrive")
            outbox.deliver_to(None)
    finally:
        outbox.close()
    arrived = sum(int((~chunk.columns["final"]).sum()) for chunk in sent)
    assert (arrived > 0) == (arrive > 0) and arrived < 300
    assert demo.committed(tmp_path) == 300
    assert demo.account(tmp_path) == (300, arrived, 300 - arrived)


_ECHO = """
import os, socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("domain", os.environ["ROS_DOMAIN_ID"], flush=True)
    while True:
        with server.accept()[0] as connection:
            connection.sendall(connection.recv(64))
"""
_ASK = """
import os, socket, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30) as connection:
    began_s = time.monotonic()
    connection.sendall(b"hello")
    answer = connection.recv(64)
print("domain", os.environ["ROS_DOMAIN_ID"], answer.decode() or "cut", time.monotonic() - began_s)
"""


def test_two_hosts_are_domains_of_their_own_and_a_link_apart_that_can_be_cut(demo, tmp_path):
    with ExitStack() as stack:
        far = demo.Far(stack, LinkQuality(20.0, 40.0), 7, proxy=True)
        listen, connect = (where.rpartition(":")[2] for where in (far.listen, far.connect))
        log = tmp_path / "cloud.txt"
        server = far.start("cloud", [sys.executable, "-c", _ECHO, listen], log)
        stack.callback(demo.end, server)
        wait_until(lambda: "domain 7" in log.read_text(), "it listens")

        def ask(name: str) -> list[str]:
            said = tmp_path / name
            asking = far.start("edge", [sys.executable, "-c", _ASK, connect], said)
            stack.callback(demo.end, asking)
            asking.wait(60)
            return said.read_text().splitlines()[-1].split()

        _, domain, answer, took_s = ask("edge.txt")
        assert (domain, answer) == ("8", "hello") and float(took_s) >= 0.08
        far.link.cut()
        assert "hello" not in ask("cut.txt")
        far.link.restore()
        assert "hello" in ask("again.txt")
        assert sum(way.bytes for way in far.link.traffic()) >= 20


def test_what_a_host_leaves_behind_ends_with_it(demo, tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([*sys.argv[1:]]).pid, flush=True)"
    words = [sys.executable, "-c", code, sys.executable, "-c", "import time; time.sleep(600)"]
    host = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert host.stdout is not None
    child = int(host.stdout.readline())
    try:
        demo.end(host)
        wait_until(lambda: not is_alive(child), "its child has ended")
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("hal: given up, ended with exit code 3: no arm\nstopping: hal was given up\nhal was given up\n  hal.log\n",
         "hal: given up, ended with exit code 3: no arm"),
        ("stopping: after 1 minute\nlearner was given up: no GPU\n  learner.log\n", "learner was given up: no GPU"),
        ("stopping: after 1 minute\nnothing was collected: no actor was heard of\n",
         "nothing was collected: no actor was heard of"),
        ("configuration: got a, expected b\n", "configuration: got a, expected b"),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_of_a_host_that_ended_the_line_that_says_why_is_shown(demo, tmp_path, said, why):
    log = tmp_path / "cloud.txt"
    log.write_text(f"run folder: r\n{said}report: r/report.md\n" if said else "")
    assert demo.why_ended(log) == why


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_over_the_link_and_misses_nothing(tmp_path):
    with ExitStack() as stack:
        domains: set[int] = set()
        while not (pairs := [domain for domain in domains if domain + 1 in domains]):
            domains.add(stack.enter_context(claim_domain()))
        _learns(tmp_path, pairs[0])


def _learns(runs: Path, domain: int) -> None:
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--task", "reach", "--minutes", "8", "--cuts", "4",
         "--demonstrations", "10", "--domain", str(domain), "--proxy", "--runs", str(runs)],
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{time.monotonic() - began_s:.0f} s\n{done.stdout}\n{done.stderr}"
    counts = re.search(r"on the robot: (\d+); in the store (\d+), in the outbox (\d+)", done.stdout)
    assert counts is not None
    committed, stored, waiting = map(int, counts.groups())
    assert committed > 300 and stored + waiting == committed
    assert "has not learned yet" not in done.stdout
