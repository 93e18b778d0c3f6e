"""Frames that move: what /tf and /tf_static say, and the way from one frame to another.

:class:`TfTree` is pure; :class:`TfListener` fills one from its topics.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from user_core.errors import DeviceFault, DeviceTimeout
from user_core.specs import Array
from user_hal.robots.ros2.buffer import Sample, StampedBuffer
from user_hal.robots.ros2.frames import Frames, Transform, plain
from user_hal.topic_io import TopicIo, TopicSubscription, arrival_clock_ns

TF_MESSAGE = "tf2_msgs/msg/TFMessage"
#: A frame that changes its parent more often than this has two that send it.
_CHANGES = 3
_ORIGIN = Transform(np.zeros(3), (0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Found:
    """Where a frame is in another.

    Attributes:
        transform: That.
        skew_ns: How far the nearest message of each frame on the way is from the moment, at most.
    """

    transform: Transform
    skew_ns: int


class _Link:
    """A frame and its parent: fixed, or by stamps."""

    def __init__(self, parent: str, history: int) -> None:
        self.parent = parent
        self.fixed: Transform | None = None
        self.moving = StampedBuffer(history, rotation=slice(3, 7))
        self.given = False  # by the contract: messages do not change it
        self.parents = {parent}
        self.changes = 0

    def at(self, stamp_ns: int | None) -> tuple[Transform, int]:
        if self.fixed is not None:
            return self.fixed, 0
        newest = self.moving.newest()
        assert newest is not None  # noqa: S101 - a link is made with its first sample
        if stamp_ns is None:
            values, skew_ns = newest.values, 0
        else:
            values, skew_ns = self.moving.at(stamp_ns, "linear") or (newest.values, 0)
        x, y, z, w = values[3:].tolist()
        return Transform(values[:3], (x, y, z, w)), skew_ns


class TfTree:
    """Frames, each with its parent, by name; the newest messages of each by their stamps.

    Args:
        fixed: Frames that the contract gives, with parent and place; they go before messages.
        history: Messages remembered of each frame.
    """

    def __init__(
        self, fixed: Mapping[str, tuple[str, Transform]] | None = None, history: int = 256
    ) -> None:
        self._history = history
        self._links: dict[str, _Link] = {}
        self._bad: dict[str, str] = {}  # frames whose last message was no transform
        self._lock = threading.Lock()
        for child, (parent, transform) in (fixed or {}).items():
            link = self._links[child] = _Link(parent, history)
            link.fixed, link.given = transform, True

    def put(
        self,
        parent: str,
        child: str,
        values: Array,
        stamp_ns: int,
        arrival_ns: int,
        *,
        fixed: bool,
    ) -> None:
        """Take one transform.

        Args:
            parent: The frame that it is given in.
            child: The frame whose place it is.
            values: x y z (m) qx qy qz qw of the child in the parent.
            stamp_ns: When that was so.
            arrival_ns: When it came, monotonic.
            fixed: Whether it is so for ever.
        """
        parent, child = plain(parent), plain(child)
        with self._lock:
            link = self._links.get(child)
            if link is not None and link.given:
                return
            if link is None:
                link = self._links[child] = _Link(parent, self._history)
            elif link.parent != parent:
                link.parent, link.fixed = parent, None
                link.parents.add(parent)
                link.changes += 1
                link.moving.clear()
            norm = float(np.linalg.norm(values[3:]))
            if not np.isfinite(values).all() or not norm > 0.5:
                self._bad[child] = f"{values.tolist()}"
                if link.fixed is None and link.moving.newest() is None:
                    del self._links[child]
                return
            self._bad.pop(child, None)
            values[3:] /= norm
            if fixed:
                x, y, z, w = values[3:].tolist()
                link.fixed = Transform(values[:3], (x, y, z, w))
            else:
                link.moving.put(Sample(stamp_ns, values, arrival_ns))

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> Found:
        """Where ``source`` is in ``target``, at a moment or by the newest messages.

        Raises:
            DeviceFault: The frames are not linked; names the link that is missing. Or one of them
                has two parents, or is sent with numbers that are no transform.
        """
        with self._lock:
            up, down = self._way(target, source)
        transform, skew_ns = _ORIGIN, 0
        for link in up:
            step, skew = link.at(stamp_ns)
            transform, skew_ns = transform.then(step), max(skew_ns, skew)
        back = _ORIGIN
        for link in down:
            step, skew = link.at(stamp_ns)
            back, skew_ns = back.then(step), max(skew_ns, skew)
        return Found(transform.then(back.inverse()), skew_ns)

    def newest(self, target: str, source: str) -> tuple[int, int] | None:
        """Stamp and arrival (monotonic) up to which all frames on the way are known; None where
        none of them moves. Raises like :meth:`lookup`."""
        with self._lock:
            up, down = self._way(target, source)
        samples = [link.moving.newest() for link in (*up, *down) if link.fixed is None]
        known = [sample for sample in samples if sample is not None]
        if not known:
            return None
        return min(s.stamp_ns for s in known), min(s.arrival_ns for s in known)

    def frames(self) -> list[str]:
        """All frames that are known, as children or as parents."""
        with self._lock:
            return sorted(self._links.keys() | {link.parent for link in self._links.values()})

    def _way(self, target: str, source: str) -> tuple[list[_Link], list[_Link]]:
        """Links from the source up to the first common frame, and from the target up to it."""
        target, source = plain(target), plain(source)
        ups, downs = self._ancestors(source), self._ancestors(target)
        common = next((name for name in ups if name in downs), None)
        if common is None:
            raise self._not_linked(target, source, list(ups), list(downs))
        names = [list(chain)[: list(chain).index(common)] for chain in (ups, downs)]
        for name in (*names[0], *names[1]):
            link = self._links[name]
            if link.changes > _CHANGES:
                raise DeviceFault(
                    f"frame {name!r}",
                    got=f"{len(link.parents)} parents in turn: {sorted(link.parents)}",
                    expected="one parent",
                    hint="Two nodes send this frame: end one of them, or rename its frame",
                )
            if name in self._bad:
                raise DeviceFault(
                    f"transform of frame {name!r}",
                    got=self._bad[name],
                    expected="finite numbers and a quaternion of length 1",
                )
        return [self._links[name] for name in names[0]], [self._links[name] for name in names[1]]

    def _ancestors(self, name: str) -> dict[str, None]:
        found = {name: None}
        while name in self._links:
            name = self._links[name].parent
            if name in found:
                raise DeviceFault(
                    "frames", got=f"{name!r} above itself: {list(found)}", expected="a tree"
                )
            found[name] = None
        return found

    def _not_linked(
        self, target: str, source: str, ups: list[str], downs: list[str]
    ) -> DeviceFault:
        known = sorted(self._links.keys() | {link.parent for link in self._links.values()})
        for name in (source, target):
            if name in known:
                continue
            near = difflib.get_close_matches(name, known, n=1)
            return DeviceFault(
                f"frame {name!r}",
                got=f"sent numbers that are no transform: {self._bad[name]}"
                if name in self._bad
                else "no transform of it",
                expected=f"one of {known}" if known else "transforms on /tf or /tf_static",
                hint=f"Did you mean {near[0]!r}?"
                if near
                else "Start what publishes it (robot_state_publisher), or give it in transforms",
            )
        return DeviceFault(
            f"way from frame {source!r} to {target!r}",
            got=f"two trees: {' < '.join(ups)}, and {' < '.join(downs)}",
            expected=f"a transform that links {ups[-1]!r} and {downs[-1]!r}",
            hint=f"Publish it (static_transform_publisher), or write transforms: "
            f"{{{ups[-1]}: {{parent: {downs[-1]}, xyz: [x, y, z], rpy: [r, p, y]}}}}",
        )


class TfListener:
    """Hears /tf and /tf_static.

    Args:
        topic: Name of /tf; the static one is ``<topic>_static``.
        fixed: Frames that the contract gives.
        history: Messages remembered of each frame.

    Attributes:
        tree: What was heard.
    """

    def __init__(
        self, topic: str, fixed: Mapping[str, tuple[str, Transform]], history: int = 256
    ) -> None:
        self.topic, self._fixed, self._history = topic, fixed, history
        self.tree = TfTree(fixed, history)
        self.messages = 0
        self._subscriptions: list[TopicSubscription] = []
        self._io: TopicIo | None = None

    def open(self, io: TopicIo) -> None:
        """Subscribe; forgets what was heard before.

        Raises:
            TransportError: tf2_msgs is not installed.
        """
        self._io = io
        self.tree, self.messages = TfTree(self._fixed, self._history), 0
        self._subscriptions = [
            io.subscribe(
                self.topic, TF_MESSAGE, lambda message: self._receive(message, False), depth=100
            ),
            io.subscribe(
                f"{self.topic}_static",
                TF_MESSAGE,
                lambda message: self._receive(message, True),
                depth=100,
                reliability="reliable",
                latched=True,
            ),
        ]

    def close(self) -> None:
        """Unsubscribe."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.close()

    def arrival_clock_ns(self) -> int:
        """The clock of arrivals, monotonic."""
        return arrival_clock_ns(self._io)

    def _receive(self, message: Any, fixed: bool) -> None:
        self.messages += 1
        arrival_ns = self.arrival_clock_ns()
        for item in message.transforms:
            shift, turn, stamp = (
                item.transform.translation,
                item.transform.rotation,
                item.header.stamp,
            )
            self.tree.put(
                item.header.frame_id,
                item.child_frame_id,
                np.array([shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w]),
                int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec),
                arrival_ns,
                fixed=fixed,
            )


class MovingWay:
    """The way from one frame to another that may move.

    Args:
        listener: Knows the frames.
        target: Frame to go to.
        source: Frame to come from.
        max_age_s: Oldest that the messages of a frame on the way may be.
    """

    def __init__(self, listener: TfListener, target: str, source: str, max_age_s: float) -> None:
        self._listener, self._target, self._source = listener, target, source
        self._max_age_s = max_age_s

    def at(self, stamp_ns: int | None = None) -> Transform:
        """Where the source is in the target at a moment, or now.

        Raises:
            DeviceFault: They are not linked.
            DeviceTimeout: A frame on the way is not sent any more.
        """
        tree = self._listener.tree
        newest = tree.newest(self._target, self._source)
        if newest is not None:
            age_s = (self._listener.arrival_clock_ns() - newest[1]) / 1e9
            if age_s > self._max_age_s:
                raise DeviceTimeout(
                    f"way from frame {self._source!r} to {self._target!r} ({self._listener.topic})",
                    got=f"nothing new for {age_s:.3f} s",
                    expected=f"at most {self._max_age_s:g} s",
                )
        return tree.lookup(self._target, self._source, stamp_ns).transform


class FrameWays:
    """Ways between frames: fixed where the contract knows them, else through /tf, if that is
    listened to.

    Args:
        fixed: What the contract knows.
        listener: Knows what moves; None: nothing is looked up.
        max_age_s: Oldest that the messages of a frame on the way may be.
    """

    def __init__(
        self, fixed: Frames, listener: TfListener | None = None, max_age_s: float = 0.5
    ) -> None:
        self._fixed, self._listener, self._max_age_s = fixed, listener, max_age_s

    def between(self, source: str, target: str) -> Transform | MovingWay | None:
        """Where ``source`` is in ``target``; None where that cannot be known."""
        known = self._fixed.between(source, target)
        if known is not None or self._listener is None:
            return known
        return MovingWay(self._listener, target, source, self._max_age_s)


def now(way: Transform | MovingWay | None) -> Transform | None:
    """A way as it is now. Raises DeviceError where it is not known (any more)."""
    return way.at() if isinstance(way, MovingWay) else way


def pose_of(transform: Transform) -> Array:
    """A transform as x y z (m) qx qy qz qw, (7,)."""
    return np.concatenate([transform.shift, transform.turn])
