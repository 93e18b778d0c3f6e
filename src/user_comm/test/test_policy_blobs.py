"""Real Zenoh sessions, in this process and in others; no ROS."""

import os
import signal
import socket
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from user_comm.converters import BlobKind
from user_comm.policy_blobs import PolicyPuller, PolicyServer, ZenohConfig, open_session
from user_core.errors import ConfigError, TransportError
from user_core.types import PolicyVersion

CONFIG_HASH = "c" * 64


def free_endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{probe.getsockname()[1]}"


def router(endpoint):
    return ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)


def client(endpoint):
    config = ZenohConfig(connect=(endpoint,), shared_memory=False)
    return lambda stop: open_session(config, stop, retry_s=0.05)


def version(number, size=100_000, seed=0):
    weights = np.random.default_rng(seed + number).standard_normal(size).astype(np.float32)
    return PolicyVersion(number, {"w": weights, "b": weights[:3].copy()}, CONFIG_HASH, number * 10)


def until(condition, what, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


@pytest.fixture
def endpoint():
    return free_endpoint()


@pytest.fixture
def served(endpoint):
    """A server whose announcements are collected."""
    announced = []
    with open_session(router(endpoint)) as session:
        with PolicyServer(session, "run1/policy", announced.append) as server:
            server.announced = announced
            yield server


def test_a_version_arrives_whole(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        sent = version(1)
        served.publish(sent)
        assert served.announced[0].size > 6 * 65536
        puller.announced(served.announced[0])
        until(lambda: puller.newest(0), "version 1")
        got = puller.newest(0)
        assert got.number == 1
        assert got.update == 10
        assert got.arrays.keys() == sent.arrays.keys()
        for name, array in sent.arrays.items():
            assert np.array_equal(got.arrays[name], array)
        assert puller.newest(after=1) is None
        assert puller.stats.refused == 0


def test_a_robot_that_was_there_first_waits_for_the_learner(endpoint):
    announced = []
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        time.sleep(0.2)  # some attempts to connect fail
        with open_session(router(endpoint)) as session:
            with PolicyServer(session, "p", announced.append) as server:
                server.publish(version(1))
                puller.announced(announced[0])
                until(lambda: puller.newest(0), "version 1")


def test_the_newest_wins_and_old_announcements_are_ignored(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        for number in range(1, 6):
            served.publish(version(number))
        for announcement in served.announced:
            puller.announced(announcement)
        until(lambda: puller.newest(4), "version 5")
        puller.announced(served.announced[0])  # replayed
        time.sleep(0.1)
        assert puller.newest(0).number == 5


def test_a_version_that_is_gone_is_given_up_for_a_newer_one(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH, piece_timeout_s=0.2) as puller:
        served.publish(version(1))
        gone = replace(served.announced[0], key="run1/policy/1/0000000000000000")
        puller.announced(gone)
        until(lambda: puller.stats.retries > 0, "a retry")
        assert puller.newest(0) is None
        served.publish(version(2))
        puller.announced(served.announced[1])
        until(lambda: puller.newest(0), "version 2")
        assert puller.stats.superseded == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"content_hash": "0" * 64}, "hash"),
        ({"config_hash": "d" * 64}, "configuration"),
        ({"size": 2**40}, "at most"),
        ({"piece_size": 1}, "pieces"),
        ({"kind": BlobKind.DELTA}, "keyframe"),
    ],
)
def test_a_wrong_version_is_refused_with_the_reason_and_the_next_one_taken(
    served, endpoint, change, word
):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        served.publish(version(1))
        puller.announced(replace(served.announced[0], **change))
        until(lambda: puller.stats.refused == 1, "the refusal")
        assert word in puller.stats.last_error
        assert puller.newest(0) is None
        served.publish(version(2))
        puller.announced(served.announced[1])
        until(lambda: puller.newest(0), "version 2")
        assert puller.stats.last_error == ""


SERVER = """
import sys
import numpy as np
from user_comm.policy_blobs import PolicyServer, ZenohConfig, open_session
from user_core.types import PolicyVersion

config = ZenohConfig(mode="router", listen=(sys.argv[1],), shared_memory=False)
with open_session(config) as session:
    with PolicyServer(session, "p", lambda a: print(a.content_hash, a.key, a.size, flush=True)) as s:
        weights = np.arange(8_000_000, dtype=np.float32)
        s.publish(PolicyVersion(int(sys.argv[2]), {"w": weights}, "c" * 64))
        sys.stdin.read()
"""


def start_server(start_process, endpoint, number):
    import subprocess

    return start_process(
        [sys.executable, "-c", textwrap.dedent(SERVER), endpoint, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def announcement_of(process, number, like):
    content_hash, key, size = process.stdout.readline().split()
    return replace(
        like, number=number, content_hash=content_hash, key=key, size=int(size), keyframe=number,
        config_hash=CONFIG_HASH,
    )  # fmt: skip


def test_a_learner_killed_in_the_middle_of_a_pull_is_waited_for(
    start_process, endpoint, served_announcement
):
    first = start_server(start_process, endpoint, 1)
    announcement = announcement_of(first, 1, served_announcement)
    with PolicyPuller(client(endpoint), CONFIG_HASH, piece_timeout_s=0.5) as puller:
        puller.announced(announcement)
        until(lambda: puller.stats.bytes > 1_000_000, "the first megabyte")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert puller.newest(0) is None
        second = start_server(start_process, endpoint, 1)
        again = announcement_of(second, 1, served_announcement)
        assert again == announcement  # equal versions have equal bytes: the pull goes on
        until(lambda: puller.newest(0), "version 1", 40)
        assert puller.stats.retries > 0
        assert puller.stats.bytes < 1.2 * announcement.size


@pytest.fixture
def served_announcement():
    from user_comm.converters import PolicyAnnouncement

    return PolicyAnnouncement(1, "0" * 64, CONFIG_HASH, "p", 1, 65536)


def test_many_robots_pull_at_a_time(served, endpoint):
    served.publish(version(1, size=500_000))
    pullers = [PolicyPuller(client(endpoint), CONFIG_HASH) for _ in range(4)]
    try:
        for puller in pullers:
            puller.announced(served.announced[0])
        until(lambda: all(p.newest(0) for p in pullers), "all four")
    finally:
        for puller in pullers:
            puller.close()


def test_an_endpoint_that_is_taken_is_named(endpoint):
    with open_session(router(endpoint)):
        with pytest.raises(TransportError, match=endpoint.replace("/", ".")):
            open_session(router(endpoint))


def test_closing_does_not_wait_for_a_learner_that_never_comes(endpoint):
    puller = PolicyPuller(client(endpoint))
    closer = threading.Thread(target=puller.close)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()


def test_a_prefix_with_wildcards_is_refused(endpoint):
    with open_session(router(endpoint)) as session, pytest.raises(ConfigError, match="prefix"):
        PolicyServer(session, "run/*", print)
