"""The durable outbox: what an actor experiences, safe on its disk until the store has it."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from user_actor.outbox.acks import AckFilter, AckHandler
from user_actor.outbox.chunks import EpisodeProgress
from user_actor.outbox.config import MIB, OutboxConfig
from user_actor.outbox.delivery import CodingChooser, DeliveryThread, SendQueue
from user_actor.outbox.inspect import keep_meaning
from user_actor.outbox.storage import RESERVE, DiskReserve, Entry, close_left_open, open_database
from user_actor.outbox.writer import (
    DamagedChunk,
    FlushRequest,
    OutboxWriter,
    ReceivedAck,
    Recording,
)
from user_core.errors import ConfigError, SpecError, StoreError, StoreFull
from user_core.reasons import (
    ACKS_IGNORED,
    DISK_FULL,
    NO_REASON,
    NOT_DELIVERED,
    OUTBOX_CHANGED,
    OUTBOX_FULL,
    OUTBOX_MEMORY,
    OUTBOX_WRITE,
    STORE_REFUSED,
    STORE_WAITS,
    Reason,
)
from user_core.runtime.link_model import LinkWindow
from user_core.runtime.locks import FileLock
from user_core.specs import RobotSpec, check_arrays
from user_core.types import (
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Step,
    TrajectoryAck,
    TrajectoryChunk,
    TrajectorySchema,
)

_RESUME = 0.9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CHUNK_OVERHEAD_BYTES = 4096


@dataclass(frozen=True)
class OutboxStatus:
    """How an outbox is doing.

    Attributes:
        pending_chunks: Chunks that are committed and not acknowledged.
        pending_bytes: Their size.
        oldest_age_s: Age of the oldest, seconds.
        fill: Share of the quota that is used.
        memory_rows: Rows that wait for the disk.
        total_steps: Steps ever committed.
        window_bytes: What may be under way.
        round_trip_s: From sending to acknowledgement, seconds; 0 before the first.
        sent: Chunks sent by this process, repetitions included.
        resent: Chunks sent again.
        aside_chunks: Chunks kept aside.
        warnings: What a person should look at.
        coding: What images are sent in; empty: plain.
        delivered_bytes: What this process sent and the store acknowledged.
        base_s: Shortest recent round trip, seconds.
        link_bytes_s: Measured rate of the way to the store; 0 before the first answers.
    """

    pending_chunks: int
    pending_bytes: int
    oldest_age_s: float
    fill: float
    memory_rows: int
    total_steps: int
    window_bytes: int
    round_trip_s: float
    sent: int
    resent: int
    aside_chunks: int
    warnings: tuple[Reason, ...]
    link_bytes_s: float = 0.0
    base_s: float = 0.0
    delivered_bytes: int = 0
    coding: str = ""


# --- When to stop collecting: before anything would have to be dropped ---


class PauseRules:
    """Says why collecting must pause, and when it may go on. Pure, with hysteresis.

    Attributes:
        reason: Why collecting pauses now; false while it may go on.
    """

    def __init__(self, config: OutboxConfig) -> None:
        self._config = config
        self._closed: set[str] = set()
        self.reason = NO_REASON

    def update(
        self, used_bytes: int, memory_bytes: int, free_bytes: int, trouble: str, refusal: str
    ) -> Reason:
        """Judge the state of the outbox.

        Args:
            used_bytes: Size of all chunks in the outbox.
            memory_bytes: Size of the steps that wait for the disk.
            free_bytes: What is free on the disk.
            trouble: Why the last commit failed; empty if it did not.
            refusal: Why the store refused a chunk for good; empty if it did not.

        Returns:
            The reason to pause, false when collecting may go on. Where there are several, the
            code is the first one's, and the text names all.
        """
        config = self._config
        filled = used_bytes + memory_bytes
        reasons = []
        if refusal:
            reasons.append(Reason(STORE_REFUSED, refusal))
        if trouble:
            reasons.append(Reason(OUTBOX_WRITE, f"the outbox cannot be written: {trouble}"))
        if self._past("quota", filled, config.quota_bytes):
            text = f"the outbox holds {filled / MIB:.0f} of {config.quota_bytes / MIB:.0f} MiB"
            reasons.append(Reason(OUTBOX_FULL, f"{text} that no store has acknowledged"))
        if self._past("memory", memory_bytes, config.memory_bytes // 2):
            text = f"{memory_bytes / MIB:.0f} MiB of steps wait for the disk"
            reasons.append(Reason(OUTBOX_MEMORY, text))
        # closes where as little as allowed is free, opens once a tenth more than that is
        if self._past("disk", 2 * config.min_free_bytes - free_bytes, config.min_free_bytes):
            text = f"{free_bytes / MIB:.0f} MiB are free on the disk, "
            text += f"{config.min_free_bytes / MIB:.0f} must stay"
            reasons.append(Reason(DISK_FULL, text))
        self.reason = NO_REASON
        if reasons:
            self.reason = Reason(reasons[0].code, "; ".join(reason.text for reason in reasons))
        return self.reason

    def _past(self, name: str, value: float, limit: float) -> bool:
        """Whether a limit was reached and ``value`` is not yet well below it again."""
        if value >= limit:
            self._closed.add(name)
        elif value < limit * _RESUME:
            self._closed.discard(name)
        return name in self._closed


# --- The durable outbox: what an actor experiences, safe on its disk until the store has it ---


_LARGEST_FLOAT32 = 3.4028234e38


class Outbox:
    """A TransitionSink that loses nothing.

    :meth:`append` hands a step to a thread that commits it to disk within ``chunk_s``; another
    thread sends what is committed and sends it again until the store acknowledges it. Neither
    disk nor network ever holds up the caller. :meth:`why_paused` says when to stop collecting;
    whoever does so loses nothing.

    A step is committed once its chunk is in the file; from then on it survives any end of the
    process, and reaches the store exactly once. An episode that a process left open is closed
    by the next: a chunk without rows carries the result, with outcome UNFINISHED.

    Args:
        config: Parameters.
        producer: Name of the actor, unique in a deployment.
        spec: The robot; may be told later, see :meth:`prepare`.
        robot: Name of the robot.
        task: Name of the task.
        on_commit: Called with the new chunks after each commit, in the writer's thread.

    Attributes:
        recovered: Result of the episode that an earlier process left open, if any.

    Raises:
        ConfigError: ``producer`` cannot be the name of a folder.
        StoreError: The outbox is in use, belongs to another actor, or cannot be opened.
    """

    def __init__(
        self,
        config: OutboxConfig,
        producer: str,
        spec: RobotSpec | None = None,
        robot: str = "",
        task: str = "",
        on_commit: Callable[[Sequence[Entry]], None] | None = None,
    ) -> None:
        if not _NAME.fullmatch(producer):
            raise ConfigError("producer", got=repr(producer), expected="letters, digits, _ . -")
        self.config, self.producer = config, producer
        self._spec: RobotSpec | None = None
        self._row_nbytes = 0
        self._pause = PauseRules(config)
        self._chooser = CodingChooser(config)
        self._appended_rows = self._episodes = 0
        self._key: EpisodeKey | None = None
        self._final = self._closed = False
        self._folder = folder = config.directory / producer
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(
            folder / "lock", hint="End that process, or give this actor a name of its own"
        )
        try:
            self._database, note = open_database(folder, producer, config.durability)
            self._notes = [note] if note else []
            self.recovered = close_left_open(self._database)
            self._connect(on_commit)
        except sqlite3.Error as error:
            self._lock.release()
            raise StoreError(
                f"outbox {folder}", got=str(error), expected="a disk with room"
            ) from error
        except BaseException:
            self._lock.release()
            raise
        if spec is not None:
            self.prepare(spec, robot, task)
        self._writer.start()
        self._delivery.start()

    # -- collecting, from one thread

    def prepare(self, spec: RobotSpec, robot: str = "", task: str = "") -> None:
        """Say what the following episodes are recorded from. Raises StoreError within one.

        Until then what earlier processes left is delivered, and nothing can be collected.
        """
        if self._key is not None:
            raise StoreError("change of the robot", got=f"{self._key} open", expected="its end")
        schema = TrajectorySchema.of(spec, plans=True)
        self._spec, self._row_nbytes = spec, schema.row_nbytes
        keep_meaning(self._folder, spec, alone=not self._database.pending)
        rows = max(1, (self.config.chunk_bytes - _CHUNK_OVERHEAD_BYTES) // schema.row_nbytes)
        self._writer.items.put(Recording(schema, robot, task, rows))

    def begin_episode(self, source: EpisodeSource) -> EpisodeKey:
        """Begin an episode; the steps that follow belong to it. Raises StoreError within one."""
        if self._key is not None:
            raise StoreError("begin of an episode", got=f"{self._key} open", expected="its end")
        if self._spec is None:
            raise StoreError("begin of an episode", got="no robot", expected="prepare() first")
        self._key = EpisodeKey(self.producer, self._database.process, self._episodes)
        self._episodes += 1
        self._final = False
        self._writer.items.put_row(EpisodeProgress(self._key, source))
        return self._key

    def append(self, step: Step | FinalObservation) -> None:
        """Take one row; returns at once.

        Raises:
            SpecError: It does not fit the robot's spec; it was not taken.
            StoreError: Outside an episode, or behind its final observation.
            StoreFull: Steps were appended in spite of :meth:`why_paused`, and memory is full.
        """
        if self._spec is None or self._key is None or self._final:
            raise StoreError(
                "step for the outbox",
                got="one behind the final observation" if self._final else "no open episode",
                expected="begin_episode() first",
            )
        self._check(step, self._spec)
        if self._memory_bytes() >= self.config.memory_bytes:
            raise StoreFull(
                "outbox",
                got=f"{self._memory_bytes()} bytes that wait for the disk",
                expected=f"less than {self.config.memory_bytes}",
                hint="Pause collecting while why_paused() gives a reason",
            )
        self._final = isinstance(step, FinalObservation)
        self._appended_rows += 1
        self._writer.items.put_row(step)

    def end_episode(self, result: EpisodeResult) -> None:
        """Close the episode. Raises StoreError unless ``result`` has its key."""
        if result.key != self._key:
            raise StoreError("end of an episode", got=result.key, expected=self._key)
        self._key = None
        self._writer.items.put(result)

    def why_paused(self) -> Reason:
        """Why collecting must pause; false while it may go on."""
        database = self._database
        return self._pause.update(
            database.pending_bytes + database.aside_bytes,
            self._memory_bytes(),
            self._writer.free_bytes,
            self._writer.trouble,
            self._acks.refusal,
        )

    @property
    def total_steps(self) -> int:
        """Steps ever committed by this outbox, earlier processes included."""
        return self._database.steps

    # -- delivering

    def deliver_to(self, send: Callable[[TrajectoryChunk], None] | None) -> None:
        """Send chunks with this function, in a thread of the outbox; None: keep them for now."""
        self._delivery.deliver_to(send)

    def acknowledge(self, ack: TrajectoryAck) -> None:
        """Take an answer of a store; returns at once. Any thread."""
        self._writer.items.put(ReceivedAck(ack, time.monotonic()))

    def revive(self) -> None:
        """Somebody listens again: send at once what has waited for an answer. Any thread."""
        with self._changed:
            self._queue.revive()
            self._changed.notify_all()

    # -- looking and ending

    def status(self) -> OutboxStatus:
        """How it is doing. Reads from the disk: not for the control loop."""
        database, acks = self._database, self._acks
        oldest_ns = database.oldest_ns()
        with self._changed:
            window = self._queue.window
            window_bytes, round_trip_s = window.nbytes, window.round_trip_s
            link_bytes_s, base_s = window.rate_bytes_s, window.base_s
            delivered_bytes = self._queue.delivered_bytes
        said = [
            self._pause.reason,
            Reason(STORE_WAITS if acks.waiting else "", acks.waiting),
            Reason(NOT_DELIVERED if self._delivery.trouble else "", self._delivery.trouble),
            *(Reason(OUTBOX_CHANGED, note) for note in [*acks.notes, *self._notes]),
            *(
                Reason(ACKS_IGNORED, f"{number} acknowledgements ignored: {why}")
                for why, number in self._filter.ignored.items()
            ),
        ]
        return OutboxStatus(
            pending_chunks=database.pending,
            pending_bytes=database.pending_bytes,
            oldest_age_s=max(0.0, (time.time_ns() - oldest_ns) / 1e9) if oldest_ns else 0.0,
            fill=(database.pending_bytes + database.aside_bytes) / self.config.quota_bytes,
            memory_rows=self._appended_rows - self._writer.committed_rows,
            total_steps=database.steps,
            window_bytes=window_bytes,
            link_bytes_s=link_bytes_s,
            base_s=base_s,
            delivered_bytes=delivered_bytes,
            coding=self._chooser.coding,
            round_trip_s=round_trip_s,
            sent=self._delivery.sent,
            resent=self._queue.resent,
            aside_chunks=database.aside,
            warnings=tuple(reason for reason in said if reason),
        )

    def set_aside(self) -> list[tuple[TrajectoryChunk, str, str]]:
        """The chunks that are kept aside, with code and reason."""
        return self._database.set_aside()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was appended is committed; False if that took too long."""
        flush = FlushRequest(threading.Event())
        self._writer.items.put(flush)
        return flush.done.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Commit what is there, and let go of the file. Idempotent.

        Raises StoreError if the disk has not taken everything by then.
        """
        if self._closed:
            return
        self._closed = True
        self._delivery.stop()
        committed = self._writer.stop(timeout_s)
        if committed:
            self._database.close()
        self._lock.release()
        if not committed:
            raise StoreError(
                "outbox could not be closed in order",
                got=f"{self._appended_rows - self._writer.committed_rows} rows that the disk did "
                f"not take: {self._writer.trouble}",
                expected="all rows on the disk",
            )

    # -- within

    def _connect(self, on_commit: Callable[[Sequence[Entry]], None] | None) -> None:
        config, database = self.config, self._database
        self._changed = threading.Condition()
        self._filter = AckFilter(config.rebind_after_s)
        window = LinkWindow(
            config.window_min_bytes,
            config.window_max_bytes,
            config.resend_min_s,
            config.resend_max_s,
        )
        self._queue = SendQueue(database.upcoming, window)
        self._acks = AckHandler(database, self._queue, self._changed, self._filter)

        def committed(entries: Sequence[Entry]) -> None:
            with self._changed:
                self._queue.more()
                self._changed.notify_all()
            if on_commit is not None:
                on_commit(entries)

        self._writer = OutboxWriter(
            database,
            config.chunk_s,
            self._acks,
            DiskReserve(database.path.with_name(RESERVE)),
            committed,
        )
        self._delivery = DeliveryThread(
            database, self._queue, self._changed, self._chooser,
            lambda *damage: self._writer.items.put(DamagedChunk(*damage)),
        )  # fmt: skip

    def _memory_bytes(self) -> int:
        return (self._appended_rows - self._writer.committed_rows) * self._row_nbytes

    def _check(self, row: Step | FinalObservation, spec: RobotSpec) -> None:
        check_arrays(row.observation, spec.observation)
        if isinstance(row, Step):
            spec.action.check(row.action, "action")
            spec.action.check(row.proposed_action, "proposed_action")
            if not abs(row.reward) <= _LARGEST_FLOAT32:
                raise SpecError("reward of a step", got=row.reward, expected="a finite float32")
