"""The emulated link does to packets what it says."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from user_testing.link_emulator import Host, Link, LinkQuality, Shaper, unavailable
from user_testing.link_proxy import LinkProxy

ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9000))
print("ready", flush=True)
while True:
    data, sender = s.recvfrom(2000)
    s.sendto(data, sender)
"""
PING = """
import json, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
times = []
for number in range(int(sys.argv[2])):
    start = time.monotonic()
    s.sendto(b"%d" % number, (sys.argv[1], 9000))
    try:
        s.recvfrom(2000)
        times.append(time.monotonic() - start)
    except TimeoutError:
        pass
print(json.dumps(times))
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if reason := unavailable():
        pytest.skip(reason)
    with Host("left") as left, Host("right") as right:
        yield left, right


def ping(link: Link, sender: Host, receiver: Host, count: int, timeout_s: float) -> list[float]:
    words = [sys.executable, "-c", PING, link.address_of(receiver), str(count), str(timeout_s)]
    process = sender.popen(words, stdout=-1)
    out, _ = process.communicate(timeout=60)
    times: list[float] = json.loads(out)
    return times


def test_a_link_delays_cuts_loses_and_counts(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Link(left, right, LinkQuality(rate_mbit_s=20, delay_ms=30)) as link:
        echo = right.popen([sys.executable, "-c", ECHO], stdout=-1)
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        times = ping(link, left, right, 5, 2.0)
        assert len(times) == 5
        assert min(times) >= 0.06
        link.cut()
        assert ping(link, left, right, 2, 0.2) == []
        link.restore()
        assert len(ping(link, left, right, 2, 2.0)) == 2
        link.change(loss=1.0)
        assert ping(link, left, right, 2, 0.2) == []
        there, back = link.traffic()
        assert there.packets == back.packets == 7
        assert there.dropped == 4
        echo.stdout.close()
        right.close()  # ends what runs in it
        assert echo.wait(60) != 0


def test_a_packet_waits_its_turn_and_is_dropped_where_the_queue_is_full() -> None:
    shaper = Shaper()
    shaper.quality = LinkQuality(rate_mbit_s=8.0, delay_ms=10.0, queue_ms=5.0)
    for number in range(10):  # 1000 bytes are 1 ms at 8 Mbit/s
        shaper.send(bytes([number]) * 1000, 0.0)
    assert shaper.dropped == 4  # six waited 0 to 5 ms
    came: list[int] = []
    shaper.arrive(0.0135, lambda packet: came.append(packet[0]))
    assert came == [0, 1, 2]
    shaper.lose_all()
    assert shaper.due_s() is None
    assert (shaper.arrived, shaper.dropped) == (3, 7)


def test_a_proxy_delays_limits_and_cuts_without_root() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as probe:
        server.settimeout(10.0)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        quality = LinkQuality(rate_mbit_s=8.0, delay_ms=50.0)
        with LinkProxy(port, server.getsockname()[1], quality) as link:
            client = socket.create_connection(("127.0.0.1", port), timeout=60.0)
            near, _ = server.accept()
            near.settimeout(10.0)
            start_s = time.monotonic()
            client.sendall(b"x")
            assert near.recv(1) == b"x"
            assert time.monotonic() - start_s >= 0.05
            start_s = time.monotonic()
            client.sendall(bytes(500_000))  # half a second at 1 MB/s
            got = 0
            while got < 500_000:
                got += len(near.recv(65536))
            assert time.monotonic() - start_s >= 0.5
            assert link.traffic()[1].bytes == 500_001
            link.cut()
            assert not read_end(client) and not read_end(near)
            with socket.create_connection(("127.0.0.1", port), timeout=60.0) as refused:
                assert not read_end(refused)
            link.restore()
            with socket.create_connection(("127.0.0.1", port), timeout=60.0) as again:
                near, _ = server.accept()
                near.settimeout(10.0)
                again.sendall(b"y")
                assert near.recv(1) == b"y"


def read_end(connection: socket.socket) -> bytes:
    """What comes before the end; nothing, also where it was torn down."""
    try:
        return connection.recv(1)
    except ConnectionError:
        return b""
