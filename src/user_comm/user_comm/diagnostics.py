"""What a node has to say about its health; no ROS here, the lifecycle node publishes it.

A node has a handful of items, each with a name, a level, one line for people and a few values.
An error of our tree becomes the item named by its ``code``, so that a program can react to
the kind of an error without reading its text.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from user_core.errors import SuiteError
from user_core.reasons import NO_REASON, Reason


class Level(IntEnum):
    """Levels of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Item:
    """The state of one part of a node.

    Attributes:
        name: Name of the part, or code of an error.
        level: How bad it is.
        message: One line for people.
        values: Details, in the order in which they are shown.
    """

    name: str
    level: Level = Level.OK
    message: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


class Diagnostics:
    """The items of one node. May be used from any thread.

    Args:
        on_change: Called after the level or the message of an item changed; the lifecycle node
            publishes then, and once a second anyway.
    """

    def __init__(self, on_change: Callable[[], None] | None = None) -> None:
        self._items: dict[str, Item] = {}
        self._sources: dict[str, Callable[[], Item]] = {}
        self._lock = threading.Lock()
        self._on_change = on_change

    def report(
        self,
        name: str,
        level: Level = Level.OK,
        message: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """State how a part is doing; stands until it is stated again."""
        item = Item(name, Level(level), message, dict(values or {}))
        with self._lock:
            old = self._items.get(name)
            self._items[name] = item
        if self._on_change and (
            old is None or (old.level, old.message) != (item.level, item.message)
        ):
            self._on_change()

    def error(self, error: BaseException, *, name: str = "", level: Level = Level.ERROR) -> None:
        """Report an error under its code (``exception`` if it is not a SuiteError)."""
        self.report(
            name or code_of(error),
            level,
            f"{type(error).__name__}: {error}",
            details(error),
        )

    def resolve(self, name: str) -> None:
        """Say that what was reported under this name is over; what it was stays visible."""
        with self._lock:
            old = self._items.get(name)
        if old is not None and old.level is not Level.OK:
            self.report(name, Level.OK, "resolved", {"was": old.message})

    def watch(self, name: str, source: Callable[[], Item]) -> None:
        """Ask ``source`` for an item whenever diagnostics are published, for counters."""
        with self._lock:
            self._sources[name] = source

    def unwatch(self, name: str) -> None:
        """Ask no longer."""
        with self._lock:
            self._sources.pop(name, None)

    def items(self) -> list[Item]:
        """All items now. A source that raises is an item that says so."""
        with self._lock:
            items, sources = list(self._items.values()), list(self._sources.items())
        for name, source in sources:
            try:
                items.append(source())
            except (Exception, SystemExit) as error:  # of a plugin
                items.append(Item(name, Level.ERROR, f"{type(error).__name__}: {error}"))
        return items


def code_of(error: BaseException) -> str:
    """The stable code of an error; ``exception`` where it is not a SuiteError."""
    return error.code if isinstance(error, SuiteError) else "exception"


def details(error: BaseException) -> dict[str, Any]:
    """What failed, what was got, what was expected and the hint, as far as an error knows them."""
    found: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, SuiteError):
        for key in ("what", "got", "expected", "hint"):
            value = getattr(error, key)
            if value not in (None, ""):
                found[key] = value
    return found


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
        note: What is not well, if anything.
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
    note: Reason = NO_REASON


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
            figures.note.text,
            {
                **({"code": figures.note.code} if figures.note else {}),
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
