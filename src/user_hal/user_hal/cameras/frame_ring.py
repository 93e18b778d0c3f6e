"""The last few pictures of a camera, by their stamps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from user_core.errors import DeviceNotConnected, DeviceTimeout
from user_core.interfaces import Frame
from user_core.specs import Array

#: Stamps that jump back by more than this come from a clock that was set.
_CLOCK_STEP_NS = 1_000_000_000


@runtime_checkable
class RemembersFrames(Protocol):
    """A camera that can also give the picture nearest to a moment."""

    def nearest(self, stamp_ns: int) -> Frame:
        """The remembered picture whose stamp is nearest; raises like ``Camera.read``."""


@dataclass(frozen=True)
class _Entry:
    payload: Any
    stamp_ns: int
    sequence: int
    arrival_s: float  # monotonic


class FrameRing:
    """Takes what a camera's thread delivers, gives frames to the control loop.

    What is put in may be anything (a message, still compressed); it becomes a picture only when
    it is asked for, so that pictures that nobody sees cost nothing.

    Args:
        name: Of the camera, for errors: a topic or a device.
        develop: Makes the picture, (height, width, 3) uint8, of what was put in.
        max_age_s: Age of the newest at which the camera counts as stalled, seconds.
        capacity: How many are remembered.
        now_ns: Clock of the stamps.
    """

    def __init__(
        self,
        name: str,
        develop: Callable[[Any], Array],
        max_age_s: float,
        capacity: int = 8,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self._develop, self._max_age_s, self._now_ns = develop, max_age_s, now_ns
        self._entries: deque[_Entry] = deque(maxlen=capacity)
        self._developed: tuple[int, Frame] | None = None
        self._changed = threading.Condition()
        self._sequence = 0
        self._open = False
        self.reason = ""  # why nothing comes, as far as the camera knows

    def open(self) -> None:
        """Start to take pictures; earlier ones are forgotten."""
        with self._changed:
            self._entries.clear()
            self._developed = None
            self._open, self.reason = True, ""

    def close(self) -> None:
        """From now on there is nothing to read."""
        with self._changed:
            self._open = False
            self._entries.clear()
            self._developed = None
            self._changed.notify_all()

    def put(self, payload: Any, stamp_ns: int) -> None:
        """Take a picture. One that is older than the newest is dropped, unless by so much that
        the clock must have been set."""
        with self._changed:
            if not self._open:
                return
            behind_ns = self._entries[-1].stamp_ns - stamp_ns if self._entries else 0
            if behind_ns > _CLOCK_STEP_NS:
                self._entries.clear()
            elif behind_ns > 0:
                return
            self._sequence += 1
            self._entries.append(_Entry(payload, stamp_ns, self._sequence, time.monotonic()))
            self.reason = ""
            self._changed.notify_all()

    def wait_for_first(self, timeout_s: float) -> bool:
        """Wait until there is a picture; tell whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._entries), timeout_s)

    def newest(self) -> Frame:
        """The newest picture.

        Raises:
            DeviceNotConnected: The camera is not open.
            DeviceTimeout: There is none, or it is too old by its stamp or by its arrival.
        """
        return self._frame(self._newest_entry())

    def nearest(self, stamp_ns: int) -> Frame:
        """The picture nearest to a moment; raises like :meth:`newest` when the camera stalled."""
        self._newest_entry()
        with self._changed:
            entries = list(self._entries)
        if not entries:
            raise DeviceNotConnected(f"camera {self.name!r}", hint="Call connect()")
        return self._frame(min(entries, key=lambda entry: abs(entry.stamp_ns - stamp_ns)))

    def _newest_entry(self) -> _Entry:
        with self._changed:
            if not self._open:
                raise DeviceNotConnected(f"camera {self.name!r}", hint="Call connect()")
            entry = self._entries[-1] if self._entries else None
        because = f" ({self.reason})" if self.reason else ""
        if entry is None:
            raise DeviceTimeout(f"camera {self.name!r}", got=f"no picture yet{because}")
        age_s = max((self._now_ns() - entry.stamp_ns) / 1e9, time.monotonic() - entry.arrival_s)
        if age_s > self._max_age_s:
            raise DeviceTimeout(
                f"camera {self.name!r} stalled",
                got=f"a newest picture {age_s:.3f} s old{because}",
                expected=f"at most {self._max_age_s:g} s",
            )
        return entry

    def _frame(self, entry: _Entry) -> Frame:
        developed = self._developed
        if developed is not None and developed[0] == entry.sequence:
            return developed[1]
        frame = Frame(self._develop(entry.payload), entry.stamp_ns, entry.sequence)
        self._developed = (entry.sequence, frame)
        return frame
