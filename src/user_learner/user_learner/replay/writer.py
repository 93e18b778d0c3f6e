"""The writer: takes chunks, makes them durable, acknowledges them. One per store.

Order of a commit, and what a crash in between leaves::

    rows and log lines into the files      bytes beyond the committed ones: nobody looks there
    fsync of these files                   the same
    one index transaction                  everything, sequence numbers included
    acknowledgement                        a chunk that comes again is recognised

So a chunk is in the store exactly once, or not at all and not acknowledged. Several chunks
share one commit (group commit), because an fsync costs the same for one as for fifty.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from user_core.errors import SpecError, StoreCorrupt, StoreError, StoreFull, SuiteError
from user_core.runtime.locks import FileLock
from user_core.specs import RobotSpec
from user_core.types import TrajectoryAck, TrajectoryChunk, TrajectorySchema
from user_learner.replay.config import RetentionConfig, StoreConfig
from user_learner.replay.index import (
    INDEX_NAME,
    Damage,
    StoreMeta,
    connect,
    corruption_named,
    disk_error,
    require_space,
    set_aside,
    set_schema,
    write_meta,
)
from user_learner.replay.ingest import (
    MAX_INT,
    AppendResult,
    ArrivalTimes,
    ChunkStatus,
    ReorderBuffer,
    Rows,
    Stager,
    check_chunk,
)
from user_learner.replay.layout import RowLayout, require_same_schema, schema_from_chunk
from user_learner.replay.maintenance import Retired, retire
from user_learner.replay.meaning import ProducerMeanings
from user_learner.replay.pending_index import PendingIndex
from user_learner.replay.recovery import open_or_repair
from user_learner.replay.segments import OpenSegments

T = TypeVar("T")


class StoreWriter:
    """Appends trajectory chunks to a replay store. All methods may be called from any thread.

    Args:
        path: Directory of the store; made when it is not there.
        schema: Schema of its rows. None takes that of the store, or of the first chunk.
        config: How to write.

    Raises:
        StoreError: Another writer has the store, or it is of another format.
        SchemaMismatch: The store has another schema; the message spells out the difference.
        StoreFull: There is no room to work in.
    """

    def __init__(
        self,
        path: str | Path,
        schema: TrajectorySchema | None = None,
        config: StoreConfig | None = None,
    ) -> None:
        self.path = Path(path)
        self._index_path = self.path / INDEX_NAME
        self.config = config or StoreConfig()
        #: What was found damaged on opening, and what was done about it; for people.
        self.warnings: list[str] = []
        self._mutex = threading.RLock()  # guards everything below; never held during an fsync
        self._committing = threading.RLock()  # taken before the other, by one commit at a time
        self._syncing = ThreadPoolExecutor(4, thread_name_prefix="replay-fsync")
        self._reorder = ReorderBuffer(self.config.reorder_bytes)
        self._staged_bytes, self._staged_since_s, self._schema_hash = 0, 0.0, ""
        self._arrivals = ArrivalTimes()
        self._meanings = ProducerMeanings(self.path, self.config.accept_differences)
        self._advanced: dict[tuple[str, int], None] = {}  # since the last call of commit
        self._stager: Stager | None = None
        self._open_segments: OpenSegments | None = None
        self._db: sqlite3.Connection | None = None
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(
            self.path / "writer.lock",
            f"replay store {self.path}",
            "One writer at a time: stop the other one, or open the store for reading",
        )
        try:
            self.warnings += open_or_repair(self.path)
            durable = self.config.durability == "fsync"
            self._db = connect(self.path, writable=True, durable=durable)
            self._pending = PendingIndex(self._db)
            if schema is not None:
                self._take_schema(schema)
            self._open_for_writing()
        except OSError as error:
            self.close()
            raise disk_error(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._db is not None:
                self.commit()
        finally:
            self.close()

    @property
    def store(self) -> str:
        """Identity of the store; acknowledgements carry it."""
        return self._pending.meta.store

    @property
    def schema(self) -> TrajectorySchema | None:
        """Schema of the rows; None until the first chunk of a new store."""
        return self._pending.meta.schema

    @property
    def commit_due(self) -> bool:
        """Whether something has been staged for longer than the commit period, or a producer
        has not been told yet that it moved on."""
        with self._mutex:
            age_s = time.monotonic() - self._staged_since_s
            old = self._pending.dirty and age_s >= self.config.commit_period_s
            return old or bool(self._advanced)

    def acknowledged(self) -> list[TrajectoryAck]:
        """The acknowledgement of every producer, for one that has just come (back)."""
        with self._mutex:
            return [self._ack(*producer) for producer in self._pending.producers()]

    def expect(self, producer: str, *specs: RobotSpec) -> None:
        """Say what the chunks of a producer mean (several: any of these). Where that is not what
        the store's rows mean, they are refused; an empty store takes over the meaning."""
        with self._mutex:
            self._meanings.expect(producer, *specs)

    def meaning_notes(self) -> list[str]:
        """What was accepted or could not be compared since the last call, for people."""
        with self._mutex:
            notes, self._meanings.notes = self._meanings.notes, []
            return notes

    def append(self, chunk: TrajectoryChunk) -> AppendResult:
        """Take a chunk. It is durable once an acknowledgement from :meth:`commit` covers it.

        Chunks of one (producer, incarnation) are stored in the order of their numbers. One
        that comes too early waits in memory as long as there is room; either way it is not
        acknowledged, and its producer sends it again. A chunk without rows is allowed: it
        brings a result, or stands for a chunk that was refused.

        Raises:
            StoreFull: The disk is full. What was staged since the last commit is forgotten,
                nothing that was acknowledged is touched; the producers send it again.
            StoreError: The disk failed, with the same consequences.
        """
        return self._append(chunk, in_order=True)

    def append_merged(self, chunk: TrajectoryChunk) -> AppendResult:
        """As :meth:`append`, for a chunk from another store, which may have forgotten others:
        numbers may be left out, but never go back."""
        return self._append(chunk, in_order=False)

    def adopt(self, chunk: TrajectoryChunk) -> bool:
        """Take a whole episode from a file, unless it is here; its chunk identity is ignored.

        Returns whether it was taken; durable after :meth:`commit`.

        Raises:
            SchemaMismatch, SpecError, StoreError: It cannot be stored as it is.
            StoreFull: As :meth:`append`.
        """
        with self._mutex:
            stager = self._require_stager(chunk)
            if self._pending.episode(chunk.episode) is not None:
                return False
            self._check(chunk, MAX_INT, MAX_INT)
            rows = replace(Rows.of(chunk), chunk=None)
            stager.check(rows)
            self._write(stager, rows, chunk.nbytes)
        self._commit_when_large()
        return True

    def commit(self) -> list[TrajectoryAck]:
        """Make durable what is staged; return an acknowledgement per producer that moved on
        since the last call, also by a commit that :meth:`append` made by itself.

        Chunks can be appended meanwhile; they belong to the next commit. Raises as
        :meth:`append`.
        """
        self._commit_group()
        with self._mutex:
            moved, self._advanced = self._advanced, {}
            return [self._ack(*producer) for producer in moved]

    def retain(self, policy: RetentionConfig | None = None) -> list[Retired]:
        """Drop whole segments that the policy (by default the configured one) lets go; commits first.
        Rules about episodes are those of :mod:`user_learner.upkeep.retention`."""
        policy = policy or self.config.retention
        self._commit_group()
        with self._mutex:
            if policy.keeps_all or self._stager is None or self._db is None:
                return []
            gone = retire(self.path, self._db, self._stager.layout.row_nbytes, policy)
            self._pending.refresh_meta()
            return gone

    def exceeds(self, policy: RetentionConfig) -> bool:
        """Whether more is committed than a policy keeps, or one that was at work has not ended."""
        with self._mutex:
            if policy.keeps_all or self._stager is None or self._db is None:
                return False
            rows = self._db.execute("SELECT coalesce(sum(rows), 0) FROM segments").fetchone()[0]
            most = policy.most_rows(self._stager.layout.row_nbytes)
            return bool(rows > most or self._pending.meta.leaving)

    def commit_staged(self) -> None:
        """Make durable what is staged; acknowledgements are for the next :meth:`commit`."""
        self._commit_group()

    def rewrite(
        self,
        nbytes: int,
        write: Callable[[StoreMeta, int], T],
        install: Callable[[sqlite3.Connection, T], list[Retired]],
    ) -> list[Retired]:
        """Put a new segment in the place of old ones; appending goes on meanwhile.

        Args:
            nbytes: Room that it takes.
            write: Makes its files, durably, with the number that it is given; no lock is held.
            install: Lets the index speak of it, in one transaction.

        Raises:
            StoreFull, StoreError: Nothing has changed.
        """
        with self._mutex:
            self._require_open()
            number, meta = self._pending.reserve_segment(), self._pending.meta
        require_space(self.path, self.config.min_free_bytes + nbytes)
        try:
            made = write(meta, number)
        except OSError as error:
            raise disk_error(self.path, error) from error
        with self._mutex, corruption_named(self._index_path):
            gone = install(self._require_open(), made)
            self._pending.refresh_meta()
        return gone

    def note(self, **values: str) -> None:
        """Write values of the index's meta table, where they are others."""
        with self._mutex, corruption_named(self._index_path):
            write_meta(self._require_open(), **values)
            self._pending.refresh_meta()

    def set_aside(self, damages: Iterable[Damage]) -> None:
        """Quarantine rows that a verification found damaged; commits first."""
        self._commit_group()
        with self._mutex:
            set_aside(self._require_open(), damages)
            self._start_over()  # their segments take no rows any more

    def refusal(self, chunk: TrajectoryChunk, error: SuiteError) -> TrajectoryAck:
        """What to tell a producer whose chunk was not taken, for instance for a full disk."""
        with self._mutex:
            ack = self._ack(chunk.id.producer, chunk.id.incarnation)
            return replace(ack, refused=chunk.id.sequence, error_code=error.code, error=str(error))

    def close(self) -> None:
        """Let go of the store; what is staged and not committed is forgotten. Idempotent."""
        with self._committing, self._mutex:
            if self._open_segments is not None:
                self._open_segments.close()
            self._open_segments = self._stager = None
            if self._db is not None:
                self._db.close()
                self._db = None
            self._syncing.shutdown()
            self._lock.release()

    def _append(self, chunk: TrajectoryChunk, in_order: bool) -> AppendResult:
        with self._mutex, corruption_named(self._index_path):
            result = self._stage(chunk, in_order)
        self._commit_when_large()
        return result

    def _stage(self, chunk: TrajectoryChunk, in_order: bool) -> AppendResult:
        producer, incarnation, sequence = chunk.id.producer, chunk.id.incarnation, chunk.id.sequence
        try:
            stager = self._require_stager(chunk)
            chunk = replace(chunk, columns=stager.layout.schema.fitted(chunk.columns))
            expected = self._pending.sequence(producer, incarnation) + 1
            if 0 < sequence < expected:
                return AppendResult(ChunkStatus.DUPLICATE, self._ack(producer, incarnation))
            self._check(chunk, self.config.max_chunk_rows, self.config.max_chunk_bytes)
            if len(chunk):  # without rows it means nothing: it may stand for one that was refused
                is_empty = not self._pending.producers()
                self._meanings.require(producer, stager.layout.schema, is_empty)
            if in_order and sequence > expected:
                self._reorder.hold(chunk)
                return AppendResult(ChunkStatus.EARLY, self._ack(producer, incarnation))
            stager.check(Rows.of(chunk))
        except (SpecError, StoreError) as error:
            if self._db is None or isinstance(error, (StoreFull, StoreCorrupt)):
                raise
            return AppendResult(ChunkStatus.REFUSED, self.refusal(chunk, error))
        self._write(stager, Rows.of(chunk), chunk.nbytes)
        self._arrivals.note(producer, incarnation, sequence, time.monotonic_ns())
        waited = self._write_waiting(stager, producer, incarnation)
        ack = self._ack(producer, incarnation)
        return AppendResult(ChunkStatus.STAGED, ack, (chunk, *waited))

    def _commit_group(self) -> None:
        with self._committing:
            with self._mutex:
                self._require_open()
                if not self._pending.dirty or self._open_segments is None:
                    return
                files = self._open_segments.files(self._pending.changed_segments())
                group, self._staged_bytes = self._pending.detach(), 0
            try:
                with self._reset_on_failure():
                    if self.config.durability == "fsync":
                        files.sync(self._syncing)
                    with self._mutex:
                        self._advanced.update(dict.fromkeys(self._pending.flush(group)))
            finally:
                files.close()

    def _commit_when_large(self) -> None:
        with self._mutex:
            large = self._staged_bytes >= self.config.commit_bytes
        if large:
            self._commit_group()

    def _check(self, chunk: TrajectoryChunk, max_rows: int, max_bytes: int) -> None:
        schema = self._pending.meta.schema
        if schema is not None:
            check_chunk(chunk, schema, self._schema_hash, max_rows, max_bytes)

    def _write(self, stager: Stager, rows: Rows, nbytes: int) -> None:
        require_space(self.path, self.config.min_free_bytes + nbytes)
        if not self._pending.dirty:
            self._staged_since_s = time.monotonic()
        with self._reset_on_failure():
            stager.write(rows)
        self._staged_bytes += nbytes

    def _write_waiting(
        self, stager: Stager, producer: str, incarnation: int
    ) -> list[TrajectoryChunk]:
        """Stage the chunks that waited for the one that has just come, and return them."""
        waited: list[TrajectoryChunk] = []
        while True:
            following = self._pending.sequence(producer, incarnation) + 1
            chunk = self._reorder.take(producer, incarnation, following)
            if chunk is None:
                return waited
            try:
                stager.check(Rows.of(chunk))
                require_space(self.path, self.config.min_free_bytes + chunk.nbytes)
            except StoreError:
                return waited  # its producer sends it again, and gets the reason then
            self._write(stager, Rows.of(chunk), chunk.nbytes)
            waited.append(chunk)

    def _ack(self, producer: str, incarnation: int) -> TrajectoryAck:
        sequence = self._pending.committed(producer, incarnation)
        arrived_ns = self._arrivals.of(producer, incarnation, sequence)
        held_ns = time.monotonic_ns() - arrived_ns if arrived_ns else 0
        return TrajectoryAck(
            producer, incarnation, sequence, self.store, arrived_ns=arrived_ns, held_ns=held_ns
        )

    def _require_open(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"replay store {self.path} is closed", expected="an open writer")
        return self._db

    def _require_stager(self, chunk: TrajectoryChunk) -> Stager:
        """The stager; on the first chunk of a new store, its schema becomes the store's."""
        self._require_open()
        if self._stager is None:
            schema = self._pending.meta.schema
            if schema is None:
                schema = schema_from_chunk(chunk)
                check_chunk(chunk, schema, schema.hash, MAX_INT, MAX_INT)
            with self._reset_on_failure():
                self._take_schema(schema)
                self._open_for_writing()
        if self._stager is None:
            raise AssertionError("a store with a schema has a stager")
        return self._stager

    def _take_schema(self, schema: TrajectorySchema) -> None:
        stored = self._pending.meta.schema
        if stored is not None:
            require_same_schema(stored, schema, "the schema that was asked for")
            return
        layout = RowLayout(schema)
        rows = layout.segment_rows(self.config.segment_bytes)
        set_schema(self._require_open(), schema, rows, layout.block_rows())
        self._pending.refresh_meta()

    def _open_for_writing(self) -> None:
        schema = self._pending.meta.schema
        if schema is not None:
            layout = RowLayout(schema)
            self._schema_hash = schema.hash
            self._open_segments = OpenSegments(
                self.path, layout, self._pending, self.config.max_open_segments
            )
            self._stager = Stager(layout, self._open_segments, self._pending)

    def _start_over(self) -> None:
        """Forget what is staged: memory is again what the index says."""
        if self._open_segments is not None:
            self._open_segments.close()
        self._open_segments = self._stager = None
        self._staged_bytes = 0
        self._pending.reset()
        self._open_for_writing()

    @contextmanager
    def _reset_on_failure(self) -> Iterator[None]:
        """After any failure memory is again what the index says; the error gets its name.

        Also what an fsync reported as failed is forgotten, never tried again: the kernel may
        have dropped the pages (https://wiki.postgresql.org/wiki/Fsync_Errors).
        """
        try:
            with corruption_named(self._index_path):
                yield
        except BaseException as error:
            with self._mutex, suppress(sqlite3.Error, OSError):  # tried again when it is needed
                self._start_over()
            if isinstance(error, OSError):
                raise disk_error(self.path, error) from error
            raise
