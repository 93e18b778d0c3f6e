"""How an outbox is doing, at one moment."""

from __future__ import annotations

from dataclasses import dataclass


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
    warnings: tuple[str, ...]
    link_bytes_s: float = 0.0
    base_s: float = 0.0
    delivered_bytes: int = 0
    coding: str = ""
