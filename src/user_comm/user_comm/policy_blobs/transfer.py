"""Pulling one blob, piece by piece, with as much under way as the link holds."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zenoh

from user_comm.policy_blobs.pieces import (
    GONE,
    LATER,
    NO_BASE,
    NO_PIECE,
    PIECE_BYTES,
    piece_key,
    unpack_note,
)
from user_core.errors import CodecError, TransportError
from user_core.runtime.link_model import LinkWindow, Sent

_LOOK_S = 0.1
_AGAIN_S = 0.05
_LATER_PATIENCE = 12
#: What a server says; anything else was said by Zenoh.
_OF_SERVERS = (GONE, LATER, NO_BASE, NO_PIECE)
#: Queries that time out for this long mean a connection that is only half alive, seconds.
HUNG_S = 10.0


class Superseded(Exception):  # noqa: N818 - not an error
    """What is being pulled is not wanted any more."""


class Hung(Exception):  # noqa: N818 - likewise
    """There is a session, but no answer, and no report that nothing is there to answer.

    Seen where a callback at the other end had found no memory: its thread panics (eclipse-zenoh
    1.10.2), the connection stays, and queries over it time out. A new session helps.
    """


class NotServed(TransportError):
    """The other side answers that it does not have it, and says why."""

    def __init__(self, key: str, reason: bytes) -> None:
        super().__init__(f"policy piece {key}", got=reason.decode(), expected="its bytes")
        self.reason = reason


@dataclass
class TransferStats:
    """What went over the link.

    Attributes:
        bytes: Bytes of all pieces.
        retries: Pieces that had to be asked for again.
        waits: Answers that said "later".
    """

    bytes: int = 0
    retries: int = 0
    waits: int = 0


@dataclass(frozen=True)
class _Answer:
    index: int
    sent: Sent
    at_s: float
    piece: bytes | None
    note: bytes
    error: bytes


class _Blob:
    """What has arrived of a version; how large it is, the first answer says."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.data = memoryview(b"")
        self._size = self._piece_bytes = self._left = 0

    @property
    def is_known(self) -> bool:
        """Whether its size is known."""
        return self._size > 0

    @property
    def is_whole(self) -> bool:
        """Whether all pieces are here."""
        return self.is_known and not self._left

    def begin(self, size: int, piece_bytes: int) -> list[int]:
        """Make room; returns the pieces behind the first one, the last one first."""
        self._size, self._piece_bytes = size, piece_bytes
        self._left = -(-size // piece_bytes)
        # not a bytearray: to fill that with zeros holds the interpreter, 0.8 ms a MB
        self.data = np.empty(size, np.uint8).data
        return list(range(1, self._left))[::-1]

    def put(self, index: int, piece: bytes, size: int, piece_bytes: int) -> None:
        """Take a piece, each once; raises CodecError where answers contradict each other."""
        start = index * self._piece_bytes
        expected = min(self._piece_bytes, self._size - start)
        if (size, piece_bytes) != (self._size, self._piece_bytes) or len(piece) != expected:
            raise CodecError(
                f"piece {index} of {self._version}",
                got=f"{len(piece)} bytes of {size}",
                expected=f"{expected} of {self._size}",
            )
        self.data[start : start + expected] = piece
        self._left -= 1


class PieceTransfer:
    """Asks for pieces in order, and again for those that do not arrive, for as long as it takes.

    Answers are dropped rather than queued when a link is full, so no other traffic is held up; the
    window (:class:`~user_core.runtime.link_model.LinkWindow`) keeps that rare.

    Args:
        session: An open Zenoh session.
        window: What may be under way; shared by the transfers of one link.
        stats: Where to count.
        max_bytes: A larger blob is refused before anything is allocated for it.
        piece_timeout_s: Time after which a piece is asked for again, at least.
    """

    def __init__(
        self,
        session: zenoh.Session,
        window: LinkWindow,
        stats: TransferStats,
        max_bytes: int,
        piece_timeout_s: float = 2.0,
    ) -> None:
        self._session, self.window, self._max_bytes = session, window, max_bytes
        self._piece_timeout_s, self._stats = piece_timeout_s, stats
        self._silent_since_s: float | None = None

    def ask(self, key: str, timeout_s: float) -> bytes | None:
        """A small answer to one question; None where nobody gives one in time."""
        answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def take(reply: zenoh.Reply) -> None:
            if reply.ok is not None:
                answers.put(reply.ok.payload.to_bytes())

        handler = zenoh.handlers.Callback(take, lambda: answers.put(None), indirect=False)
        self._session.get(key, handler, timeout=timeout_s)
        try:
            return answers.get(timeout=2 * timeout_s)
        except queue.Empty:
            return None

    def pull(
        self,
        version: str,
        base: str,
        cancelled: Callable[[], bool],
        patience_s: float = float("inf"),
    ) -> memoryview:
        """All bytes of a keyframe, or of the delta from ``base``.

        Args:
            version: Key of the version.
            base: Short hash of the base; empty for the keyframe.
            cancelled: Looked at often; true ends it.
            patience_s: Longest time without any piece, seconds.

        Raises:
            Superseded: ``cancelled`` became true.
            Hung: No query was answered for long, over all pulls.
            NotServed: It is not kept any more, there is no such delta, or patience ended.
            CodecError: The answers contradict each other, or the limit.
        """
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        blob, missing, under_way = _Blob(version), [0], 0
        again_s, last_s = 0.0, time.monotonic()
        while True:
            if cancelled():
                raise Superseded
            now_s = time.monotonic()
            silent_since_s = self._silent_since_s
            if silent_since_s is not None and now_s - silent_since_s > HUNG_S:
                raise Hung
            wait_s = max(self.window.wait_s(now_s) if under_way else 0.0, again_s - now_s)
            fits = not under_way or under_way + PIECE_BYTES <= self.window.nbytes
            if missing and fits and wait_s <= 0:
                index = missing.pop()
                key = piece_key(version, base, index)
                self._ask(key, index, answers, under_way, not missing)
                under_way += PIECE_BYTES
                continue
            try:
                pause_s = min(_LOOK_S, wait_s) if missing and fits else _LOOK_S
                answer = answers.get(timeout=max(pause_s, 0.0005))
            except queue.Empty:
                continue
            under_way -= PIECE_BYTES
            if answer.piece is None:
                missing.append(answer.index)
                key = piece_key(version, base, answer.index)
                again_s = answer.at_s + self._note_failure(key, answer)
                # "later" is a sign of life: a relay may be fetching something large
                patient = _LATER_PATIENCE if answer.error == LATER else 1
                if answer.at_s - last_s > patience_s * patient:
                    raise NotServed(key, b"silence")
                continue
            last_s = answer.at_s
            size, length, sent_ns = unpack_note(answer.note, self._max_bytes)
            lag_s = answer.at_s - 1e-9 * sent_ns
            self.window.answered(answer.sent, PIECE_BYTES, answer.at_s, lag_s=lag_s)
            if not blob.is_known:
                missing = blob.begin(size, length)
            blob.put(answer.index, answer.piece, size, length)
            self._stats.bytes += len(answer.piece)
            if blob.is_whole:
                return blob.data

    def _ask(
        self, key: str, index: int, answers: queue.SimpleQueue[_Answer], under_way: int, last: bool
    ) -> None:
        sent = self.window.sent(PIECE_BYTES, time.monotonic(), under_way, idle=last)
        piece: bytes | None = None
        note = error = b""

        def take(reply: zenoh.Reply) -> None:
            nonlocal piece, note, error
            if reply.ok is None:
                error = reply.err.payload.to_bytes()[:80] if reply.err is not None else b""
            elif piece is None and (attachment := reply.ok.attachment) is not None:
                piece, note = reply.ok.payload.to_bytes(), attachment.to_bytes()

        def finish() -> None:  # also when nobody waits for it any more
            now_s = time.monotonic()
            answered = piece is not None or error in _OF_SERVERS
            if answered or now_s - sent.at_s < 0.5 * self._piece_timeout_s:  # or nobody is there
                self._silent_since_s = None
            elif self._silent_since_s is None:
                self._silent_since_s = sent.at_s
            answers.put(_Answer(index, sent, now_s, piece, note, error))

        self._session.get(
            key,
            zenoh.handlers.Callback(take, finish, indirect=False),
            timeout=max(self._piece_timeout_s, self.window.timeout_s),
            congestion_control=zenoh.CongestionControl.DROP,
            priority=zenoh.Priority.DATA_LOW,
        )

    def _note_failure(self, key: str, answer: _Answer) -> float:
        """Raise what ends the transfer; else the time to wait before asking again, seconds."""
        if answer.error in (GONE, NO_BASE):
            raise NotServed(key, answer.error)
        if answer.error == LATER:
            self._stats.waits += 1
            return _AGAIN_S
        self._stats.retries += 1
        if answer.at_s - answer.sent.at_s > 0.5 * self._piece_timeout_s:
            self.window.timed_out()
            return 0.0
        # No answer comes at once when nobody is there; do not ask in a busy loop.
        return _LOOK_S
