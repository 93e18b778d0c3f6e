"""Episodes of a data set, read while others are written: by a thread, or by several processes where there is much to
read.

What a process gives is what the thread gives; the episodes come in the order of the data set either way.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import SuiteError
from user_core.runtime.closing import Closing
from user_core.runtime.processes.parents import end_with_parent
from user_core.runtime.scheduling import cores
from user_learner.data.mapping import DataMapping
from user_learner.data.source import Description, EpisodeRef, Source, in_one_line, open_source

#: Processes read when reading has taken this long, and this much is still to come, both in seconds: they take a second
#: or two to start.
_TRIED_S, _LEFT_S = 3.0, 10.0
_MOST_PROCESSES = 8


class Taking(Protocol):
    """Makes an episode of a store of one of a data set."""

    mapping: DataMapping | None

    def read(self, data: Source, ref: EpisodeRef) -> RecordedEpisode:
        """Raises SuiteError where it cannot be."""


@dataclass(frozen=True)
class Read:
    """An episode, or why there is none. ``known``: it was not read, for it is there."""

    ref: EpisodeRef
    episode: RecordedEpisode | None = None
    why: str = ""
    known: bool = False


class ReadingAhead(Closing):
    """Reads episodes before they are asked for.

    Args:
        data: The data set, which is open.
        taking: What is made of it; processes make theirs of its class, a description and the mapping.
        path, format_name, options: How it was opened: each process opens it again.
        processes: How many read; 0: a thread does; None: as many as there are cores, once it turns out to be worth it.
            The program must then be one that may be imported (``if __name__ == "__main__"``).
    """

    def __init__(
        self,
        data: Source,
        taking: Taking,
        path: str | Path,
        format_name: str,
        options: Mapping[str, Any],
        processes: int | None = 0,
    ) -> None:
        self._data, self._taking, self._asked = data, taking, bool(processes)
        self._open_again = (type(taking), str(path), format_name, dict(options), taking.mapping)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="import")
        self._processes: _Processes | None = None
        self._count = min(cores(), _MOST_PROCESSES) if processes is None else processes
        self._began_s = time.monotonic()

    def read(self, refs: Iterable[EpisodeRef], known: Container[str]) -> Iterator[Read]:
        """Episodes in their order; those whose place is known are not read."""
        waiting: deque[tuple[EpisodeRef, Future[RecordedEpisode | str] | None]] = deque()
        left = deque((ref, bool(ref.place) and ref.place in known) for ref in refs)
        unread, done = sum(not there for _, there in left), 0
        while left or waiting:
            while left and len(waiting) < self._depth(done, unread - done):
                ref, there = left.popleft()
                waiting.append((ref, None if there else self._begin(ref)))
            ref, future = waiting.popleft()
            if future is None:
                yield Read(ref, known=True)
                continue
            found = self._result(ref, future)
            done += 1
            yield Read(ref, why=found) if isinstance(found, str) else Read(ref, found)

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._thread.shutdown(cancel_futures=True)
        if self._processes is not None:
            self._processes.close()
        self._processes = None

    def _begin(self, ref: EpisodeRef) -> Future[RecordedEpisode | str]:
        if self._processes is not None and self._count:
            return self._processes.submit(ref)
        return self._thread.submit(_tried, self._taking, self._data, ref)

    def _result(
        self, ref: EpisodeRef, future: Future[RecordedEpisode | str]
    ) -> RecordedEpisode | str:
        try:
            return future.result()
        except _Ended:  # it was killed: for want of memory, most likely
            self._count = 0
            return self._thread.submit(_tried, self._taking, self._data, ref).result()

    def _depth(self, done: int, left: int) -> int:
        """How many episodes are being read, or wait to be written."""
        if self._processes is None and self._count > 1 and self._is_worth_it(done, left):
            self._processes = _Processes(self._count, self._open_again)
        return max(2, self._count + 1) if self._processes is not None else 2

    def _is_worth_it(self, done: int, left: int) -> bool:
        if self._asked:
            return left > 1
        spent_s = time.monotonic() - self._began_s
        return done > 0 and spent_s > _TRIED_S and spent_s / done * left > _LEFT_S


def _tried(taking: Taking, data: Source, ref: EpisodeRef) -> RecordedEpisode | str:
    """An episode, or why there is none: errors of ours do not all travel between processes."""
    try:
        return taking.read(data, ref)
    except (SuiteError, MemoryError) as error:
        return in_one_line(error)


class _Ended(Exception):
    """A process that reads is gone, with what it was to read."""


class _Processes:
    """Processes that read; each has a pipe of its own, whose end says that it is gone.

    The standard library's pool shares queues and their locks among its processes: one that is killed while another is
    being started lets it wait for ever.

    Args:
        count: How many.
        open_again: What each makes its own of the data set by.
    """

    def __init__(self, count: int, open_again: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="reading")
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._all: list[tuple[Any, Connection]] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_read_there, args=(theirs, os.getpid(), *open_again), daemon=True
            )
            process.start()
            theirs.close()  # or its end would not be seen
            self._all.append((process, ours))
            self._free.put(ours)

    def submit(self, ref: EpisodeRef) -> Future[RecordedEpisode | str]:
        """Have an episode read. The future raises _Ended when its process is gone."""
        return self._threads.submit(self._ask, ref)

    def _ask(self, ref: EpisodeRef) -> RecordedEpisode | str:
        link = self._free.get()
        try:
            link.send(ref)
            found: RecordedEpisode | str = link.recv()
            return found
        except (EOFError, OSError):
            raise _Ended from None
        finally:
            self._free.put(link)

    def close(self) -> None:
        """End them, whatever they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process, _ in self._all:
            process.kill()
            process.join()
        self._threads.shutdown()
        for _, link in self._all:
            link.close()


def _read_there(
    link: Connection,
    parent: int,
    taking: Callable[[Description, DataMapping | None], Taking],
    path: str,
    format_name: str,
    options: Mapping[str, Any],
    mapping: DataMapping | None,
) -> None:
    """The main function of a process that reads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has started it
    end_with_parent(signal.SIGKILL, parent)
    with open_source(path, format_name, options) as data:
        own = taking(data.describe(), mapping)
        while True:
            link.send(_tried(own, data, link.recv()))
