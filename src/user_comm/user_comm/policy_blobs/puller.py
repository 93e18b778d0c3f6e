"""The robot's end: pulls announced versions, piece by piece, and verifies them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import zenoh

from user_comm.converters import BlobKind, PolicyAnnouncement
from user_core.codecs.weights import decode_version
from user_core.errors import PolicyError, UserError
from user_core.types import PolicyVersion

_log = logging.getLogger(__name__)
#: Pieces on their way at a time. About one bandwidth-delay product of a good WAN link; more
#: delays the control traffic that shares it.
IN_FLIGHT = 4


class Superseded(Exception):  # noqa: N818 - not an error
    """A newer version was announced, or the puller is being closed."""


@dataclass
class PullStats:
    """What the puller has done.

    Attributes:
        versions: Versions that were pulled whole and found right.
        superseded: Versions that were given up because a newer one was announced.
        refused: Versions that were refused.
        retries: Pieces that had to be asked for again.
        bytes: Bytes of all pieces.
        last_pull_s: Time from announcement to verified version, of the last one, seconds.
        last_error: Why the last one was refused or did not come; empty after a success.
    """

    versions: int = 0
    superseded: int = 0
    refused: int = 0
    retries: int = 0
    bytes: int = 0
    last_pull_s: float = 0.0
    last_error: str = ""


class PolicyPuller:
    """A :class:`~user_core.interfaces.PolicySource` that is told of versions and pulls them.

    Give it every announcement (:meth:`announced`, from any thread); a thread of its own pulls
    the newest, :data:`IN_FLIGHT` pieces at a time, and asks again for what does not come, for
    as long as it takes. A version whose hash, size or configuration is wrong is refused; the
    one before stays.

    Args:
        open_session: Opens the Zenoh session; called in the puller's thread with the event
            that ends it, because a client waits until its router is there.
        config_hash: What weights must be made for; empty: anything.
        on_version: Called in the puller's thread when a version is ready.
        max_bytes: A larger version is refused before anything is allocated for it.
        piece_timeout_s: Time after which a piece is asked for again.
    """

    def __init__(
        self,
        open_session: Callable[[threading.Event], zenoh.Session],
        config_hash: str = "",
        on_version: Callable[[], None] = lambda: None,
        max_bytes: int = 2**30,
        piece_timeout_s: float = 2.0,
    ) -> None:
        self.stats = PullStats()
        self._open_session, self._config_hash = open_session, config_hash
        self._on_version, self._max_bytes = on_version, max_bytes
        self._piece_timeout_s = piece_timeout_s
        self._wake = threading.Condition()
        self._ending = threading.Event()
        self._wanted: PolicyAnnouncement | None = None
        self._newest: PolicyVersion | None = None
        self._thread = threading.Thread(target=self._run, name="policy-puller", daemon=True)
        self._thread.start()

    def __enter__(self) -> PolicyPuller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def announced(self, announcement: PolicyAnnouncement) -> None:
        """Hear of a version; an older one than is known already is ignored."""
        with self._wake:
            wanted = self._wanted
            if wanted is not None and announcement.number < wanted.number:
                return  # also one that is replayed
            self._wanted = announcement
            self._wake.notify_all()

    def newest(self, after: int) -> PolicyVersion | None:
        """The newest verified version, if its number is above ``after``."""
        version = self._newest
        return version if version is not None and version.number > after else None

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._ending.set()
        with self._wake:
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            session = self._open_session(self._ending)
        except UserError as error:
            self.stats.last_error = str(error)
            return
        with session:
            done: PolicyAnnouncement | None = None
            while not self._ending.is_set():
                with self._wake:
                    while not self._ending.is_set() and self._wanted == done:
                        self._wake.wait()
                    wanted = self._wanted
                if wanted is None or self._ending.is_set():
                    continue
                self._try(session, wanted)
                done = wanted

    def _try(self, session: zenoh.Session, wanted: PolicyAnnouncement) -> None:
        start_s = time.monotonic()
        try:
            self._check(wanted)
            version = decode_version(
                self._pull(session, wanted),
                config_hash=self._config_hash or None,
                expected_hash=wanted.content_hash,
            )
        except Superseded:
            self.stats.superseded += 1
        except UserError as error:
            self.stats.refused += 1
            self.stats.last_error = str(error)
            _log.warning("policy version %d refused: %s", wanted.number, error)
        else:
            self._newest = version
            self.stats.versions += 1
            self.stats.last_error = ""
            self.stats.last_pull_s = time.monotonic() - start_s
            self._on_version()

    def _check(self, wanted: PolicyAnnouncement) -> None:
        if wanted.size > self._max_bytes or wanted.piece_size < 1024:
            raise PolicyError(
                f"policy version {wanted.number}",
                came=f"{wanted.size} bytes in pieces of {wanted.piece_size}",
                expected=f"at most {self._max_bytes} bytes, in pieces of 1024 or more",
            )
        if self._config_hash and wanted.config_hash != self._config_hash:
            raise PolicyError(
                f"configuration of policy version {wanted.number}",
                came=wanted.config_hash,
                expected=self._config_hash,
                cure="Actor and learner must have the same policy configuration and robot spec",
            )
        if wanted.kind is not BlobKind.KEYFRAME:
            raise PolicyError(
                f"policy version {wanted.number}", came="a delta", expected="a keyframe"
            )

    def _pull(self, session: zenoh.Session, wanted: PolicyAnnouncement) -> bytearray:
        """All bytes of a version. Raises Superseded when they are not wanted any more."""
        data = bytearray(wanted.size)
        missing = list(range(-(-wanted.size // wanted.piece_size)))[::-1]
        slots = threading.Semaphore(IN_FLIGHT)
        done, failed = threading.Event(), list[int]()
        left = len(missing)
        lock = threading.Lock()

        def ask(index: int) -> None:
            start = index * wanted.piece_size
            expected = min(wanted.piece_size, wanted.size - start)
            came = False

            def take(reply: zenoh.Reply) -> None:
                nonlocal came
                if reply.ok is not None and not came:
                    piece = reply.ok.payload.to_bytes()
                    if len(piece) == expected:
                        data[start : start + expected] = piece
                        came = True

            def finish() -> None:
                nonlocal left
                with lock:
                    if came:
                        left -= 1
                        self.stats.bytes += expected
                    else:
                        failed.append(index)
                slots.release()
                if left == 0:
                    done.set()

            session.get(
                f"{wanted.key}/{index}",
                zenoh.handlers.Callback(take, finish, indirect=False),
                timeout=self._piece_timeout_s,
                congestion_control=zenoh.CongestionControl.DROP,
            )

        while not done.is_set():
            if self._ending.is_set() or self._wanted != wanted:
                raise Superseded
            with lock:
                again, failed[:] = list(failed), []
            if again:
                self.stats.retries += len(again)
                missing += again
                # No answer comes at once when nobody is there; do not ask in a busy loop.
                self._ending.wait(0.1)
            if not missing:
                done.wait(0.02)
            elif slots.acquire(timeout=0.1):
                ask(missing.pop())
        return data
