"""Who publishes what: several publishers of a topic, told apart by what their messages hold."""

from __future__ import annotations

import logging
import time
from typing import Any

from user_core.reasons import SEVERAL_PUBLISHERS, Reason
from user_hal.topic_io import TopicSubscription

_log = logging.getLogger(__name__)
#: A publisher that was not heard for this long counts no more: it was started anew.
_GONE_S = 2.0


class Writers:
    """Which publishers sent which elements of an array.

    Two that send the same elements are rivals: one of them is wrong. Half of the joints each is
    as it should be.

    Args:
        label: Of the topic, for people.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._heard: dict[bytes, tuple[frozenset[int], float]] = {}
        self._last: tuple[bytes, tuple[int, ...]] = (b"", ())
        self._last_s = 0.0
        self.rivals: frozenset[bytes] = frozenset()

    def note(self, writer: bytes, columns: tuple[int, ...], names: Any = None) -> None:
        """A message came.

        Args:
            writer: Number of its publisher; empty: nobody knows.
            columns: Elements that it holds.
            names: The subscription, which knows the names of the nodes for the log.
        """
        if not writer:
            return
        now_s, before = time.monotonic(), self._last
        if (writer, columns) == before:  # as nearly always
            self._last_s = now_s
            return
        if before[0] in self._heard:
            self._heard[before[0]] = (self._heard[before[0]][0], self._last_s)
        known = self._heard.get(writer)
        elements = frozenset(columns) | (known[0] if known else frozenset())
        self._heard[writer] = (elements, now_s)
        came_back = known is not None and writer != before[0] and now_s - known[1] < _GONE_S
        self._last, self._last_s = (writer, columns), now_s
        if not came_back:  # a publisher that took the place of another does not come back
            return
        found = {
            other
            for other, (theirs, heard_s) in self._heard.items()
            if other != writer and theirs & elements and now_s - heard_s < _GONE_S
        }
        if found and not found <= self.rivals:
            self.rivals = frozenset({writer, *found, *self.rivals})
            _log.warning("%s: %s", self._label, self._said(names))

    def suspicion(self, subscription: TopicSubscription) -> Reason:
        """What is suspicious about the publishers of the topic now; false if nothing is."""
        nodes = list(subscription.publisher_nodes)
        if len(nodes) < 2:
            return Reason()
        known = _names(subscription)
        rivals = sorted(known[writer] for writer in self.rivals if writer in known)
        who = f"{len(nodes)} publishers of {subscription.topic}, which the joints are read from"
        if len(rivals) > 1:
            return Reason(
                SEVERAL_PUBLISHERS,
                f"{who}; {' and '.join(rivals)} publish the same joints: end one of them",
            )
        if known and self._heard.keys() >= known.keys():
            return Reason()  # all are heard, and each has joints of its own
        return Reason(
            SEVERAL_PUBLISHERS,
            f"{who}: {', '.join(nodes)}; if two of them publish the same joints, end one",
        )

    def _said(self, subscription: Any) -> str:
        known = _names(subscription)
        nodes = sorted(known.get(writer, "a node that has gone") for writer in self.rivals)
        return f"several publishers of the same elements: {', '.join(nodes)}; end one of them"


def _names(subscription: Any) -> dict[bytes, str]:
    """Publishers that the graph knows, by number; empty where the middleware does not tell."""
    writers = getattr(subscription, "writers", None)
    return {} if writers is None else dict(writers())
