"""The newest versions, and their encoded forms as somebody asks for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict

from user_comm.policy_blobs.pieces import NAME_DIGITS
from user_core.codecs.policy_blob import encode_delta, encode_keyframe
from user_core.types import PolicyVersion

_log = logging.getLogger(__name__)
_Form = tuple[str, str]  # version, base or ""


class VersionLibrary:
    """Keeps versions, and encodes keyframes and deltas between any two of them once.

    Encoding runs in a thread of its own; :meth:`blob` never waits. So a query costs a look-up,
    and a robot that missed some versions gets one delta from what it has, however old, as long
    as that is kept: a chain of deltas is never longer than one.

    Args:
        keep: Versions that are kept.
        keep_bytes: Memory that they may take; two are kept in any case.
        cache_bytes: Memory for encoded forms; the newest is kept in any case.
    """

    def __init__(
        self, keep: int = 8, keep_bytes: int = 2**30, cache_bytes: int = 256 * 2**20
    ) -> None:
        self._keep, self._keep_bytes, self._cache_bytes = keep, keep_bytes, cache_bytes
        self._lock = threading.Lock()
        self._versions: OrderedDict[str, tuple[PolicyVersion, str]] = OrderedDict()
        self._blobs: OrderedDict[_Form, bytes] = OrderedDict()
        self._impossible: set[_Form] = set()
        self._asked: set[_Form] = set()
        self._work: queue.SimpleQueue[_Form | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="policy-encoder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._work.put(None)
        self._thread.join()

    def add(self, version: PolicyVersion, content_hash: str) -> tuple[PolicyVersion | None, bytes]:
        """Take a version; returns the one before, where a delta leads from it, and its bytes.

        Without one, None and the keyframe's. Encodes in the caller's thread.
        """
        name = content_hash[:NAME_DIGITS]
        with self._lock:
            before = next(reversed(self._versions), "")
            self._versions[name] = (version, content_hash)
            self._forget()
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
        while len(self._blobs) > 1 and sum(map(len, self._blobs.values())) > self._cache_bytes:
            self._blobs.popitem(last=False)
