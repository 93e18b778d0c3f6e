"""States of extents and episodes, as the writer keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource

#: How far an episode has come: rows may follow; only the final observation may; nothing may.
OPEN, OVER, CLOSED = 0, 1, 2


@dataclass
class Extent:
    """Rows of one episode that lie next to each other in one segment."""

    id: int
    episode: int
    first_row: int
    segment: int
    start: int
    rows: int


@dataclass
class EpisodeState:
    """An episode as far as it has come.

    Attributes:
        id: Its number in this store.
        key: Its identity everywhere.
        source: Why it was recorded.
        robot: Name of the robot.
        task: Name of the task.
        rows: Index of the row that is expected next.
        gaps: Rows that never came.
        ended: OPEN; OVER, when only the final observation can follow; or CLOSED.
        result: What came of it.
        extent: Where its last rows lie.
    """

    id: int
    key: EpisodeKey
    source: EpisodeSource
    robot: str = ""
    task: str = ""
    rows: int = 0
    gaps: int = 0
    ended: int = OPEN
    result: EpisodeResult | None = None
    extent: Extent | None = None
