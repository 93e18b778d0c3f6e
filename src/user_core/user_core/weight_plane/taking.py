"""The taker's end: whether a version is offered on this host, and how its weights come here."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.codecs.weights import check_identity
from user_core.errors import TransportError
from user_core.runtime.closing import Closing
from user_core.specs import Array
from user_core.types import PolicyVersion
from user_core.weight_plane.wire import (
    BFLOAT16,
    FORM,
    GPU,
    MEMORY,
    Layout,
    Offer,
    address,
    ends,
    is_there,
    receive,
    same_user,
    send,
)

if TYPE_CHECKING:  # with torch
    from torch import Tensor

    from user_core.weight_plane.cuda import MappedGpuMemory
    from user_core.weight_plane.tensors import Known

_log = logging.getLogger(__name__)
#: Those that take turns.
_POLICIES = 2
#: How long the learner may take to bring a version into memory, seconds; and how often it is looked meanwhile whether
#: the version is still wanted.
_ANSWER_S, _LOOK_S = 60.0, 0.05


def is_offered_here(content_hash: str) -> bool:
    """Whether a version can be taken on this host now."""
    connection = _connect(content_hash)
    if connection is not None:
        connection.close()
    return connection is not None


def take(
    content_hash: str, ways: Sequence[str], cancelled: Callable[[], bool] = lambda: False,
    mappings: Mappings | None = None,
) -> Taking | None:  # fmt: skip
    """Ask for a version, by the first of some ways that the learner can go; None: it is not offered on this host.

    Args:
        content_hash: Which.
        ways: How.
        cancelled: Whether it is not wanted any more; looked at while the learner has not answered.
        mappings: Those that it will be taken with: what was said with a version before need not be said again.

    Raises:
        TransportError: It is, and cannot be had, or the learner has ended meanwhile, or it is not wanted any more.
        CodecError: What came makes no sense.
    """
    connection = _connect(content_hash)
    if connection is None:
        return None
    with ExitStack() as stack:
        stack.enter_context(connection)
        try:
            connection.settimeout(_ANSWER_S)
            layout = None if mappings is None else mappings.layout
            known = layout.name if layout else ""
            send(connection, {"ways": list(ways), "layout": known, "form": FORM})
            _wait_for_answer(connection, cancelled)
            said, files = receive(connection, files=1)
        except OSError as error:
            raise TransportError(
                "weights of this host", got=str(error), expected=f"an answer within {_ANSWER_S:.0f} s"
            ) from error  # fmt: skip
        for file in files:
            stack.callback(os.close, file)
        if "refused" in said:
            raise TransportError("weights of this host", got=str(said["refused"])[:300], expected=" or ".join(ways))  # fmt: skip
        offer = Offer.parse(said, content_hash, layout)
        if mappings is not None:
            mappings.layout = offer.layout
        if offer.way not in ways or (offer.way == MEMORY) != bool(files):
            raise TransportError("weights of this host", got=offer.way[:80], expected=" or ".join(ways))  # fmt: skip
        return Taking(offer, connection, files[0] if files else -1, stack.pop_all())
    raise AssertionError  # no block above swallows an error


def _connect(content_hash: str) -> socket.socket | None:
    if not is_there():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(
            _ANSWER_S
        )  # without one the queue of a learner that hangs would be waited for, for ever
        connection.connect(address(content_hash))
        if same_user(connection):
            return connection
    except OSError:  # nobody is there
        pass
    connection.close()
    return None


def _wait_for_answer(connection: socket.socket, cancelled: Callable[[], bool]) -> None:
    """Return when there is something to be read.

    Raises:
        TransportError: It is not wanted any more.
        OSError: Nothing came in time.
    """
    end_s, readable = time.monotonic() + _ANSWER_S, select.poll()
    readable.register(connection, select.POLLIN)
    while not readable.poll(1e3 * _LOOK_S):
        if time.monotonic() > end_s:
            raise TimeoutError("timed out")
        if cancelled():
            raise TransportError("weights of this host", got="nothing yet", expected="an answer while they are wanted")  # fmt: skip


class Mappings(Closing):
    """Memory of a learner's GPU that stays mapped here from one version to the next, which spares much of the time that
    a version takes within a host. When the learner ends, or lets go of its memory, it is unmapped.

    Args:
        make: Maps what a handle says, for the GPU of this process that copies, and the one that it copies to where that
            is another.
        most: What stays mapped at once: what is mapped longest goes.

    Attributes:
        layout: Of the version that came last.
    """

    layout: Layout | None = None

    def __init__(self, make: Callable[..., MappedGpuMemory] | None = None, most: int = 3) -> None:
        self._make, self._most, self._sends = make, most, True
        self._lock = threading.Lock()
        self._there: dict[tuple[str, int], list[MappedGpuMemory]] = {}
        self._known: dict[Any, Known] = {}
        self._owner = ""
        self._line: socket.socket | None = None

    @contextmanager
    def mapped(
        self, handle: str, index: int, sender: int | None = None
    ) -> Iterator[list[MappedGpuMemory]]:
        """Memory, for copies in the block, by each GPU that can make them. After an error there nothing stays mapped.

        Args:
            handle: As the learner has it.
            index: Number of the GPU here that it is copied to.
            sender: Number of the GPU here on which it lies, where that is another: it is to send as well, if it can
                reach the other.

        Raises:
            TransportError: It cannot be mapped.
        """
        from user_core.weight_plane.cuda import COPY

        with self._lock:
            try:
                memories = self._there.get((handle, index))
                if memories is None:
                    while len(self._there) >= self._most:
                        _close(self._there.pop(next(iter(self._there))))
                    memories = self._there[handle, index] = self._map(handle, index, sender)
                yield memories
            except BaseException as error:
                self._unmap()
                if sender is not None and COPY in str(error):
                    self._sends = False  # whatever it is, the next version is fetched
                raise

    def known(self, offer: Offer, targets: Mapping[str, Tensor]) -> Known:
        """What was found out about a network when it was filled last, by a version that lies alike; of both policies
        that take turns. Raises PolicyError where the version does not fit it."""
        from user_core.weight_plane.tensors import Known, check_targets

        lie = ((n, t.data_ptr(), t.dtype, t.shape, t.stride()) for n, t in targets.items())
        key = offer.layout.name, tuple(lie)
        found = self._known.pop(key, None)
        if found is None:
            found = Known(check_targets(offer, targets))
        self._known[key] = found
        while len(self._known) > _POLICIES:
            self._known.pop(next(iter(self._known)))
        return found

    def _map(self, handle: str, index: int, sender: int | None) -> list[MappedGpuMemory]:
        from user_core.weight_plane.cuda import MappedGpuMemory

        make: Any = self._make or MappedGpuMemory
        found: list[MappedGpuMemory] = [make(handle, index)]
        if sender is not None and self._sends:
            try:
                found.append(make(handle, sender, index))
            except TransportError as error:  # no room for a context there, no way from it to here
                self._sends = False
                _log.info("weights are fetched, and not sent, by copy engines: %s", error)
        return found

    def follow(self, owner: str, connection: socket.socket) -> None:
        """What is mapped is a learner's, which lives as long as this connection."""
        with self._lock:
            if owner == self._owner:
                connection.close()
                return
            before, self._line, self._owner = self._line, connection, owner
        _end(before)
        connection.settimeout(None)
        threading.Thread(target=self._watch, args=(connection,), name="weights", daemon=True).start()  # fmt: skip

    def close(self) -> None:
        """Unmap everything. Idempotent."""
        with self._lock:
            self._unmap()
            line, self._line, self._owner = self._line, None, ""
            self._known.clear()
        _end(line)

    def _watch(self, connection: socket.socket) -> None:
        with connection:
            with suppress(OSError):
                while connection.recv(64):
                    pass
            with self._lock:
                if self._line is connection:
                    self._unmap()
                    self._line, self._owner = None, ""

    def _unmap(self) -> None:
        while self._there:
            _close(self._there.popitem()[1])


def _close(memories: list[MappedGpuMemory]) -> None:
    for memory in memories:
        memory.close()


def _end(connection: socket.socket | None) -> None:
    """Wake who waits on it, and closes it then."""
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class Taking(Closing):
    """A version that is being taken: it stays at the learner for as long as this is open.

    Attributes:
        offer: What it is.
    """

    def __init__(
        self, offer: Offer, connection: socket.socket, file: int, stack: ExitStack
    ) -> None:
        self.offer, self._connection, self._file, self._stack = offer, connection, file, stack

    def arrays(self) -> PolicyVersion:
        """The version on the host, verified by its content hash; of way ``memory``.

        Raises:
            PolicyError: It is not what it says.
            TransportError: What came is damaged.
        """
        offer, data = self.offer, self._mapped()
        found: dict[str, Array] = {}
        for entry in offer.entries:
            raw = np.frombuffer(data, np.uint8, entry.nbytes, entry.offset) if entry.nbytes else np.zeros(0, np.uint8)  # fmt: skip
            dtype = "uint16" if entry.dtype == BFLOAT16 else entry.dtype
            array = raw.copy().view(dtype).reshape(entry.shape)
            array.flags.writeable = False
            found[entry.name] = array
        version = PolicyVersion(
            offer.number, found, offer.config_hash, offer.update, offer.environment_steps, offer.created_ns
        )  # fmt: skip
        check_identity(version, offer.content_hash, offer.content_hash, None)
        return version

    def fill(
        self, targets: Mapping[str, Tensor], pace: Callable[[], object] = lambda: None, mappings: Mappings | None = None
    ) -> None:  # fmt: skip
        """Bring the version into a network that does not act, in place; see
        :func:`user_core.weight_plane.tensors.fill`.

        Args:
            targets: Tensors of the network, by the names of the version's arrays.
            pace: Called before each piece; may wait.
            mappings: Keeps what is mapped of the learner's GPU for the next version; None: it is mapped for this one.

        Raises:
            PolicyError: It does not fit; nothing has changed.
            TransportError: The learner has ended, or what came is not what was offered. The network must not act.
        """
        from user_core.weight_plane import tensors
        from user_core.weight_plane.cuda import number_of_gpu, uuid_of

        gone, offer = ends(self._connection), self.offer
        if offer.way == MEMORY:
            known = tensors.Known(tensors.check_targets(offer, targets))
            file = tensors.FromFile(self._mapped(), offer.layout.piece)
            tensors.fill(offer, file, targets, known, pace, gone)
            return
        with ExitStack() as stack:
            if mappings is None:
                mappings = stack.enter_context(Mappings())
            known = mappings.known(offer, targets)
            number = tensors.number_of(known.device)
            far = offer.gpu != uuid_of(number)
            sender = number_of_gpu(offer.gpu) if far else None
            memories = stack.enter_context(mappings.mapped(offer.handle, number, sender))
            tensors.fill(offer, tensors.FromGpu(memories, far), targets, known, pace, gone)

    def taken(self, mappings: Mappings | None = None) -> None:
        """Tell the learner that all is here: it need not keep it. ``mappings`` end when the learner does."""
        stays = mappings is not None and self.offer.way == GPU
        with suppress(OSError):  # it has ended: what is here is whole all the same
            send(self._connection, {"taken": True, "stays": stays})
            if stays and mappings is not None:
                mappings.follow(self.offer.owner, self._connection.dup())

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self._stack.close()

    def _mapped(self) -> mmap.mmap:
        """Its bytes; the file is sealed, so that no read of them can fail."""
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
        seals = fcntl.fcntl(self._file, fcntl.F_GET_SEALS)
        size = os.fstat(self._file).st_size
        if seals & wanted != wanted or size < self.offer.layout.total:
            raise TransportError(
                "weights of this host", got=f"{size} bytes, seals {seals}", expected=f"{self.offer.layout.total} bytes that stay"
            )  # fmt: skip
        return mmap.mmap(
            self._file, 0, access=mmap.ACCESS_COPY
        )  # others would not do for a sealed one
