"""Flows across a network, as diagnostics: goodput, round trip, backlog, retransmissions.

A flow is one kind of traffic of one node: trajectories of an outbox, policy versions of a
puller or server. ``user net top`` shows them all beside the bridges' routes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from user_comm.diagnostics import Item, Level

_OVER_S = 5.0


@dataclass(frozen=True)
class FlowFigures:
    """What a flow has done, and how its link is.

    Attributes:
        bytes: Bytes that have arrived for certain, since the start.
        link_bytes_s: Measured rate of the link; 0 where it is not measured.
        round_trip_s: Smoothed round trip, seconds; 0 where it is not measured.
        base_s: Shortest recent round trip: what the link takes when nothing waits, seconds.
        window_bytes: What may be under way.
        backlog_bytes: What waits to be sent or acknowledged.
        backlog_age_s: How long the oldest of it has waited, seconds.
        again: Pieces that were sent or asked for again.
        refused: What was refused, for whatever reason.
        coding: What images are sent in; empty: plain, or none.
        note: One line for people; empty if all is well.
    """

    bytes: int = 0
    link_bytes_s: float = 0.0
    round_trip_s: float = 0.0
    base_s: float = 0.0
    window_bytes: int = 0
    backlog_bytes: int = 0
    backlog_age_s: float = 0.0
    again: int = 0
    refused: int = 0
    coding: str = ""
    note: str = ""


class Flow:
    """Makes the diagnostic item of a flow; goodput is that of the last five seconds.

    Args:
        name: Kind of traffic: ``trajectory``, ``policy``.
        figures: Gives the figures now.
        clock_s: Monotonic time, seconds.
    """

    def __init__(
        self,
        name: str,
        figures: Callable[[], FlowFigures],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._figures, self._clock_s = f"flow {name}", figures, clock_s
        self._seen: deque[tuple[float, int]] = deque()

    def item(self) -> Item:
        """For :meth:`user_comm.diagnostics.Diagnostics.watch`."""
        figures = self._figures()
        return Item(
            self.name,
            Level.WARN if figures.note else Level.OK,
            figures.note,
            {
                "bytes": figures.bytes,
                "goodput_bytes_s": round(self._goodput(figures.bytes)),
                "link_bytes_s": round(figures.link_bytes_s),
                "round_trip_ms": round(1e3 * figures.round_trip_s, 1),
                "base_ms": round(1e3 * figures.base_s, 1),
                "window_bytes": figures.window_bytes,
                "backlog_bytes": figures.backlog_bytes,
                "backlog_age_s": round(figures.backlog_age_s, 1),
                "again": figures.again,
                "refused": figures.refused,
                "coding": figures.coding,
            },
        )

    def _goodput(self, total: int) -> float:
        now_s = self._clock_s()
        self._seen.append((now_s, total))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - _OVER_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (total - first) / (now_s - first_s) if now_s > first_s else 0.0
