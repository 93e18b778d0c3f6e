"""The learner's end, and a relay's: keeps the newest versions and serves their pieces."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import zenoh

from user_comm.converters import BlobKind, PolicyAnnouncement
from user_comm.diagnostics import FlowFigures
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.pieces import (
    ALIVE,
    GONE,
    LATER,
    MADE_FOR,
    NAME_DIGITS,
    NO_BASE,
    NO_PIECE,
    PIECE_BYTES,
    pack_note,
    parse_piece_key,
    version_key,
)
from user_core.codecs.policy_blob import encode_delta, encode_keyframe
from user_core.codecs.weights import content_hash
from user_core.errors import ConfigError
from user_core.runtime.closing import Closing
from user_core.specs import digest
from user_core.types import PolicyVersion

_log = logging.getLogger(__name__)
_Form = tuple[str, str]  # version, base or ""
#: Larger versions are not encoded before somebody asks, which takes many seconds: a puller takes none of that size
#: unless it is told to, and who is on this host need not pull.
_ENCODED_BYTES = 2**30
#: Memory for encoded forms; the newest is kept in any case.
_CACHE_BYTES = 256 * 2**20


class VersionLibrary:
    """Keeps versions, and encodes keyframes and deltas between any two of them once.

    A version is encoded by who adds it; further forms are encoded on demand, in a thread that
    starts with the first of them: :meth:`blob` never waits. So a query costs a look-up,
    and a robot that missed some versions gets one delta from what it has, however old, as long
    as that is kept: a chain of deltas is never longer than one.

    Args:
        keep: Versions that are kept.
        keep_bytes: Memory that they may take; two are kept in any case.
    """

    def __init__(self, keep: int = 8, keep_bytes: int = 2**30) -> None:
        self._keep, self._keep_bytes = keep, keep_bytes
        self._lock = threading.Lock()
        self._versions: OrderedDict[str, tuple[PolicyVersion, str]] = OrderedDict()
        self._blobs: OrderedDict[_Form, bytes] = OrderedDict()
        self._impossible: set[_Form] = set()
        self._asked: set[_Form] = set()
        self._work: queue.SimpleQueue[_Form | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._work.put(None)
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def keep(self, version: PolicyVersion, content_hash: str) -> str:
        """Take a version without encoding it, before somebody asks; returns the short hash of the one before."""
        with self._lock:
            before = next(reversed(self._versions), "")
            self._versions[content_hash[:NAME_DIGITS]] = (version, content_hash)
            self._forget()
        return before

    def add(self, version: PolicyVersion, content_hash: str) -> tuple[PolicyVersion | None, bytes]:
        """Take a version; returns the one before, where a delta leads from it, and its bytes.

        Without one, None and the keyframe's. Encodes in the caller's thread.
        """
        name = content_hash[:NAME_DIGITS]
        before = self.keep(version, content_hash)
        with self._lock:
            base = self._versions.get(before, (None, ""))[0] if before != name else None
        if base is not None:
            delta = self._encode((name, before))
            if delta is not None:
                return base, delta
        keyframe = self._encode((name, ""))
        assert keyframe is not None  # it was added just now
        return None, keyframe

    def holds(self, name: str) -> bool:
        """Whether a version (short hash) is kept."""
        with self._lock:
            return name in self._versions

    def blob(self, name: str, base: str = "") -> bytes | None:
        """An encoded form, both versions by their short hash; None: it is being encoded.

        Raises:
            KeyError: One of them is not kept, or no delta leads from one to the other.
        """
        form = (name, base)
        with self._lock:
            data = self._blobs.get(form)
            if data is not None:
                self._blobs.move_to_end(form)
                return data
            for wanted in filter(None, form):
                if wanted not in self._versions:
                    raise KeyError(wanted)
            if form in self._impossible:
                raise KeyError(base)
            if form not in self._asked:
                self._asked.add(form)
                self._work.put(form)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="policy-encoder", daemon=True
                    )
                    self._thread.start()
        return None

    def _run(self) -> None:
        while (form := self._work.get()) is not None:
            try:
                self._encode(form)
            except Exception:  # the next one may go well
                _log.exception("policy version %s could not be encoded", form[0])
            with self._lock:
                self._asked.discard(form)

    def _encode(self, form: _Form) -> bytes | None:
        name, under = form
        with self._lock:
            new, base = self._versions.get(name), self._versions.get(under)
        if new is None or (under and base is None):
            return None  # forgotten meanwhile
        if base is None:
            data: bytes | None = encode_keyframe(new[0], new[1])
        else:
            data = encode_delta(new[0], base[0], new[1], base[1])
        with self._lock:
            if data is None:
                self._impossible.add(form)
            elif name in self._versions:
                self._blobs[form] = data
                self._forget()
        return data

    def _forget(self) -> None:
        def size(version: PolicyVersion) -> int:
            return sum(array.nbytes for array in version.arrays.values())

        total = sum(size(version) for version, _ in self._versions.values())
        while len(self._versions) > max(2, self._keep) or (
            len(self._versions) > 2 and total > self._keep_bytes
        ):
            name, (version, _) = self._versions.popitem(last=False)
            total -= size(version)
            self._impossible = {f for f in self._impossible if name not in f}
            for form in [f for f in self._blobs if name in f]:
                del self._blobs[form]
        while len(self._blobs) > 1 and sum(map(len, self._blobs.values())) > _CACHE_BYTES:
            self._blobs.popitem(last=False)


_PREFIX = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


class PolicyServer(Closing):
    """A :class:`~user_core.interfaces.PolicySink` whose versions robots pull.

    ``publish`` encodes a version against the one before, puts it where queries find it, and
    then announces it. A puller that has another version asks for the delta from that, one that has none for
    the keyframe (:mod:`user_comm.policy_blobs.pieces` has the keys); what is not encoded yet
    is then, and asked for again. Answers are never waited for by anybody but who asked.

    Args:
        session: An open Zenoh session; stays the caller's.
        prefix: Key under which the versions are served.
        announce: Called with the announcement of each new version, in the caller's thread.
        keep: Versions that are kept: the bases that deltas can be made from.
        keep_bytes: Memory that they may take.
        offer: Called before that with each new version and its content hash: there may be other ways to have it.

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
        offer: Callable[[PolicyVersion, str], object] = lambda version, content_hash: None,
    ) -> None:
        self._offer = offer
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError("prefix of policy blobs", got=repr(prefix), expected="a/plain/key")
        self.prefix, self._announce = prefix, announce
        self.served_pieces = self.served_bytes = self.refused = 0
        self._library = VersionLibrary(keep, keep_bytes)
        self._newest, self._made_for = 0, dict[str, bytes]()
        self._lock = threading.Lock()
        # indirect=False: answers are given in Zenoh's own thread, which spares a queue of 256
        # queries that would block the whole session when it is full. An answer is a slice.
        handler = zenoh.handlers.Callback(self._answer, None, indirect=False)
        self._queryable = session.declare_queryable(f"{prefix}/**", handler, complete=True)

    def publish(self, version: PolicyVersion) -> None:
        """Serve a version and announce it."""
        name = content_hash(version)
        size = sum(array.nbytes for array in version.arrays.values())
        base: PolicyVersion | None = None
        if size > _ENCODED_BYTES:
            self._library.keep(version, name)
        else:
            base, data = self._library.add(version, name)
            size = len(data)
        key = version_key(self.prefix, version.number, name)
        with self._lock:
            self._newest = max(self._newest, version.number)
        self._offer(version, name)
        self._announce(
            PolicyAnnouncement(
                number=version.number,
                content_hash=name,
                config_hash=version.config_hash or hashlib.sha256(b"").hexdigest(),
                key=key,
                size=size,
                piece_size=PIECE_BYTES,
                kind=BlobKind.KEYFRAME if base is None else BlobKind.DELTA,
                base=0 if base is None else base.number,
                keyframe=version.number,
                update=version.update,
                environment_steps=version.environment_steps,
                created_ns=version.created_ns,
            )
        )

    def describe(self, made_for: Mapping[str, Any]) -> None:
        """Say what the versions are made for (:func:`user_core.policies.policy_made_for`), to who asks."""
        name = digest(made_for)[:NAME_DIGITS]
        self._made_for = {**self._made_for, name: json.dumps(made_for).encode()}

    def figures(self) -> FlowFigures:
        """What a learner or relay serves, for diagnostics."""
        return FlowFigures(bytes=self.served_bytes, refused=self.refused)

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
            text = self._described(str(query.key_expr))
            if text is not None:
                query.reply(query.key_expr, text)
                return
            wanted = parse_piece_key(str(query.key_expr))
            if wanted is None or not wanted[0].startswith(f"{self.prefix}/"):
                self.refused += 1
                query.reply_err(NO_PIECE)
                return
            version, base, index = wanted
            data = self._find(query, version, base)
            if data is None:
                return
            start = index * PIECE_BYTES
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
                attachment=pack_note(len(data), PIECE_BYTES, time.monotonic_ns()),
            )
            self.served_pieces += 1
            self.served_bytes += len(piece)

    def _described(self, key: str) -> bytes | None:
        """What a configuration stands for, where a key asks for that."""
        above, _, name = key.rpartition("/")
        return self._made_for.get(name) if above == f"{self.prefix}/{MADE_FOR}" else None

    def _find(self, query: zenoh.Query, version: str, base: str) -> bytes | None:
        _, number, name = version.rsplit("/", 2)
        if len(name) != NAME_DIGITS or not number.isdecimal():
            self.refused += 1
            query.reply_err(NO_PIECE)
            return None
        try:
            data = self._library.blob(name, base)
        except KeyError:
            if self._library.holds(name):
                query.reply_err(NO_BASE)
            else:  # a relay hears of a version before it has it
                query.reply_err(LATER if int(number) > self._newest else GONE)
            return None
        if data is None:
            query.reply_err(LATER)
        return data


class ServerProbe(Closing):
    """A session of its own that asks the server of this process by way of their router.

    A session one of whose threads has panicked (eclipse-zenoh 1.10.2, where a callback found no
    memory) looks alive: it sends and keeps its connection, and may answer nobody. What it serves
    cannot tell by itself, so somebody has to ask. Where nobody can be asked, because the router
    is away or the server is not known to it, nothing is said.

    Args:
        config: How to reach the router that the server's session has, too.
        prefix: Where the server serves.
        on_hung: Called from a thread, once, when ``times`` questions in a row timed out.
        period_s: Time between two questions, and for an answer, seconds.
        times: How many questions.
    """

    def __init__(
        self,
        config: ZenohConfig,
        prefix: str,
        on_hung: Callable[[], object],
        period_s: float = 5.0,
        times: int = 3,
    ) -> None:
        self._config, self._key, self._on_hung = config, f"{prefix}/{ALIVE}", on_hung
        self._period_s, self._times = period_s, times
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more. Idempotent."""
        self._ending.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * self._period_s)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                if self._hangs():
                    self._on_hung()
                return
            except Exception:  # the server's own session says why; this one is opened anew
                self._ending.wait(self._period_s)

    def _hangs(self) -> bool:
        """Ask until nothing is answered any more; False at the end."""
        with open_session(self._config, self._ending) as session:
            silent = 0
            while silent < self._times:
                if self._ending.wait(self._period_s):
                    return False
                silent = silent + 1 if self._times_out(session) else 0
        return not self._ending.is_set()

    def _times_out(self, session: zenoh.Session) -> bool:
        """Whether somebody should have answered, and did not."""
        done = threading.Event()
        failed: list[bool] = []

        def take(reply: zenoh.Reply) -> None:
            failed.append(reply.ok is None)

        handler = zenoh.handlers.Callback(take, done.set, indirect=False)
        session.get(self._key, handler, timeout=self._period_s)
        while not done.wait(0.1):
            if self._ending.is_set():
                return False
        return bool(failed) and all(failed)
