"""Faults: the plan of them, drawn from a seed, and how each is done and undone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

#: Name of the link where a process is expected: in plans and tables.
LINK = "link"
_CHUNK = 64 * 1024


class Link:
    """Carries TCP connections from a port of 127.0.0.1 to another address; needs no root.

    While it is cut, connections stay open and nothing moves over them, neither data nor their
    end, as where a cable is pulled: both sides find out by their own time-outs. New ones are
    taken (by the kernel, before us) and get no answer. What was under way arrives after the
    cut, as TCP sees to it.

    Args:
        host: Where to.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._carried = 0

    def __enter__(self) -> Link:
        self._thread.start()
        self._server = self._call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    @property
    def is_cut(self) -> bool:
        """Whether nothing moves."""
        return not self._open.is_set()

    @property
    def carried(self) -> int:
        """Bytes that have crossed, both ways."""
        return self._carried

    def cut(self) -> None:
        """From now on nothing moves."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def restore(self) -> None:
        """It moves again."""
        self._loop.call_soon_threadsafe(self._open.set)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _listen(self) -> asyncio.Server:
        self._open.set()
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._open.wait()
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                try:
                    await asyncio.gather(
                        self._carry(reader, far_writer), self._carry(far_reader, writer)
                    )
                finally:
                    far_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way, until its end, which the other side is told as well."""
        try:
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                self._carried += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            await self._open.wait()
            writer.close()


FaultKind = Literal["kill", "suspend", "disk", "network", "memory"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_s: When, seconds after everything worked for the first time.
        kind: ``kill`` (SIGKILL), ``suspend`` (SIGSTOP, then SIGCONT), ``disk`` (none of its
            files can grow, as on a full disk), ``network`` (nothing moves over the link between
            the hosts, and no process is told), ``memory`` (it gets no more than it has).
        victim: Name of the process; of the link for a cut.
        duration_s: How long it lasts; 0 for a kill.
    """

    at_s: float
    kind: FaultKind
    victim: str
    duration_s: float = 0.0


@dataclass(frozen=True)
class PlanSize:
    """How much goes wrong.

    Attributes:
        seconds: Time over which it is spread.
        kills: How many processes are killed.
        suspends: How many are suspended for a while.
        disks: How often the disk of one is full for a while.
        networks: How often the link between the hosts is cut for a while.
        memories: How often one gets no more memory for a while.
        longest_s: Longest time of any of these.
        apart_s: Shortest time from one fault to the next; with 0 some fall into the recovery
            from the one before.
        pairs: How often two that need each other are killed within :data:`PAIR_S`; the first time
            right after the start, when no standby is there yet.
    """

    seconds: float
    kills: int
    suspends: int = 0
    disks: int = 0
    networks: int = 0
    memories: int = 0
    longest_s: float = 6.0
    apart_s: float = 0.0
    pairs: int = 0


#: Two faults of a pair fall within this time.
PAIR_S = 2.0


def make_plan(
    seed: int,
    victims: Sequence[str],
    writers: Sequence[str],
    size: PlanSize,
    hungry: Sequence[str] = (),
    partners: Sequence[tuple[str, str]] = (),
    links: Sequence[str] = (LINK,),
) -> list[Fault]:
    """A plan: the same for the same arguments, everywhere.

    Kills are dealt out evenly, in random order, at random moments.

    Args:
        seed: Chooses.
        victims: Who may be killed and suspended.
        writers: Whose disk may be full.
        size: How much.
        hungry: Who may get no more memory.
        partners: Who may be killed together, in the order in which they are.
        links: What may be cut.
    """
    dice = random.Random(seed)
    kinds: list[FaultKind] = ["kill"] * size.kills
    kinds += ["suspend"] * size.suspends
    kinds += ["disk"] * (size.disks if writers else 0)
    kinds += ["network"] * size.networks
    kinds += ["memory"] * (size.memories if hungry else 0)
    dice.shuffle(kinds)
    free_s = max(0.0, size.seconds - size.apart_s * (len(kinds) - 1))
    times = sorted(dice.uniform(0, free_s) for _ in kinds)
    times = [time_s + i * size.apart_s for i, time_s in enumerate(times)]
    pools = {"disk": writers, "network": links, "memory": hungry}
    decks: dict[str, list[str]] = {}
    plan = []
    for at_s, kind in zip(times, kinds, strict=True):
        pool = list(pools.get(kind, victims))
        deck = decks.setdefault(kind, [])
        if not deck:
            deck += dice.sample(pool, len(pool))
        lasts_s = 0.0 if kind == "kill" else dice.uniform(1.0, size.longest_s)
        plan.append(Fault(round(at_s, 3), kind, deck.pop(), round(lasts_s, 3)))
    plan += _pairs(random.Random(seed + 1), partners, size)
    return sorted(plan, key=lambda fault: fault.at_s)


def _pairs(dice: random.Random, partners: Sequence[tuple[str, str]], size: PlanSize) -> list[Fault]:
    """Kills of two at a time: in turn through the partners, the first pair of them at the start."""
    pairs: list[Fault] = []
    times = sorted(dice.uniform(0.0, size.seconds) for _ in range(size.pairs if partners else 0))
    for number, time_s in enumerate(times):
        at_s = dice.uniform(0.0, 1.0) if number == 0 else time_s
        victims = list(partners[number % len(partners)])
        dice.shuffle(victims)
        later_s = at_s + dice.uniform(0.0, PAIR_S)
        pairs.append(Fault(round(at_s, 3), "kill", victims[0]))
        pairs.append(Fault(round(later_s, 3), "kill", victims[1]))
    return pairs


def inflict(kind: FaultKind, pid: int) -> None:
    """Let it happen. Raises ProcessLookupError when the process is gone."""
    if kind == "kill":
        os.kill(pid, signal.SIGKILL)
    elif kind == "suspend":
        os.kill(pid, signal.SIGSTOP)
    elif kind == "memory":
        # What it has it keeps; what it asks for besides it does not get. With strict accounting
        # an allocation fails so; the kernel killing the largest process is a kill like any other.
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
    elif kind == "disk":
        # No file may grow beyond its first byte: every write fails, as on a full disk (with
        # EFBIG instead of ENOSPC; Python ignores the signal that comes with it).
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    else:
        raise ValueError(f"{kind} is not a fault of a process")


def relieve(kind: FaultKind, pid: int) -> None:
    """Let it be over; nothing happens when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        if kind == "suspend":
            os.kill(pid, signal.SIGCONT)
        elif kind == "disk":
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        elif kind == "memory":
            _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
            resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))
