"""The learner's end: keeps the newest versions and serves their pieces."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType

import zenoh

from user_comm.converters import PolicyAnnouncement
from user_core.codecs.weights import content_hash, encode_version
from user_core.errors import ConfigError
from user_core.types import PolicyVersion

PIECE_BYTES = 64 * 1024
_PREFIX = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


class PolicyServer:
    """A :class:`~user_core.interfaces.PolicySink` whose versions robots pull.

    ``publish`` encodes a version as a keyframe, puts it where queries find it, and then
    announces it. The piece ``i`` of a version is the answer to a query for
    ``<prefix>/<number>/<hash>/<i>``; a query for what is not there gets no answer, which the
    puller takes as "not there any more".

    Args:
        session: An open Zenoh session; stays the caller's.
        prefix: Key under which the versions are served.
        announce: Called with the announcement of each new version, in the caller's thread.
        keep: Versions that are kept, so that a robot that is half through one may finish it.
    """

    def __init__(
        self,
        session: zenoh.Session,
        prefix: str,
        announce: Callable[[PolicyAnnouncement], object],
        keep: int = 3,
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError("prefix of policy blobs", came=repr(prefix), expected="a/plain/key")
        self.prefix, self._announce, self._keep = prefix, announce, keep
        self.served_pieces = self.served_bytes = 0
        self._lock = threading.Lock()
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        # indirect=False: answers are given in Zenoh's own thread, which spares a queue of 256
        # queries that would block the whole session when it is full. An answer is a slice.
        handler = zenoh.handlers.Callback(self._answer, None, indirect=False)
        self._queryable = session.declare_queryable(f"{prefix}/**", handler, complete=True)

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def publish(self, version: PolicyVersion) -> None:
        """Serve a version and announce it."""
        data = encode_version(version)
        name = content_hash(version)
        key = f"{self.prefix}/{version.number}/{name[:16]}"
        with self._lock:
            self._blobs[key] = data
            while len(self._blobs) > self._keep:
                self._blobs.popitem(last=False)
        self._announce(
            PolicyAnnouncement(
                number=version.number,
                content_hash=name,
                config_hash=version.config_hash or hashlib.sha256(b"").hexdigest(),
                key=key,
                size=len(data),
                piece_size=PIECE_BYTES,
                keyframe=version.number,
                update=version.update,
                environment_steps=version.environment_steps,
                created_ns=version.created_ns,
            )
        )

    def close(self) -> None:
        """Serve no more."""
        self._queryable.undeclare()  # type: ignore[no-untyped-call]

    def _answer(self, query: zenoh.Query) -> None:
        with query:
            key = str(query.key_expr)
            blob_key, _, index = key.rpartition("/")
            with self._lock:
                data = self._blobs.get(blob_key)
            if data is None or not index.isdecimal() or len(index) > 9:
                return
            start = int(index) * PIECE_BYTES
            if start >= len(data):
                return
            piece = data[start : start + PIECE_BYTES]
            query.reply(key, piece, congestion_control=zenoh.CongestionControl.DROP)
            self.served_pieces += 1
            self.served_bytes += len(piece)
