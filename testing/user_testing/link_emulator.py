"""Hosts that are really apart, on one machine: network namespaces joined by emulated links.

A :class:`Host` is a network namespace; a :class:`Link` joins two of them by a pair of TUN
devices and a process that carries the packets from one to the other: at a rate, with a delay
and losses, with a queue that drops what does not fit, and not at all while it is cut. It
needs root and ``/dev/net/tun``, no module of the kernel (``netem`` is often missing).

    with Host("cloud") as cloud, Host("robot") as robot:
        with Link(cloud, robot, LinkQuality(rate_mbit_s=20, delay_ms=40)) as link:
            robot.popen(["ping", link.address_of(cloud)])
            link.cut()
            link.restore()
            print(link.traffic())

By hand, from a shell of root (Ctrl-C ends it and takes everything away)::

    tools/run python -m user_testing.link_emulator --rate 20 --delay 40
    ip netns exec ... bash      # the names are printed
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import re
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from user_core.command_line import Parser
from user_testing.systems import end_with_parent

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_PREFIX = "usr"
_numbers = itertools.count(1)


def unavailable() -> str | None:
    """Why no link can be emulated here; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.path.exists(_TUN):
        return f"no {_TUN}"
    try:
        probe = subprocess.run(["ip", "netns", "add", f"{_PREFIX}-{os.getpid()}-probe"],
                               capture_output=True, text=True)  # fmt: skip
    except FileNotFoundError:
        return "no `ip` (Debian package iproute2)"
    if probe.returncode != 0:
        return f"ip netns add: {probe.stderr.strip()}"
    _ip("netns", "del", f"{_PREFIX}-{os.getpid()}-probe")
    return None


@dataclass(frozen=True)
class LinkQuality:
    """What a link does to packets, each way.

    Attributes:
        rate_mbit_s: Rate, Mbit/s of IP packets.
        delay_ms: From one end to the other, milliseconds: half a round trip.
        loss: Part of the packets that is lost, 0 to 1.
        queue_ms: Longest wait in the queue before the link, milliseconds; what would wait longer
            is dropped.
    """

    rate_mbit_s: float = 20.0
    delay_ms: float = 40.0
    loss: float = 0.0
    queue_ms: float = 100.0


@dataclass(frozen=True)
class Traffic:
    """What went one way over a link.

    Attributes:
        bytes: Bytes that arrived.
        packets: Packets that arrived.
        dropped: Packets that did not.
        queue_ms: Longest wait in the queue before the link since the last look, milliseconds.
    """

    bytes: int
    packets: int
    dropped: int
    queue_ms: float = 0.0


class Host:
    """A network namespace.

    Args:
        name: For people; the namespace's name has the process in it, so that nothing collides.
        congestion_control: The kernel's TCP in it (reno, cubic, bbr); empty: as it is.
    """

    def __init__(self, name: str, congestion_control: str = "") -> None:
        _remove_orphans()
        self.name = f"{_PREFIX}-{os.getpid()}-{name}"
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up", "multicast", "on")
        settings = ["net.ipv6.conf.default.disable_ipv6=1"]  # else the kernel talks by itself
        if congestion_control:
            settings.append(f"net.ipv4.tcp_congestion_control={congestion_control}")
        subprocess.run(self.command("sysctl", "-qw", *settings), check=True)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def command(self, *words: str) -> list[str]:
        """A command line that runs a program in this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program in this host; it ends when this process does, however that happens."""
        options.setdefault("preexec_fn", end_with_parent)
        return subprocess.Popen(self.command(*words), text=True, **options)

    def close(self) -> None:
        """End everything that runs in it, and the namespace."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


class Link:
    """Joins two hosts; each direction has the same quality.

    Args:
        left: One host.
        right: The other.
        quality: What the link does to packets; may be changed while it runs.
    """

    def __init__(self, left: Host, right: Host, quality: LinkQuality = LinkQuality()) -> None:  # noqa: B008
        number = next(_numbers)
        self.quality, self._is_cut = quality, False
        network = f"10.{64 + os.getpid() % 128}.{number % 256}"
        self._addresses = {left.name: f"{network}.1", right.name: f"{network}.2"}
        devices = [f"ut{os.getpid() % 100000}{side}{number}" for side in "lr"]
        self._lock = threading.Lock()
        self._forwarder = subprocess.Popen(
            [sys.executable, __file__, "--forward", *devices],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is for the test
        )  # fmt: skip
        try:
            self._ask(asdict(quality))
            for host, device in zip((left, right), devices):
                own = self._addresses[host.name]
                (peer,) = set(self._addresses.values()) - {own}
                _ip("link", "set", device, "netns", host.name)
                _ip("-n", host.name, "addr", "add", own, "peer", peer, "dev", device)
                _ip("-n", host.name, "link", "set", device, "mtu", "1500", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address_of(self, host: Host) -> str:
        """Address of a host on this link."""
        return self._addresses[host.name]

    def change(self, **quality: float) -> None:
        """Change the quality, ``change(loss=0.01)``."""
        self.quality = replace(self.quality, **quality)
        self._ask(asdict(self.quality))

    def cut(self) -> None:
        """Let nothing through any more; what is on its way is lost."""
        self._ask({"cut": True})

    def restore(self) -> None:
        """Mend the link."""
        self._ask({"cut": False})

    def traffic(self) -> tuple[Traffic, Traffic]:
        """What arrived so far: from left to right, from right to left."""
        there, back = self._ask({})
        return Traffic(*there), Traffic(*back)

    def close(self) -> None:
        """Take the link away."""
        self._forwarder.kill()
        self._forwarder.wait()
        for stream in (self._forwarder.stdin, self._forwarder.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        with self._lock:
            assert self._forwarder.stdin is not None and self._forwarder.stdout is not None
            self._forwarder.stdin.write(json.dumps(request) + "\n")
            self._forwarder.stdin.flush()
            answer = self._forwarder.stdout.readline()
        if not answer:
            raise RuntimeError("the forwarder of the link has ended")
        return json.loads(answer)


class Shaper:
    """One direction: when each packet arrives, or that it does not. Times in seconds."""

    def __init__(self, seed: int = 0) -> None:
        self.quality, self.cut = LinkQuality(), False
        self.arrived_bytes = self.arrived = self.dropped = 0
        self.queue_s = 0.0  # the longest
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._free_s = 0.0
        self._random = random.Random(seed)

    def send(self, packet: bytes, now_s: float) -> None:
        """A packet comes to the queue before the link."""
        quality = self.quality
        start_s = max(self._free_s, now_s)
        waits_too_long = start_s - now_s > quality.queue_ms / 1e3
        if self.cut or waits_too_long or self._random.random() < quality.loss:
            self.dropped += 1
            return
        self.queue_s = max(self.queue_s, start_s - now_s)
        self._free_s = start_s + len(packet) * 8 / (quality.rate_mbit_s * 1e6)
        self._under_way.append((self._free_s + quality.delay_ms / 1e3, packet))

    def due_s(self) -> float | None:
        """When the next packet arrives."""
        return self._under_way[0][0] if self._under_way else None

    def arrive(self, now_s: float, deliver: Callable[[bytes], object]) -> None:
        """Deliver what has arrived."""
        while self._under_way and self._under_way[0][0] <= now_s:
            _, packet = self._under_way.popleft()
            self.arrived += 1
            self.arrived_bytes += len(packet)
            deliver(packet)

    def lose_all(self) -> None:
        """What is on its way does not arrive."""
        self.dropped += len(self._under_way)
        self._under_way.clear()
        self._free_s = 0.0


def _forward(devices: Sequence[str]) -> None:
    """The process between two TUN devices; commands come on stdin, answers go to stdout."""
    # A real link is not late when its users' processors are busy: what it would find after a pause
    # would be a burst, and much of it dropped.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    ends = [_open_tun(device) for device in devices]
    shapers = [Shaper(seed) for seed in range(2)]
    commands = sys.stdin.fileno()
    os.set_blocking(commands, False)
    text = b""
    poll = select.epoll()
    for fd in (*ends, commands):
        poll.register(fd, select.EPOLLIN)
    while True:
        due = [s for s in (shaper.due_s() for shaper in shapers) if s is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else -1
        ready = {fd for fd, _ in poll.poll(wait_s)}
        for index, fd in enumerate(ends):
            if fd in ready:
                _take_all(fd, shapers[index])
        now_s = time.monotonic()
        for index, shaper in enumerate(shapers):
            shaper.arrive(now_s, lambda packet, fd=ends[1 - index]: _write(fd, packet))  # type: ignore[misc]
        if commands in ready:
            came = os.read(commands, 65536)
            if not came:
                return  # whoever wanted the link has ended
            *lines, text = (text + came).split(b"\n")
            for line in lines:
                print(json.dumps(_obey(json.loads(line), shapers)), flush=True)


def _obey(request: dict[str, Any], shapers: Sequence[Shaper]) -> list[list[float]]:
    for shaper in shapers:
        if "cut" in request:
            shaper.cut = request["cut"]
            shaper.lose_all()
        elif request:
            shaper.quality = LinkQuality(**request)
    answer = [[s.arrived_bytes, s.arrived, s.dropped, round(1e3 * s.queue_s, 2)] for s in shapers]
    for shaper in shapers:
        shaper.queue_s = 0.0
    return answer


def _take_all(fd: int, shaper: Shaper) -> None:
    for _ in range(64):  # then look at the clock again
        try:
            packet = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError as error:  # the device is not up yet, or its host is gone
            if error.errno not in (errno.EIO, errno.EBADFD):
                raise
            return
        shaper.send(packet, time.monotonic())


def _write(fd: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the device is down, or its buffer full: a lost packet
        os.write(fd, packet)


def _open_tun(name: str) -> int:
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_WITHOUT_HEADER))
    return fd


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _remove_orphans() -> None:
    """Namespaces of processes that have died."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for name, pid in re.findall(rf"^({_PREFIX}-(\d+)-\S+)", listed, re.MULTILINE):
        if not os.path.exists(f"/proc/{pid}"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def main() -> int:
    """Two hosts and a link between them, until Ctrl-C."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("--rate", type=float, default=20.0, help="Mbit/s")
    parser.add_argument("--delay", type=float, default=40.0, help="one way, milliseconds")
    parser.add_argument("--loss", type=float, default=0.0, help="0 to 1")
    parser.add_argument("--forward", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.forward:
        _forward(given.forward)
        return 0
    if reason := unavailable():
        print(f"cannot emulate a link: {reason}", file=sys.stderr)
        return 1
    quality = LinkQuality(given.rate, given.delay, given.loss)
    with Host("a") as a, Host("b") as b, Link(a, b, quality) as link:
        for host in (a, b):
            print(f"{link.address_of(host)}   {' '.join(host.command('bash'))}")
        print("c: cut, r: restore, t: traffic, Ctrl-C: end")
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            while True:
                word = input()
                if word == "c":
                    link.cut()
                elif word == "r":
                    link.restore()
                print(*link.traffic(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
