"""The learner's end, and a relay's: keeps the newest versions and serves their pieces."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable

import zenoh

from user_comm.converters import BlobKind, PolicyAnnouncement
from user_comm.policy_blobs.library import VersionLibrary
from user_comm.policy_blobs.pieces import (
    ALIVE,
    GONE,
    LATER,
    NAME_DIGITS,
    NO_BASE,
    NO_PIECE,
    PIECE_BYTES,
    PieceKey,
    PieceNote,
    version_key,
)
from user_core.closing import Closing
from user_core.codecs.weights import content_hash
from user_core.errors import ConfigError
from user_core.types import PolicyVersion

_PREFIX = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


class PolicyServer(Closing):
    """A :class:`~user_core.interfaces.PolicySink` whose versions robots pull.

    ``publish`` encodes a version against the one before, puts it where queries find it, and
    then announces it. Who has another version asks for the delta from that, who has none for
    the keyframe (:mod:`user_comm.policy_blobs.pieces` has the keys); what is not encoded yet
    is then, and asked for again. Answers are never waited for by anybody but who asked.

    Args:
        session: An open Zenoh session; stays the caller's.
        prefix: Key under which the versions are served.
        announce: Called with the announcement of each new version, in the caller's thread.
        keep: Versions that are kept: the bases that deltas can be made from.
        keep_bytes: Memory that they may take.

    Attributes:
        served_pieces: Pieces that were sent; ``served_bytes`` their size.
        refused: Queries that were refused.
    """

    def __init__(
        self,
        session: zenoh.Session,
        prefix: str,
        announce: Callable[[PolicyAnnouncement], object] = lambda announcement: None,
        keep: int = 8,
        keep_bytes: int = 2**30,
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError("prefix of policy blobs", got=repr(prefix), expected="a/plain/key")
        self.prefix, self._announce = prefix, announce
        self.served_pieces = self.served_bytes = self.refused = 0
        self._library = VersionLibrary(keep, keep_bytes)
        self._newest = 0
        self._lock = threading.Lock()
        # indirect=False: answers are given in Zenoh's own thread, which spares a queue of 256
        # queries that would block the whole session when it is full. An answer is a slice.
        handler = zenoh.handlers.Callback(self._answer, None, indirect=False)
        self._queryable = session.declare_queryable(f"{prefix}/**", handler, complete=True)

    def publish(self, version: PolicyVersion) -> None:
        """Serve a version and announce it."""
        name = content_hash(version)
        base, data = self._library.add(version, name)
        key = version_key(self.prefix, version.number, name)
        with self._lock:
            self._newest = max(self._newest, version.number)
        self._announce(
            PolicyAnnouncement(
                number=version.number,
                content_hash=name,
                config_hash=version.config_hash or hashlib.sha256(b"").hexdigest(),
                key=key,
                size=len(data),
                piece_size=PIECE_BYTES,
                kind=BlobKind.KEYFRAME if base is None else BlobKind.DELTA,
                base=0 if base is None else base.number,
                keyframe=version.number,
                update=version.update,
                environment_steps=version.environment_steps,
                created_ns=version.created_ns,
            )
        )

    def close(self) -> None:
        """Serve no more. Idempotent."""
        with contextlib.suppress(zenoh.ZError):  # the session may be closed
            self._queryable.undeclare()  # type: ignore[no-untyped-call]
        self._library.close()

    def _answer(self, query: zenoh.Query) -> None:
        with query:
            if str(query.key_expr) == f"{self.prefix}/{ALIVE}":
                query.reply(query.key_expr, b"")
                return
            wanted = PieceKey.parse(str(query.key_expr))
            if wanted is None or not wanted.version.startswith(f"{self.prefix}/"):
                self.refused += 1
                query.reply_err(NO_PIECE)
                return
            data = self._find(query, wanted)
            if data is None:
                return
            start = wanted.index * PIECE_BYTES
            if start >= len(data):
                self.refused += 1
                query.reply_err(NO_PIECE)
                return
            piece = data[start : start + PIECE_BYTES]
            query.reply(
                query.key_expr,
                piece,
                congestion_control=zenoh.CongestionControl.DROP,
                priority=zenoh.Priority.DATA_LOW,
                attachment=PieceNote(len(data), PIECE_BYTES, time.monotonic_ns()).pack(),
            )
            self.served_pieces += 1
            self.served_bytes += len(piece)

    def _find(self, query: zenoh.Query, wanted: PieceKey) -> bytes | None:
        _, number, name = wanted.version.rsplit("/", 2)
        if len(name) != NAME_DIGITS or not number.isdecimal():
            self.refused += 1
            query.reply_err(NO_PIECE)
            return None
        try:
            data = self._library.blob(name, wanted.base)
        except KeyError:
            if self._library.holds(name):
                query.reply_err(NO_BASE)
            else:  # a relay hears of a version before it has it
                query.reply_err(LATER if int(number) > self._newest else GONE)
            return None
        if data is None:
            query.reply_err(LATER)
        return data
