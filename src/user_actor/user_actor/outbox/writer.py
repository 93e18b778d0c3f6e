"""The thread that owns the outbox file: takes steps and answers, and makes both durable."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from user_actor.outbox.acks import AckHandler
from user_actor.outbox.chunks import ChunkBuilder, EpisodeProgress, UnnumberedChunk, number_chunk
from user_actor.outbox.storage import DiskReserve, Entry, OutboxDatabase
from user_core.types import (
    EpisodeResult,
    FinalObservation,
    Step,
    TrajectoryAck,
    TrajectorySchema,
)

_RETRY_S = 0.25
_FORGET_WITHIN_S = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReceivedAck:
    """An acknowledgement, and when it came (monotonic seconds)."""

    ack: TrajectoryAck
    at_s: float


@dataclass(frozen=True)
class DamagedChunk:
    """A chunk could not be read."""

    incarnation: int
    sequence: int
    reason: str


@dataclass(frozen=True)
class FlushRequest:
    """To set ``done`` once all that came before is committed."""

    done: threading.Event


@dataclass(frozen=True)
class Recording:
    """What the following episodes are recorded from.

    Attributes:
        schema: Columns of the chunks.
        robot: Name of the robot.
        task: Name of the task.
        max_rows: Most rows of a chunk.
    """

    schema: TrajectorySchema
    robot: str
    task: str
    max_rows: int


Item = (
    Recording
    | EpisodeProgress
    | Step
    | FinalObservation
    | EpisodeResult
    | ReceivedAck
    | DamagedChunk
    | FlushRequest
)


class ItemQueue:
    """Items for the writer's thread, in their order.

    Rows do not wake it while it will look by itself soon, for a chunk that is being collected
    becomes old: a control loop at hundreds of steps a second would hand the interpreter over at
    every one of them.

    Attributes:
        looks_soon: The writer will look by itself within the time that a chunk may collect rows.
        most_rows: It is woken when this many items wait: a chunk is full then.
    """

    def __init__(self) -> None:
        self._items: collections.deque[Item | None] = collections.deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.looks_soon = False
        self.most_rows = 1

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item | None) -> None:
        """Put an item, and wake the writer. Any thread; never blocks."""
        self._items.append(item)
        self._bell.put(None)

    def put_row(self, item: EpisodeProgress | Step | FinalObservation) -> None:
        """Put an item that can wait until a chunk is full or old. Never blocks."""
        self._items.append(item)
        if not self.looks_soon or len(self._items) >= self.most_rows:
            self._bell.put(None)

    def wait(self, wait_s: float | None) -> None:
        """Wait to be woken, for at most this long, seconds; None: for ever."""
        if self._items and not self.looks_soon:
            wait_s = 0.0  # it came before the writer said that it does not look soon
        with contextlib.suppress(queue.Empty):
            self._bell.get(wait_s != 0, wait_s)
            while True:
                self._bell.get_nowait()

    def take(self) -> Iterator[Item | None]:
        """What is there, oldest first."""
        with contextlib.suppress(IndexError):
            while True:
                yield self._items.popleft()


class OutboxWriter:
    """Takes items from a queue and commits them in groups. One thread.

    While the disk does not take them, it keeps them and tries again: nothing is dropped.

    Args:
        database: The file; nobody else writes to it.
        chunk_s: Longest time that a chunk collects steps, seconds.
        acks: Applies what the store says.
        reserve: Space for deleting on a full disk.
        on_commit: Called in this thread with the new chunks of each commit.

    Attributes:
        items: Where to put items.
        committed_rows: Rows made durable by this process.
        trouble: Why the last commit failed; empty if it did not.
        free_bytes: What is free on the disk.
    """

    def __init__(
        self,
        database: OutboxDatabase,
        chunk_s: float,
        acks: AckHandler,
        reserve: DiskReserve,
        on_commit: Callable[[Sequence[Entry]], None],
    ) -> None:
        self._database, self._chunk_s, self._acks = database, chunk_s, acks
        self._builder = ChunkBuilder(1, chunk_s, time.monotonic)
        self._recording: Recording | None = None
        self._reserve = reserve
        self._on_commit = on_commit
        self._unnumbered: list[tuple[Recording, UnnumberedChunk]] = []
        self._flushes: list[FlushRequest] = []
        self._forget_by_s: float | None = None
        self._stop_by_s: float | None = None
        self.items = ItemQueue()
        self._folder = os.fspath(database.path.parent)
        self.committed_rows = 0
        self.trouble = ""
        try:
            reserve.hold()
        except OSError as error:
            self.trouble = str(error)
        self.free_bytes = self._measure_free()
        self._thread = threading.Thread(target=self._run, name="outbox-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Commit what is there and end; False if the disk did not take it in time."""
        self._stop_by_s = time.monotonic() + timeout_s
        self.items.put(None)
        self._thread.join(timeout_s + 10)
        return not self._thread.is_alive() and not self._unnumbered

    def _run(self) -> None:
        while True:
            try:
                self._gather()
                self._commit()
                self.trouble = ""
            except Exception as error:  # whatever it is, it must not cost the data
                if not self.trouble:
                    expected = isinstance(error, (sqlite3.Error, OSError))
                    _log.error("outbox %s", self._database.path, exc_info=not expected)
                self.trouble = str(error) or type(error).__name__
                time.sleep(_RETRY_S)
            self.free_bytes = self._measure_free()
            if self._has_ended():
                return

    def _has_ended(self) -> bool:
        if self._stop_by_s is None or self.items:
            return False
        return not self._unnumbered or time.monotonic() > self._stop_by_s

    def _gather(self) -> None:
        """Wait for something to do, then take all that is there."""
        self.items.wait(0.0 if self._unnumbered else self._patience_s())
        self.items.looks_soon = False
        for item in self.items.take():
            self._take(item)
        self._add(self._builder.due())
        self.items.looks_soon = self._builder.wait_s() is not None

    def _patience_s(self) -> float | None:
        """How long nothing needs to be done, seconds; None: until something comes."""
        waits = [self._builder.wait_s()]
        if self._forget_by_s is not None:
            waits.append(max(0.0, self._forget_by_s - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def _take(self, item: Item | None) -> None:
        if item is None:
            self._add(self._builder.rest())
        elif isinstance(item, (Step, FinalObservation)):
            self._add(self._builder.append(item))
        elif isinstance(item, Recording):
            self._recording = item
            self._builder = ChunkBuilder(item.max_rows, self._chunk_s, time.monotonic)
            self.items.most_rows = item.max_rows
        elif isinstance(item, EpisodeProgress):
            self._builder.begin(item)
        elif isinstance(item, EpisodeResult):
            self._add(self._builder.end(item))
        elif isinstance(item, FlushRequest):
            self._add(self._builder.rest())
            self._flushes.append(item)
        elif isinstance(item, DamagedChunk):
            self._acks.damaged(item.incarnation, item.sequence, item.reason)
        else:
            self._acks.take(item.ack, item.at_s)
            if self._forget_by_s is None:
                self._forget_by_s = item.at_s + _FORGET_WITHIN_S

    def _commit(self) -> None:
        forget = self._forget_by_s is not None and time.monotonic() >= self._forget_by_s
        if self.trouble:
            self._make_room()
        if self._unnumbered:
            while self._unnumbered:  # in small pieces while it is difficult
                self._commit_chunks(self._unnumbered[: 1 if self.trouble else None])
        elif forget:
            self._acks.commit()
        if forget:
            self._forget_by_s = None
            self._database.shrink()
        for flush in self._flushes:
            flush.done.set()
        self._flushes = []

    def _make_room(self) -> None:
        """Delete what can go before adding anything. Raises OSError while that is too little."""
        self._reserve.release()
        self._acks.commit()
        self._database.give_back(self._reserve.nbytes)
        self._reserve.hold()

    def _add(self, cut: Sequence[UnnumberedChunk]) -> None:
        if self._recording is not None:  # an episode begins after it
            self._unnumbered += [(self._recording, chunk) for chunk in cut]

    def _commit_chunks(self, cut: Sequence[tuple[Recording, UnnumberedChunk]]) -> None:
        chunks = [
            number_chunk(chunk, self._database.next_id(i), made.schema, made.robot, made.task)
            for i, (made, chunk) in enumerate(cut)
        ]
        entries = self._database.commit(
            chunks,
            cut[-1][1].progress,
            self._acks.acknowledged,
            self._acks.store,
            [made.schema for made, _ in cut],
        )
        self._acks.forgotten()
        del self._unnumbered[: len(cut)]
        self.committed_rows += sum(len(chunk) for chunk in chunks)
        self._on_commit(entries)

    def _measure_free(self) -> int:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize
