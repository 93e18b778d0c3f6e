"""Delivering what an outbox holds straight into a replay store, without a robot or a network."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from user_actor.outbox import Outbox, OutboxConfig
from user_actor.outbox.inspect import OutboxReport, inspect, read_meanings
from user_core.errors import SuiteError
from user_core.types import TrajectoryAck, TrajectoryChunk
from user_learner.replay import StoreConfig, StoreWriter
from user_learner.replay.ingest import ChunkStatus

_LOOK_S = 0.1


@dataclass(frozen=True)
class Drained:
    """What came of it.

    Attributes:
        chunks: Chunks that the store took.
        known: Chunks that it had already.
        refused: Reasons for which it refused the others; they stay in the outbox, set aside.
        after: The outbox afterwards.
        notes: What a person should know of what the numbers mean.
    """

    chunks: int
    known: int
    refused: tuple[str, ...]
    after: OutboxReport
    notes: tuple[str, ...] = ()


def drain(
    folder: Path,
    store: Path,
    patience_s: float = 30.0,
    on_chunk: Callable[[TrajectoryChunk], None] = lambda chunk: None,
    accept: Collection[str] = (),
) -> Drained:
    """Bring all that an outbox holds into a store, each chunk once.

    The same promise as over the network: a chunk leaves the outbox only when the store has made
    it durable, and what the store has already it recognises. So it may be broken off and
    repeated, and the actor may go on with the outbox afterwards.

    Args:
        folder: Of the outbox; its actor must not be running.
        store: Replay store; made when it is not there. No other process may be writing it.
        patience_s: Longest time without any progress. An outbox that belongs to another store
            goes over to this one only after ``rebind_after_s`` (see the outbox's README).
        on_chunk: Called for each chunk that is handed over.
        accept: Differences in meaning between outbox and store that are none, by name; chunks
            with others are refused.

    Raises:
        StoreError: Outbox or store are in use, or the store takes nothing any more.
    """
    before = inspect(folder)
    handed: queue.Queue[TrajectoryChunk] = queue.Queue()
    chunks, known, refused = 0, 0, dict[str, None]()
    meanings, notes = read_meanings(folder), list[str]()
    if not meanings:
        notes.append(f"nobody knows what the numbers of {folder} mean: they are not compared")
    config = StoreConfig(accept_differences=tuple(accept))
    with StoreWriter(store, config=config) as writer:
        writer.expect(before.producer, *meanings)
        outbox = Outbox(OutboxConfig(directory=folder.parent), before.producer)
        try:
            # An answer that the actor never got: what the store has need not be sent again.
            for ack in writer.acknowledged():
                outbox.acknowledge(ack)
            outbox.deliver_to(handed.put)
            progress_s, left = time.monotonic(), outbox.status().pending_chunks
            while left:
                try:
                    chunk = handed.get(timeout=_LOOK_S)
                except queue.Empty:
                    pass
                else:
                    answer = writer.append(chunk)
                    on_chunk(chunk)
                    acks: list[TrajectoryAck] = writer.commit()
                    for ack in acks or [answer.ack]:
                        outbox.acknowledge(ack)
                    chunks += len(answer.staged)
                    known += answer.status is ChunkStatus.DUPLICATE
                    if answer.status is ChunkStatus.REFUSED:
                        refused[answer.ack.error] = None
                now_s, before_left, left = time.monotonic(), left, outbox.status().pending_chunks
                if left < before_left:
                    progress_s = now_s
                elif now_s > progress_s + patience_s:
                    raise SuiteError(
                        f"outbox {folder}", got=f"{left} chunks left, none taken for {patience_s:g} s",
                        expected="the store to take them",
                        hint="; ".join(map(str, outbox.status().warnings)) or "Is it the right store?",
                    )  # fmt: skip
        finally:
            outbox.close()
        notes += writer.meaning_notes()
    return Drained(chunks, known, tuple(refused), inspect(folder), tuple(notes))
