"""The durable outbox: what an actor experiences, safe on its disk until the store has it."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from user_actor.outbox.answers import Answers
from user_actor.outbox.coding import CodingChooser
from user_actor.outbox.config import OutboxConfig
from user_actor.outbox.courier import Courier
from user_actor.outbox.database import Entry
from user_actor.outbox.gate import CollectionGate
from user_actor.outbox.process_lock import ProcessLock
from user_actor.outbox.progress import EpisodeProgress
from user_actor.outbox.recovery import RESERVE, close_left_open, open_database
from user_actor.outbox.reserve import Reserve
from user_actor.outbox.sender import Sender
from user_actor.outbox.status import OutboxStatus
from user_actor.outbox.verdict import AckJudge
from user_actor.outbox.writer import Answer, Damaged, Flush, OutboxWriter, Recording
from user_core.errors import ConfigError, SpecError, StoreError, StoreFull
from user_core.link_window import LinkWindow
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

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CHUNK_OVERHEAD_BYTES = 4096
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
        self._gate = CollectionGate(config)
        self._chooser = CodingChooser(config)
        self._appended_rows = self._episodes = 0
        self._key: EpisodeKey | None = None
        self._final = self._closed = False
        folder = config.directory / producer
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = ProcessLock(folder / "lock")
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
        self._courier.start()

    # -- collecting, from one thread

    def prepare(self, spec: RobotSpec, robot: str = "", task: str = "") -> None:
        """Say what the following episodes are recorded from. Raises StoreError within one.

        Until then what earlier processes left is delivered, and nothing can be collected.
        """
        if self._key is not None:
            raise StoreError("change of the robot", got=f"{self._key} open", expected="its end")
        schema = TrajectorySchema.of(spec)
        self._spec, self._row_nbytes = spec, schema.row_nbytes
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
        self._writer.items.put(EpisodeProgress(self._key, source))
        return self._key

    def append(self, step: Step | FinalObservation) -> None:
        """Take one row; returns at once.

        Raises:
            SpecError: It does not fit the robot's spec; it was not taken.
            StoreError: Outside an episode, or behind its final observation.
            StoreFull: Nobody heeded :meth:`why_paused`, and memory is full; it was not taken.
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
        self._writer.items.put(step)

    def end_episode(self, result: EpisodeResult) -> None:
        """Close the episode. Raises StoreError unless ``result`` has its key."""
        if result.key != self._key:
            raise StoreError("end of an episode", got=result.key, expected=self._key)
        self._key = None
        self._writer.items.put(result)

    def why_paused(self) -> str:
        """Why collecting must pause, for people; empty while it may go on."""
        database = self._database
        return self._gate.update(
            database.pending_bytes + database.aside_bytes,
            self._memory_bytes(),
            self._writer.free_bytes,
            self._writer.trouble,
            self._answers.refusal,
        )

    @property
    def total_steps(self) -> int:
        """Steps ever committed by this outbox, earlier processes included."""
        return self._database.steps

    # -- delivering

    def deliver_to(self, send: Callable[[TrajectoryChunk], None] | None) -> None:
        """Send chunks with this function, in a thread of the outbox; None: keep them for now."""
        self._courier.deliver_to(send)

    def acknowledge(self, ack: TrajectoryAck) -> None:
        """Take an answer of a store; returns at once. Any thread."""
        self._writer.items.put(Answer(ack, time.monotonic()))

    def revive(self) -> None:
        """Somebody listens again: send at once what has waited for an answer. Any thread."""
        with self._changed:
            self._sender.revive()
            self._changed.notify_all()

    # -- looking and ending

    def status(self) -> OutboxStatus:
        """How it is doing. Reads from the disk: not for the control loop."""
        database, answers = self._database, self._answers
        oldest_ns = database.oldest_ns()
        with self._changed:
            window = self._sender.window
            window_bytes, round_trip_s = window.nbytes, window.round_trip_s
            link_bytes_s, base_s = window.rate_bytes_s, window.base_s
            delivered_bytes = self._sender.delivered_bytes
        said = [self._gate.reason, answers.waiting, self._courier.trouble, *answers.notes]
        ignored = [f"{n} answers ignored: {why}" for why, n in self._judge.ignored.items()]
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
            sent=self._courier.sent,
            resent=self._sender.resent,
            aside_chunks=database.aside,
            warnings=tuple(text for text in [*said, *self._notes, *ignored] if text),
        )

    def set_aside(self) -> list[tuple[TrajectoryChunk, str, str]]:
        """The chunks that are kept aside, with code and reason."""
        return self._database.set_aside()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was appended is committed; False if that took too long."""
        flush = Flush(threading.Event())
        self._writer.items.put(flush)
        return flush.done.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Commit what is there, and let go of the file. Idempotent.

        Raises StoreError if the disk has not taken everything by then.
        """
        if self._closed:
            return
        self._closed = True
        self._courier.stop()
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
        self._judge = AckJudge(config.rebind_after_s)
        window = LinkWindow(
            config.window_min_bytes,
            config.window_max_bytes,
            config.resend_min_s,
            config.resend_max_s,
        )
        self._sender = Sender(database.upcoming, window)
        self._answers = Answers(database, self._sender, self._changed, self._judge)

        def committed(entries: Sequence[Entry]) -> None:
            with self._changed:
                self._sender.more()
                self._changed.notify_all()
            if on_commit is not None:
                on_commit(entries)

        self._writer = OutboxWriter(
            database,
            config.chunk_s,
            self._answers,
            Reserve(database.path.with_name(RESERVE)),
            committed,
        )
        self._courier = Courier(
            database, self._sender, self._changed, self._chooser,
            lambda *damage: self._writer.items.put(Damaged(*damage)),
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
