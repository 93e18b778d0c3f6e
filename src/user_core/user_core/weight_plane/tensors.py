"""Copies of weights on a GPU that others may take, and networks that are filled with them. Imports torch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from user_core.errors import PolicyError, TransportError
from user_core.specs import Array
from user_core.weight_plane.cuda import MappedGpuMemory, SharedGpuMemory
from user_core.weight_plane.wire import (
    ALIGNMENT,
    BFLOAT16,
    NUMBER_BYTES,
    PIECE_BYTES,
    Entry,
    Layout,
    Offer,
    Piece,
    lay_out,
)

#: Bytes that are on their way at once within a GPU: one piece is copied while the next is launched.
_UNDER_WAY = 2 * PIECE_BYTES
#: From another GPU pieces are copied by copy engines, which no answer waits for. This many bytes are launched at once,
#: on one of two streams in turn: to launch a copy takes the processor as long as to copy 20 MB, and none of it may be
#: waited for.
_AFAR, _LANES = 2 * PIECE_BYTES, 2
#: Where the bytes of a piece go, and what is summed up of them, see :func:`_numbers`.
Place: TypeAlias = tuple[Tensor, tuple[Tensor, Tensor]]
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
        layout: Where its arrays lie.
        rounded: Whether float32 was rounded to bfloat16.
        handle: By which others map it; empty: it is on no GPU.
        device: Where it is.
        pace: Called between what is computed there for :meth:`not_finite`; may wait.
    """

    def __init__(self, flat: Tensor, layout: Layout, rounded: bool, handle: str,
                 give_back: Callable[[], object]) -> None:  # fmt: skip
        self.layout, self.rounded, self.handle, self.device = layout, rounded, handle, flat.device
        self._flat: Tensor | None = flat
        self._give_back, self._lock = give_back, threading.Lock()
        self.pace: Callable[[], object] = lambda: None
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
                found = _Sums(len(self.layout.pieces), self.device)
                for piece in self.layout.pieces:
                    pace()
                    found.add(*_numbers(self._flat[piece.offset : piece.offset + piece.nbytes]))
                return found.values()

    def not_finite(self) -> list[str]:
        """Names of arrays with numbers that are not finite, looked at where they are. Raises PolicyError after
        :meth:`release`."""
        with self._lock:
            if self._flat is None:
                raise PolicyError("weights on a GPU", got="none any more", expected="some")
            with torch.cuda.stream(self._stream):
                found = []
                for entry in self.layout.entries:
                    dtype = getattr(torch, entry.dtype)
                    if dtype.is_floating_point:
                        values: Any = self._flat[entry.offset : entry.end].view(dtype)
                        for part in values.split(PIECE_BYTES):
                            self.pace()
                            found.append((entry.name, part.isfinite().all()))
                right = torch.stack([one for _, one in found]).tolist() if found else []
                names = (name for name, _ in found)
                return sorted({n for n, fine in zip(names, right, strict=True) if not fine})

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
                flat.flags.writeable = False
                self._host = {e.name: _as_array(flat, e) for e in self.layout.entries}
            return self._host

    def __getitem__(self, name: str) -> Array:
        return self._arrays()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays())

    def __len__(self) -> int:
        return len(self.layout.entries)


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
        self._layout = Layout((), PIECE_BYTES, joined=True)

    @staticmethod
    def on_gpu(nbytes: int, device: torch.device) -> tuple[Memory, Tensor]:
        """Memory that other processes of this host can map. Raises TransportError."""
        index = number_of(device)
        memory = SharedGpuMemory(nbytes, index)
        return memory, torch.as_tensor(memory, device=f"cuda:{index}")

    def take(
        self, tensors: Mapping[str, Tensor], rounded: bool = False, pace: Callable[[], object] = lambda: None
    ) -> Snapshot | None:  # fmt: skip
        """What these tensors are now; None where all copies are in use. Waits for all pieces but the last two, so that
        few stand before an answer to a robot.

        Args:
            tensors: By name; the largest is on the GPU.
            rounded: Round float32 to bfloat16, in which they stay float32.
            pace: Called before each piece of the copy; may wait.

        Raises:
            TransportError: The GPU has no room for it.
        """
        entries = lay_out([(n, _type_of(t), tuple(t.shape)) for n, t in tensors.items()])
        if entries != self._layout.entries:
            self._layout = Layout(entries, PIECE_BYTES, joined=True)
        layout = self._layout
        total = max(ALIGNMENT, layout.total)
        device = max(tensors.values(), key=lambda t: t.numel()).device
        found = self._memory(total, device)
        if found is None:
            return None
        memory, flat = found
        stream = torch.cuda.current_stream(flat.device) if flat.is_cuda else None
        ring = _Ring(stream)
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
                        ring.copied(stream, PIECE_BYTES)
                        ring.limit()
        except BaseException:
            self._give_back(memory, flat)
            raise
        return Snapshot(flat, layout, rounded, memory.handle, lambda: self._give_back(memory, flat))  # fmt: skip

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
        self._places = self._found.unbind()
        self._count = 0

    def add(self, numbers: Tensor, left: Tensor) -> None:
        """The next one, as :func:`_numbers` gives it."""
        if len(left) >= NUMBER_BYTES:  # it lies oddly
            numbers, left = _numbers(left.clone())
        place = self._places[self._count]
        torch.sum(numbers, 0, out=place)
        if len(left):
            place.add_(left.sum(dtype=torch.int64))
        self._count += 1

    def begin(self) -> None:
        """The next is the first one."""
        self._count = 0

    def values(self) -> tuple[int, ...]:
        """All of them; waits."""
        return tuple(self._found.tolist())


def _numbers(piece: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes, eight as one number, and those that are left: all of them where they lie so that it cannot be."""
    if piece.data_ptr() % NUMBER_BYTES or piece.storage_offset() % NUMBER_BYTES:
        return piece.new_empty(0, dtype=torch.int64), piece
    whole = len(piece) // NUMBER_BYTES * NUMBER_BYTES
    return piece[:whole].view(torch.int64), piece[whole:]


def _bytes(tensor: Tensor) -> Tensor:
    """Those of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8)


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

    def __init__(self, summing: Any, under_way: int = _UNDER_WAY) -> None:
        self._summing, self._under_way = summing, under_way
        self._free: dict[Any, list[Any]] = {}  # by the stream: an event belongs to its GPU
        self._used, self._bytes = deque[tuple[Any, Any, int]](), 0

    def copied(self, lane: Any, nbytes: int) -> None:
        """The copy of another has been launched on a stream; its sum is launched next."""
        if lane is None:
            return
        free = self._free.setdefault(lane, [])
        done = free.pop() if free else _event()
        done.record(lane)
        if self._summing is not lane:
            self._summing.wait_event(done)
        self._used.append((lane, done, nbytes))
        self._bytes += nbytes

    def limit(self) -> None:
        """Return when few bytes are under way."""
        while self._bytes > self._under_way:
            lane, first, size = self._used.popleft()
            first.synchronize()
            self._free[lane].append(first)
            self._bytes -= size


class Source(Protocol):
    """Where pieces come from.

    Attributes:
        at_once: Bytes of pieces that are launched together, about; what is more than one piece waits together, too.
        engines: Numbers of the GPUs that copy in turn, each on a stream of its own; None: that of the network.
    """

    at_once: int
    engines: tuple[int | None, ...]

    def copy(self, offset: int, target: Tensor, stream: Any) -> None:
        """Launch a copy of the bytes at an offset to a contiguous tensor, on a stream; None: at once."""


class FromGpu:
    """A GPU's memory that another process shares.

    Args:
        memories: It, mapped for each GPU that is to copy: for the one that gets it, and for the one where it lies, if
            that can send it. Both in turn are faster than either.
        far: Whether it is another GPU's than the network.
    """

    def __init__(self, memories: Sequence[MappedGpuMemory], far: bool) -> None:
        self._memories = {memory.index: memory for memory in memories}
        indices = [memory.index for memory in memories]
        self.at_once, count = (_AFAR, _LANES) if far else (PIECE_BYTES, 1)
        self.engines: tuple[int | None, ...] = tuple((indices * count)[:count])

    def copy(self, offset: int, target: Tensor, stream: Any) -> None:
        memory = self._memories[stream.device.index]
        memory.copy(offset, target.nbytes, target.data_ptr(), stream.cuda_stream)


class FromFile:
    """A file in memory. To a GPU its pieces go by way of page-locked memory, which a GPU fetches by itself.

    Args:
        data: Its bytes.
        piece: Bytes of a piece, at most.
    """

    at_once: int = 0
    engines: tuple[int | None, ...] = (None,)

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
    """Where a network is that an offer fits. float32 may be bfloat16 there: it is rounded.

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
    fits = came[0] == mine[0] or {came[0], mine[0]} == halves
    return came[1] == mine[1] and (fits or (came[0], mine[0]) == ("float32", BFLOAT16))


def _is_direct(entry: Entry, target: Tensor) -> bool:
    """Whether the bytes of an array are those of a tensor: these lie in order, and are not rounded."""
    return target.is_contiguous() and target.nbytes == entry.nbytes


def _like(entry: Entry, target: Tensor) -> torch.dtype:
    """As which type the bytes of an array are taken, to be brought into a tensor."""
    return target.dtype if target.nbytes == entry.nbytes else torch.float32


def _is_joined(piece: Piece) -> bool:
    return len(piece.entries) > 1


def _together(pieces: Sequence[Piece], at_once: int) -> Iterator[list[Piece]]:
    """Pieces that are launched together: of those that lie beside the network at first, one at most."""
    some, size = list[Piece](), 0
    for piece in pieces:
        if some and (size + piece.nbytes > at_once or _is_joined(some[-1])):
            yield some
            some, size = [], 0
        some.append(piece)
        size += piece.nbytes
    if some:
        yield some


class Known:
    """What was found out about a network that is filled, and what it is filled by: kept for the next version, because
    finding it out again takes the processor as long as 300 MB take to come from another GPU.

    Args:
        device: Where the network is.

    Attributes:
        places: Of pieces that go where they belong at once, by their offsets.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.places = device, dict[int, Place]()
        self._sums: _Sums | None = None
        self._engines: tuple[int | None, ...] = ()
        self._streams: list[Any] = []

    def sums(self, count: int) -> _Sums:
        """Of this many pieces, always as many."""
        if self._sums is None:
            self._sums = _Sums(count, self.device)
        self._sums.begin()
        return self._sums

    def streams(self, engines: tuple[int | None, ...]) -> tuple[Any, list[Any]]:
        """The stream that sums up, and those on which pieces come, all behind what was launched for the network; None
        on a CPU."""
        if self.device.type != "cuda":
            return None, [None] * len(engines)
        cuda: Any = torch.cuda
        if engines != self._engines:
            devices = [self.device, *(self.device if n is None else torch.device("cuda", n) for n in engines)]  # fmt: skip
            self._engines, self._streams = engines, [cuda.Stream(one) for one in devices]
        launched = cuda.current_stream(self.device).record_event()
        for stream in self._streams:
            stream.wait_event(launched)
        return self._streams[0], self._streams[1:]


class _Landing:
    """Where pieces are copied to: into the tensors of the network, or beside them, from where they are brought there.

    Args:
        targets: The tensors, by name.
        behind: The stream that sums up pieces, and brings them to their places after that; None on a CPU.
        lanes: The streams on which they come.
        size: Bytes of a piece, at most.
        places: Those that are known.
    """

    def __init__(
        self, targets: Mapping[str, Tensor], behind: Any, lanes: list[Any], size: int,
        places: dict[int, Place],
    ) -> None:  # fmt: skip
        self._targets, self._behind, self._lanes, self._size = targets, behind, lanes, size
        self._places = places
        self._whole = dict[
            str, Tensor
        ]()  # of tensors whose numbers do not lie in order, or are rounded
        self._beside: list[tuple[Tensor, Any]] = []

    def place(self, piece: Piece, lane: Any) -> Place:
        """For the bytes of a piece that comes on a stream, and the same as numbers to be summed up."""
        found = self._places.get(piece.offset)
        if found is not None:
            return found
        if _is_joined(piece):
            there = self._place_beside(piece.nbytes, lane)
            return there, _numbers(there)
        entry = piece.entries[0]
        target = self._targets[entry.name].detach()
        direct = _is_direct(entry, target)
        if not direct:
            if not piece.start:
                like = _like(entry, target)
                self._whole[entry.name] = torch.empty(entry.shape, dtype=like, device=target.device)
                for one in filter(None, self._lanes):
                    one.wait_stream(self._behind)  # which has had this memory before
            target = self._whole[entry.name]
        there = _bytes(target)[piece.start : piece.start + piece.nbytes]
        found = there, _numbers(there)
        if direct:
            self._places[piece.offset] = found
        return found

    def came(self, piece: Piece, there: Tensor) -> None:
        """It is there, and was summed up: behind that it goes to where it belongs."""
        if _is_joined(piece):
            self._bring(piece, there)
            return
        entry = piece.entries[0]
        if entry.name in self._whole and piece.start + piece.nbytes >= entry.nbytes:
            self._targets[entry.name].detach().copy_(self._whole.pop(entry.name))

    def _place_beside(self, nbytes: int, lane: Any) -> Tensor:
        if len(self._beside) < 2:
            device = next(iter(self._targets.values())).device
            room = torch.empty(self._size, dtype=torch.uint8, device=device)
            self._beside.append((room, None if lane is None else _event()))
            if lane is not None:
                lane.wait_stream(self._behind)
        else:
            self._beside.reverse()
            if lane is not None:
                lane.wait_event(self._beside[-1][1])
        return self._beside[-1][0][:nbytes]

    def _bring(self, piece: Piece, there: Tensor) -> None:
        places, parts = list[Tensor](), list[Tensor]()
        for entry in piece.entries:
            target, start = self._targets[entry.name].detach(), entry.offset - piece.offset
            part = there[start : start + entry.nbytes]
            if _is_direct(entry, target):
                places.append(_bytes(target))
                parts.append(part)
            else:
                target.copy_(part.view(_like(entry, target)).view(target.shape))
        if places:
            torch._foreach_copy_(places, parts)
        if self._behind is not None:
            self._beside[-1][1].record(self._behind)


def fill(
    offer: Offer, source: Source, targets: Mapping[str, Tensor], known: Known, pace: Callable[[], object],
    gone: Callable[[], bool],
) -> None:  # fmt: skip
    """Fill a network that does not act, in place, piece by piece, and compare what came with the checksums.

    Until this returns it has something of both, and must not act.

    Args:
        offer: What comes.
        source: Where from.
        targets: The network's own tensors, by name; they keep their addresses.
        known: What was found out about these targets, in the layout of this offer, which they fit.
        pace: Called before each piece; may wait.
        gone: Whether who offers has ended.

    Raises:
        TransportError: Who offers has ended, or what came is not what was offered.
    """
    summing, lanes = known.streams(source.engines)
    ring = _Ring(summing, max(_UNDER_WAY, len(lanes) * source.at_once))
    landing = _Landing(targets, summing, lanes, offer.layout.piece, known.places)
    try:
        with torch.cuda.stream(summing), torch.no_grad():
            sums = known.sums(len(offer.sums))
            for number, pieces in enumerate(_together(offer.layout.pieces, source.at_once)):
                pace()
                if gone():
                    raise TransportError(
                        "weights of this host", got="the learner has ended", expected="the rest of them"
                    )  # fmt: skip
                lane = lanes[number % len(lanes)]
                there = [landing.place(piece, lane) for piece in pieces]
                for piece, (place, _) in zip(pieces, there, strict=True):
                    source.copy(piece.offset, place, lane)
                ring.copied(lane, sum(piece.nbytes for piece in pieces))
                for piece, (place, numbers) in zip(pieces, there, strict=True):
                    sums.add(*numbers)
                    landing.came(piece, place)
                ring.limit()
            found = sums.values()
    finally:
        if summing is not None:
            for lane in lanes:
                lane.synchronize()
            summing.synchronize()
    if found != offer.sums:
        wrong = sum(a != b for a, b in zip(found, offer.sums, strict=True))
        raise TransportError(
            f"weights of policy version {offer.number}", got=f"{wrong} of {len(found)} pieces with other checksums",
            expected="what was offered",
        )  # fmt: skip
