"""What a route has carried, refused and left behind, as a diagnostic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from user_comm.bridge.config import Route
from user_comm.bridge.dispatcher import Lane
from user_comm.diagnostics import Item
from user_comm.refusals import Refusals
from user_comm.throttle import Throttle

#: Codes under which messages are refused, beside those of errors.
OVERSIZED, LOOP, NAME, TOO_MANY = "oversized", "loop", "name", "too_many"


class RouteCounts:
    """The account of one route.

    Args:
        route: The route.
        say: Gets a line for people about refusals, at most one in five seconds for each kind.

    Attributes:
        bytes: Of all messages that were carried.
        repeated: Values that had come already, sent again for those who may have missed them.
    """

    def __init__(self, route: Route, say: Callable[[str], object]) -> None:
        self.route = route
        self.bytes = self.repeated = 0
        self.lane: Lane | None = None
        self._refusals = Refusals(f"{route.key} {route.direction}")
        self._say, self._throttle = say, Throttle()

    @property
    def carried(self) -> int:
        """Messages that were carried."""
        return self._refusals.accepted

    @property
    def refused(self) -> dict[str, int]:
        """Messages that were refused, by code."""
        return dict(self._refusals.refused)

    def carry(self, size: int) -> None:
        """Count a message that was carried."""
        self.bytes += size
        self._refusals.accept()

    def refuse(self, code: str, why: str) -> None:
        """Count a message that was refused, and name it in the log."""
        self._refusals.refuse(code, why)
        text = f"{self.route.key} ({self.route.direction}): refused a message ({code}): {why}"
        if line := self._throttle(code, text):
            self._say(line)

    def item(self) -> Item:
        """The account, for /diagnostics."""
        item = self._refusals.item()
        lane = self.lane
        return replace(
            item,
            name=f"route {self._refusals.name}",
            values={
                "bytes": self.bytes,
                "repeated": self.repeated,
                "overrun": lane.overrun if lane else 0,
                "thinned": lane.thinned if lane else 0,
                **item.values,
            },
        )
