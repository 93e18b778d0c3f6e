"""The learner's end: each version it publishes can be taken by who is on this host."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from user_core.codecs.weights import array_bytes
from user_core.errors import CodecError, SuiteError, in_words
from user_core.runtime.closing import Closing
from user_core.runtime.gpu_turns import TOGETHER_S, FairWait, turns_on
from user_core.specs import Array
from user_core.types import PolicyVersion
from user_core.weight_plane.wire import (
    GPU,
    MEMORY,
    PIECE_BYTES,
    Layout,
    Offer,
    address,
    as_text,
    check_form,
    checksum,
    ends,
    is_there,
    lay_out,
    receive,
    same_user,
    send,
)

if TYPE_CHECKING:  # with torch
    from torch import Tensor

    from user_core.weight_plane.tensors import Snapshot, Snapshots

_log = logging.getLogger(__name__)
#: How long who connects may take to say what it wants, seconds.
_ASK_S = 5.0
#: How long others may take to unmap what they have of a learner that ends, seconds.
_UNMAP_S = 1.0
_LISTEN = 8
#: A process that has no more files to open looks again after this time, seconds.
_AGAIN_S = 0.2


class Offers(Closing):
    """Offers the newest version to processes of the same user on this host, until the next replaces it.

    Nothing is copied before somebody asks. The first who wants it on a GPU gets that version by memory; from the next
    one on there are snapshots (:meth:`snapshot`). A version that is replaced while it is being taken stays until that
    has ended.

    Args:
        hold_s: Who takes longer is cut off, seconds.
        gives_way: On a GPU, compute checksums while no answer is due (:mod:`user_core.runtime.gpu_turns`).

    Attributes:
        on_gpu: Whether somebody of this host takes versions on a GPU.
        taken: Versions that were taken whole, by way; ``failed`` those that were not.
        pace: Called before each piece is summed up on a GPU; may wait.
    """

    def __init__(self, hold_s: float = 60.0, gives_way: bool = False) -> None:
        self._hold_s, self._lock, self._gives_way = hold_s, threading.Lock(), gives_way
        self._owner, self._lines = secrets.token_hex(8), set[socket.socket]()
        self.pace: Callable[[], object] = lambda: None
        self._offered: _Offered | None = None
        self._snapshots: Snapshots | None = None
        self._closed = self._said = False
        self.on_gpu = False
        self.taken, self.failed = {GPU: 0, MEMORY: 0}, 0

    def snapshot(
        self, tensors: Mapping[str, Tensor], rounded: bool = False, pace: Callable[[], object] = lambda: None
    ) -> Snapshot | None:  # fmt: skip
        """A copy of weights on their GPU, to be published as the arrays of a version; for the training thread.

        Args:
            tensors: By the names that the version's arrays have.
            rounded: Round float32 to bfloat16.
            pace: Called between pieces; may wait.

        Returns:
            None where nobody takes versions on a GPU, these are not on one, or it has no room.
        """
        if not self.on_gpu or not any(t.is_cuda for t in tensors.values()):
            return None
        from user_core.weight_plane.tensors import Snapshots

        with self._lock:
            if self._closed:
                return None
            if self._snapshots is None:
                self._snapshots = Snapshots()
                device = next(t.device for t in tensors.values() if t.is_cuda)
                if self._gives_way and (turns := turns_on(device)) is not None:
                    self.pace = FairWait(turns, TOGETHER_S)
            snapshots = self._snapshots
        try:
            found = snapshots.take(tensors, rounded, pace)
            if found is not None:
                found.pace = self.pace
            return found
        except Exception as error:  # no room, a driver that lacks something: training goes on
            self._warn(f"a version is not kept on the GPU: {in_words(error)}")
            return None

    def offer(self, version: PolicyVersion, content_hash: str) -> None:
        """Let a version be taken by its hash; before it is announced."""
        if not is_there():
            return
        try:
            offered = _Offered(version, content_hash, self)
        except Exception as error:  # whatever it is, robots pull it all the same
            self._warn(f"a version is not offered on this host: {in_words(error)}")
            offered = None
        with self._lock:
            before, self._offered = self._offered, offered
            if self._closed:
                before, self._offered = offered, None
        if before is not None:
            before.withdraw()

    def close(self) -> None:
        """Offer no more; who takes a version now is cut off. Idempotent."""
        with self._lock:
            self._closed = True
            offered, self._offered = self._offered, None
            snapshots, self._snapshots = self._snapshots, None
        if offered is not None:
            offered.withdraw(now=True)
        self._end_lines()
        if snapshots is not None:
            snapshots.close()

    def _stay_with(self, connection: socket.socket) -> None:
        """Return when the other end has gone, or this one goes: meanwhile it may have memory mapped."""
        with self._lock:
            if self._closed:
                return
            self._lines.add(connection)
        try:
            connection.settimeout(None)
            while connection.recv(64):
                pass
        finally:
            with self._lock:
                self._lines.discard(connection)

    def _end_lines(self) -> None:
        """Let others unmap what they have, before it is given back."""
        with self._lock:
            for connection in self._lines:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
        end_s = time.monotonic() + _UNMAP_S
        while self._lines and time.monotonic() < end_s:
            time.sleep(1e-3)
        with self._lock:
            for connection in self._lines:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _warn(self, text: str) -> None:
        if not self._said:
            self._said = True
            _log.warning("%s", text)


class _Offered:
    """One version, and who takes it. Raises OSError."""

    def __init__(self, version: PolicyVersion, content_hash: str, offers: Offers) -> None:
        self._version, self._hash, self._offers = version, content_hash, offers
        snapshot: Any = version.arrays  # or arrays of the host, as they are
        self._snapshot: Snapshot | None = None
        self._lock, self._users, self._withdrawn = threading.Lock(), 0, False
        self._file: tuple[int, Offer] | None = None
        self._on_gpu: _Said | None = None
        self._making, self._connections = threading.Lock(), set[socket.socket]()
        if getattr(snapshot, "handle", "") and snapshot.there:
            self._snapshot = snapshot
            self._on_gpu = self._said_of(snapshot)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listening.bind(address(content_hash))
            self._listening.listen(_LISTEN)
        except OSError:
            self._listening.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="weights", daemon=True)
        self._thread.start()

    def withdraw(self, now: bool = False) -> None:
        """Nobody else may take it; ``now``: those who do are cut off, too."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for others
        self._listening.close()
        self._thread.join(
            _UNMAP_S
        )  # while it is in there the name is taken, and may be wanted for the same version
        with self._lock:
            self._withdrawn = True
            for connection in self._connections if now else ():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._used(0)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                    time.sleep(_AGAIN_S)  # others close files, too; the version is still offered
                    continue
                return
            if not self._used(1):
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), name="weights", daemon=True).start()  # fmt: skip

    def _used(self, more: int) -> bool:
        """Somebody begins to take it, or has ended; it is given back when nobody will. Whether there is a place."""
        with self._lock:
            if more > 0 and self._withdrawn:
                return False
            self._users += more
            free = self._withdrawn and not self._users
            file, self._file = (self._file, None) if free else (None, self._file)
            snapshot, self._snapshot = (self._snapshot, None) if free else (None, self._snapshot)
        if file is not None:
            os.close(file[0])
        if snapshot is not None:
            snapshot.release()
        return True

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        way, held = "", True
        try:
            connection.settimeout(_ASK_S)
            if not same_user(connection):
                return
            asked, _ = receive(connection)
            way = self._answer(connection, asked)
            if way:
                connection.settimeout(self._offers._hold_s)
                said, _ = receive(connection)
                if said.get("taken") is True:
                    self._offers.taken[way] += 1
                    way = ""
                if said.get("stays") is True:
                    with self._lock:
                        self._connections.discard(connection)
                    held = False
                    self._used(-1)
                    self._offers._stay_with(connection)
        except (OSError, SuiteError) as error:
            if way and not isinstance(error, SuiteError):
                _log.warning("version %d was not taken in time: %s", self._version.number, in_words(error))  # fmt: skip
        except Exception:
            _log.exception("version %d could not be offered", self._version.number)
        finally:
            self._offers.failed += bool(way)
            with self._lock:
                self._connections.discard(connection)
            connection.close()
            if held:
                self._used(-1)

    def _answer(self, connection: socket.socket, asked: Mapping[str, Any]) -> str:
        """Offer it by a way that was asked for; which. Empty: by none."""
        try:
            check_form(asked)
        except CodecError as error:
            send(connection, {"refused": str(error)})
            return ""
        ways = asked.get("ways")
        ways = ways if isinstance(ways, list) else []
        if GPU in ways:
            self._offers.on_gpu = True
            if self._on_gpu is not None:
                knows = asked.get("layout") == self._on_gpu.layout
                send(connection, self._on_gpu.short if knows else self._on_gpu.whole)
                return GPU
        if MEMORY in ways:
            try:
                file, offer = self._in_file()
            except OSError as error:
                send(connection, {"refused": f"no memory for them: {in_words(error)}"})
                return ""
            if not ends(connection)():
                send(connection, offer.fields(), file)
            return MEMORY
        send(connection, {"refused": "the learner has them on no GPU, or the next version will be the first"})  # fmt: skip
        return ""

    def _in_file(self) -> tuple[int, Offer]:
        """The version in memory, made when the first asks for it. Raises OSError."""
        with self._making:
            if self._file is None:
                arrays = self._version.arrays
                entries = lay_out([(n, a.dtype.name, a.shape) for n, a in sorted(arrays.items())])
                layout = Layout(entries, PIECE_BYTES, joined=False)
                file = os.memfd_create("user weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                try:
                    sums = _write(file, layout, arrays)
                except BaseException:
                    os.close(file)
                    raise
                self._file = file, self._offer(MEMORY, layout, sums)
            return self._file

    def _said_of(self, snapshot: Snapshot) -> _Said:
        """What is said of a version that lies on a GPU: put into words before anybody asks, for who asks waits."""
        from user_core.weight_plane.cuda import uuid_of

        sums, gpu = snapshot.sums(self._offers.pace), uuid_of(snapshot.device.index)
        offer = self._offer(GPU, snapshot.layout, sums, gpu=gpu, handle=snapshot.handle)
        name = snapshot.layout.name
        return _Said(name, as_text(offer.fields()), as_text(offer.fields(known=name)))

    def _offer(self, way: str, layout: Layout, sums: tuple[int, ...], **where: str) -> Offer:
        version = self._version
        return Offer(
            version.number, self._hash, version.config_hash, version.update, version.environment_steps,
            version.created_ns, way, layout, sums, owner=self._offers._owner, **where,
        )  # fmt: skip


@dataclass(frozen=True)
class _Said:
    """An offer in words: to who does not know the layout of this name, and to who does."""

    layout: str
    whole: bytes
    short: bytes


def _write(file: int, layout: Layout, arrays: Mapping[str, Array]) -> tuple[int, ...]:
    """Fill a file in memory, and seal it: who maps it can rely on its size. Checksums of all pieces."""
    import fcntl

    import numpy as np

    os.ftruncate(file, layout.total or 1)
    sums, name, data = list[int](), "", memoryview(b"")
    for piece in layout.pieces:
        (entry,) = piece.entries
        if entry.name != name:
            name, data = entry.name, array_bytes(arrays[entry.name])
        start, end = piece.start, piece.start + piece.nbytes
        sums.append(checksum(np.frombuffer(data[start:end], np.uint8)))
        while start < end:
            start += os.pwrite(file, data[start:end], entry.offset + start)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return tuple(sums)
