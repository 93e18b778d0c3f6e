"""Acknowledgements: what a replay store has made durable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrajectoryAck:
    """What a store says about the chunks of one outbox. Cumulative, so the newest says it all.

    Attributes:
        producer: Name of the actor that this is for.
        incarnation: Identity of its outbox, see :class:`~user_core.types.ChunkId`.
        sequence: All chunks up to and including this one are durable; 0: none yet.
        store: Identity of the store; an outbox counts only the acks of its own store.
        refused: Sequence number of a chunk that was refused, 0 without one.
        error_code: Code of the refusal (``SuiteError.code``), for instance ``schema_mismatch``.
        error: What is wrong with the refused chunk, and what to do.
        arrived_ns: When chunk ``sequence`` came to the store, by the store's monotonic clock,
            nanoseconds; 0 where not known. Differences of it tell how full the way there is,
            whatever the way back does (one-way delays as in LEDBAT, RFC 6817).
        held_ns: Time from then to this answer, so that what the store took to make it durable is
            not taken for the link (QUIC's ACK Delay, RFC 9000 section 13.2.5).
    """

    producer: str
    incarnation: int
    sequence: int
    store: str = ""
    refused: int = 0
    error_code: str = ""
    error: str = ""
    arrived_ns: int = 0
    held_ns: int = 0
