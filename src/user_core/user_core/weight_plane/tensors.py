"""Copies of weights on a GPU that others may take, and networks that are filled with them. Imports torch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from user_core.errors import PolicyError, TransportError
from user_core.specs import Array
from user_core.weight_plane.cuda import MappedGpuMemory, SharedGpuMemory
from user_core.weight_plane.wire import ALIGNMENT, BFLOAT16, PIECE_BYTES, Entry, Offer, lay_out

#: Bytes that are on their way at once: one piece is copied while the next is launched.
_UNDER_WAY = 2 * PIECE_BYTES
#: Copies of weights that a learner keeps on its GPU at most: one is offered, one is on its way to be, one is still
#: being taken.
_MOST = 3


class Memory(Protocol):
    """What a snapshot lies in."""

    handle: str

    def close(self) -> None:
        """Give it back."""


class Snapshot(Mapping[str, Array]):
    """Weights as they were at one moment, on their GPU. As a mapping they are on the host, copied when they are first
    looked at. :meth:`release` gives the GPU's memory back to who has made this; what is on the host stays.

    Attributes:
        entries: The arrays.
        rounded: Whether float32 was rounded to bfloat16.
        handle: By which others map it; empty: it is on no GPU.
        device: Where it is.
    """

    def __init__(self, flat: Tensor, entries: tuple[Entry, ...], rounded: bool, handle: str,
                 give_back: Callable[[], object]) -> None:  # fmt: skip
        self.entries, self.rounded, self.handle, self.device = entries, rounded, handle, flat.device
        self._flat: Tensor | None = flat
        self._give_back, self._lock = give_back, threading.Lock()
        self._host: dict[str, Array] | None = None
        self._stream = _stream(flat.device)  # what follows must not wait for what training launches

    @property
    def there(self) -> bool:
        """Whether it is still on its GPU."""
        return self._flat is not None

    def sums(self, pace: Callable[[], object] = lambda: None) -> tuple[int, ...]:
        """Checksums of its pieces. Raises PolicyError after :meth:`release`.

        Args:
            pace: Called before each piece; may wait.
        """
        with self._lock:
            if self._flat is None:
                raise PolicyError("weights on a GPU", got="none any more", expected="some")
            with torch.cuda.stream(self._stream):
                count = sum(len(list(e.pieces(PIECE_BYTES))) for e in self.entries)
                found = _Sums(count, self.device)
                for entry in self.entries:
                    part = self._flat[entry.offset : entry.offset + entry.nbytes]
                    for _, piece in _pieces(_numbers(part), entry, PIECE_BYTES):
                        pace()
                        found.add(piece)
                return found.values()

    def release(self) -> None:
        """Nobody takes it any more. Idempotent."""
        with self._lock:
            if self._flat is not None:
                self._flat = None
                self._give_back()

    def __del__(self) -> None:
        self.release()

    def _arrays(self) -> dict[str, Array]:
        with self._lock:
            if self._host is None:
                if self._flat is None:
                    raise PolicyError("weights on a GPU", got="none any more", expected="some")
                with torch.cuda.stream(self._stream):
                    flat = self._flat.to("cpu", copy=True).numpy()
                self._host = {e.name: _as_array(flat, e) for e in self.entries}
            return self._host

    def __getitem__(self, name: str) -> Array:
        return self._arrays()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays())

    def __len__(self) -> int:
        return len(self.entries)


def _as_array(flat: Array, entry: Entry) -> Array:
    dtype = np.dtype(np.uint16 if entry.dtype == BFLOAT16 else entry.dtype)
    found: Array = flat[entry.offset : entry.offset + entry.nbytes].view(dtype)
    return found.reshape(entry.shape)


class Snapshots:
    """Makes snapshots of a network, in memory that is used again.

    Args:
        make: Makes memory of a size on a device; :meth:`on_gpu` for one that others can map.
        most: Copies that there may be at once.
    """

    def __init__(
        self,
        make: Callable[[int, torch.device], tuple[Memory, Tensor]] | None = None,
        most: int = _MOST,
    ) -> None:
        self._make, self._most = make or self.on_gpu, most
        self._lock = threading.Lock()
        self._free: list[tuple[Memory, Tensor]] = []
        # Given back by whatever thread forgets a snapshot, also by one that is in here: without the lock.
        self._returned: deque[tuple[Memory, Tensor]] = deque()
        self._used, self._closed = 0, False

    @staticmethod
    def on_gpu(nbytes: int, device: torch.device) -> tuple[Memory, Tensor]:
        """Memory that other processes of this host can map. Raises TransportError."""
        index = number_of(device)
        memory = SharedGpuMemory(nbytes, index)
        return memory, torch.as_tensor(memory, device=f"cuda:{index}")

    def take(
        self, tensors: Mapping[str, Tensor], rounded: bool = False, pace: Callable[[], object] = lambda: None
    ) -> Snapshot | None:  # fmt: skip
        """What these tensors are now; None where all copies are in use. Waits for all pieces but the last two, so that few
        stand before an answer to a robot.

        Args:
            tensors: By name; the largest is on the GPU.
            rounded: Round float32 to bfloat16, in which they stay float32.
            pace: Called before each piece of the copy; may wait.

        Raises:
            TransportError: The GPU has no room for it.
        """
        entries = lay_out([(n, _type_of(t), tuple(t.shape)) for n, t in tensors.items()])
        total = max(ALIGNMENT, max((e.offset + e.nbytes for e in entries), default=0))
        device = max(tensors.values(), key=lambda t: t.numel()).device
        found = self._memory(total, device)
        if found is None:
            return None
        memory, flat = found
        stream = torch.cuda.current_stream(flat.device) if flat.is_cuda else None
        ring = _Ring(stream, stream)
        try:
            with torch.no_grad():
                for entry in entries:
                    source = tensors[entry.name].detach()
                    part = flat[entry.offset : entry.offset + entry.nbytes].view(source.dtype)
                    if rounded and source.dtype == torch.float32:
                        source = source.to(torch.bfloat16)
                    if not source.is_contiguous():
                        source = source.contiguous()
                    source, step = source.view(-1), PIECE_BYTES // part.element_size()
                    for start in range(0, len(part), step):
                        pace()
                        part[start : start + step].copy_(
                            source[start : start + step], non_blocking=True
                        )
                        ring.copied(PIECE_BYTES)
                        ring.limit()
        except BaseException:
            self._give_back(memory, flat)
            raise
        return Snapshot(flat, entries, rounded, memory.handle, lambda: self._give_back(memory, flat))  # fmt: skip

    def close(self) -> None:
        """Give memory back that is not in use, and the rest as soon as it is free. Idempotent."""
        with self._lock:
            self._closed = True
            free, self._free = self._free + self._come_back(), []
        _close(free)

    def _memory(self, total: int, device: torch.device) -> tuple[Memory, Tensor] | None:
        with self._lock:
            if self._closed:
                return None
            free = self._free + self._come_back()
            fitting = [one for one in free if one[1].numel() == total and one[1].device == device]
            other = [one for one in free if one not in fitting]
            self._free = fitting[1:]
            if not fitting and self._used >= self._most:
                return None
            self._used += 1
        _close(other)
        try:
            return fitting[0] if fitting else self._make(total, device)
        except BaseException:
            with self._lock:
                self._used -= 1
            raise

    def _come_back(self) -> list[tuple[Memory, Tensor]]:
        found = []
        while self._returned:
            found.append(self._returned.popleft())
        self._used -= len(found)
        return found

    def _give_back(self, memory: Memory, flat: Tensor) -> None:
        self._returned.append((memory, flat))
        if self._closed:
            with suppress(IndexError):  # close() has it
                self._returned.popleft()[0].close()


def number_of(device: torch.device) -> int:
    """Of a GPU, in this process."""
    return device.index if device.index is not None else torch.cuda.current_device()


def _close(some: list[tuple[Memory, Tensor]]) -> None:
    for memory, _ in some:
        memory.close()


def _type_of(tensor: Tensor) -> str:
    return str(tensor.dtype).rpartition(".")[2]


class _Sums:
    """Checksums of pieces, as :func:`user_core.weight_plane.wire.checksum`, computed where these are."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._found = torch.zeros(count, dtype=torch.int64, device=device)
        self._next = iter(self._found.unbind())

    def add(self, piece: Tensor) -> None:
        """The next one, as :func:`_numbers` gives it."""
        if piece.dtype == torch.uint8 and len(piece) % 4 == 0:
            piece = (piece.clone() if piece.data_ptr() % 4 else piece).view(torch.int32)
        torch.sum(piece, 0, dtype=torch.int64, out=next(self._next))

    def values(self) -> tuple[int, ...]:
        """All of them; waits."""
        return tuple(self._found.tolist())


def _numbers(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor, four as one number where that can be."""
    flat = tensor.view(-1)
    by_four = flat.nbytes % 4 == 0 and flat.data_ptr() % 4 == 0
    return flat.view(torch.int32 if by_four else torch.uint8)


def _pieces(flat: Tensor, entry: Entry, piece: int) -> Iterator[tuple[int, Tensor]]:
    """Where the pieces of an array begin, in bytes, and each of them."""
    if 0 < entry.nbytes <= piece:
        yield 0, flat
        return
    width = flat.element_size()
    for start, end in entry.pieces(piece):
        yield start, flat[start // width : end // width]


def _stream(device: torch.device) -> Any:
    """Another stream of a GPU, behind what has been launched there; None elsewhere."""
    if device.type != "cuda":
        return None
    cuda: Any = torch.cuda  # which has types in some versions only
    stream = cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _event() -> Any:
    cuda: Any = torch.cuda
    return cuda.Event()


class _Ring:
    """Pieces that are on their way: each is summed up when it is there, and few are launched ahead."""

    def __init__(self, copying: Any, summing: Any) -> None:
        self._copying, self._summing = copying, summing
        self._free, self._used, self._bytes = list[Any](), deque[tuple[Any, int]](), 0

    def copied(self, nbytes: int) -> None:
        """The copy of another has been launched; its sum is launched next."""
        if self._copying is None:
            return
        done = self._free.pop() if self._free else _event()
        done.record(self._copying)
        if self._summing is not self._copying:
            self._summing.wait_event(done)
        self._used.append((done, nbytes))
        self._bytes += nbytes

    def limit(self) -> None:
        """Return when few bytes are under way."""
        while self._bytes > _UNDER_WAY:
            first, size = self._used.popleft()
            first.synchronize()
            self._free.append(first)
            self._bytes -= size


class Source(Protocol):
    """Where pieces come from."""

    def copy(self, offset: int, target: Tensor, stream: Any) -> None:
        """Launch a copy of the bytes at an offset to a contiguous tensor, on a stream; None: at once."""


class FromGpu:
    """A GPU's memory that another process shares.

    Args:
        memory: It, mapped.
    """

    def __init__(self, memory: MappedGpuMemory) -> None:
        self._memory = memory

    def copy(self, offset: int, target: Tensor, stream: Any) -> None:
        self._memory.copy(offset, target.nbytes, target.data_ptr(), stream.cuda_stream)


class FromFile:
    """A file in memory. To a GPU its pieces go by way of page-locked memory, which a GPU fetches by itself.

    Args:
        data: Its bytes.
        piece: Bytes of a piece, at most.
    """

    def __init__(self, data: Any, piece: int) -> None:
        self._data, self._piece = torch.from_numpy(np.frombuffer(data, np.uint8)), piece
        self._locked: list[tuple[Tensor, Any]] = []

    def copy(self, offset: int, target: Tensor, stream: Any) -> None:
        target = target.view(torch.uint8)
        piece = self._data[offset : offset + len(target)]
        if stream is None:
            target.copy_(piece)
            return
        if len(self._locked) < 2:
            self._locked.append((torch.empty(self._piece, dtype=torch.uint8, pin_memory=True), _event()))  # fmt: skip
        else:
            self._locked.reverse()
        locked, done = self._locked[-1]
        done.synchronize()  # the copy before the last one has left it
        locked[: len(piece)].copy_(piece)
        with torch.cuda.stream(stream):
            target.copy_(locked[: len(piece)], non_blocking=True)
            done.record(stream)


def check_targets(offer: Offer, targets: Mapping[str, Tensor]) -> torch.device:
    """Where a network is that an offer fits.

    Raises:
        PolicyError: Names, shapes or types are others, or it lies on several devices.
    """
    came = {e.name: (e.dtype, e.shape) for e in offer.entries}
    mine = {n: (_type_of(t), tuple(t.shape)) for n, t in targets.items()}
    wrong = sorted(
        name
        for name in came.keys() | mine.keys()
        if name not in came or name not in mine or not _alike(came[name], mine[name])
    )
    if wrong:
        raise PolicyError(
            f"arrays of policy version {offer.number}", got={n: came.get(n) for n in wrong[:8]},
            expected={n: mine.get(n) for n in wrong[:8]},
        )  # fmt: skip
    devices = {t.device for t in targets.values()}
    if len(devices) != 1:
        raise PolicyError("a network to be filled", got=sorted(map(str, devices)), expected="one device")  # fmt: skip
    return devices.pop()


def _alike(came: tuple[str, Any], mine: tuple[str, Any]) -> bool:
    halves = {BFLOAT16, "uint16"}  # the same bytes: on the host the one is the other
    return came[1] == mine[1] and (came[0] == mine[0] or {came[0], mine[0]} == halves)


def fill(
    offer: Offer, source: Source, targets: Mapping[str, Tensor], device: torch.device, pace: Callable[[], object],
    gone: Callable[[], bool],
) -> None:  # fmt: skip
    """Fill a network that does not act, in place, piece by piece, and compare what came with the checksums.

    Until this returns it has something of both, and must not act.

    Args:
        offer: What comes.
        source: Where from.
        targets: The network's own tensors, by name; they keep their addresses.
        device: Where they are, as :func:`check_targets` has found.
        pace: Called before each piece; may wait.
        gone: Whether who offers has ended.

    Raises:
        TransportError: Who offers has ended, or what came is not what was offered.
    """
    copying, summing = _stream(device), _stream(device)
    ring = _Ring(copying, summing)
    try:
        with torch.cuda.stream(summing), torch.no_grad():
            sums = _Sums(len(offer.sums), device)
            for entry in offer.entries:
                target = targets[entry.name].detach()
                whole = target
                if not target.is_contiguous():
                    whole = torch.empty_like(target, memory_format=torch.contiguous_format)
                    if copying is not None:
                        copying.wait_stream(summing)  # which has had this memory before
                for start, piece in _pieces(_numbers(whole), entry, offer.piece):
                    pace()
                    if gone():
                        raise TransportError(
                            "weights of this host", got="the learner has ended", expected="the rest of them"
                        )  # fmt: skip
                    source.copy(entry.offset + start, piece, copying)
                    ring.copied(piece.nbytes)
                    sums.add(piece)
                    ring.limit()
                if whole is not target:
                    target.copy_(whole)  # behind the sums of its pieces, which wait for these
            found = sums.values()
    finally:
        if copying is not None:
            copying.synchronize()
            summing.synchronize()
    if found != offer.sums:
        wrong = sum(a != b for a, b in zip(found, offer.sums, strict=True))
        raise TransportError(
            f"weights of policy version {offer.number}", got=f"{wrong} of {len(found)} pieces with other checksums",
            expected="what was offered",
        )  # fmt: skip
