"""What learner and taker say to each other: JSON with its length before it, and what an offer holds."""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from user_core.errors import CodecError, TransportError
from user_core.specs import DTYPES, MAX_DIMENSIONS, Array

#: Ways that weights go, see :mod:`user_core.weight_plane`.
GPU, MEMORY = "gpu", "memory"
#: Bytes that are copied and summed up at once.
PIECE_BYTES = 32 << 20
#: Where arrays begin in the common memory: what any type, and any copy engine, likes.
ALIGNMENT = 256
#: On the way between GPUs, arrays of this many bytes at most travel together: each copy and each sum takes some 50 µs
#: to launch, in which 20 MB could go.
JOINED_BYTES = 1 << 20
#: Of a number that checksums add up.
NUMBER_BYTES = 8
#: Of what both ends say and compute: another number where one of another release would not understand it. 1 said none,
#: and added up numbers of four bytes.
FORM = 2
#: NumPy lacks it: on the host it is the uint16 that it consists of.
BFLOAT16 = "bfloat16"
_MOST_BYTES, _MOST_ARRAYS, _NAME_LENGTH = 1 << 40, 1 << 16, 1024
_MESSAGE_BYTES, _LARGEST_PIECE = 1 << 26, 1 << 30
_LENGTH = struct.Struct("<I")
_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Entry:
    """Where an array lies in the common memory.

    Attributes:
        name: Of the array.
        dtype: Its type.
        shape: Its shape.
        offset: Bytes before it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def end(self) -> int:
        """Bytes before what lies behind it, at least."""
        return self.offset + self.nbytes

    def fields(self) -> list[Any]:
        """As it travels."""
        return [self.name, self.dtype, list(self.shape), self.offset]

    @cached_property
    def nbytes(self) -> int:
        """Its bytes."""
        count = 1
        for n in self.shape:
            count *= n
        return count * (2 if self.dtype == BFLOAT16 else np.dtype(self.dtype).itemsize)

    def pieces(self, piece: int) -> Iterator[tuple[int, int]]:
        """Where its pieces begin and end, in bytes from its own beginning; none of an empty array."""
        for start in range(0, self.nbytes, piece):
            yield start, min(start + piece, self.nbytes)


@dataclass(frozen=True)
class Piece:
    """What is copied and summed up at once: a part of one array, or some small ones that lie one behind the other.

    Attributes:
        offset: Bytes before it in the common memory.
        nbytes: Its bytes; of several arrays with what lies between them and behind the last.
        entries: Whose it is.
        start: Where it begins in the array, bytes, where that is one.
    """

    offset: int
    nbytes: int
    entries: tuple[Entry, ...]
    start: int = 0


def cut(entries: Sequence[Entry], piece: int, joined: bool) -> tuple[Piece, ...]:
    """The pieces of arrays, in the order of these.

    Args:
        entries: The arrays.
        piece: Bytes of a piece, at most.
        joined: Whether small arrays that lie one behind the other are one piece.
    """
    found: list[Piece] = []
    group: list[Entry] = []

    def flush() -> None:
        if not group:
            return
        start, end = group[0].offset, group[-1].end
        end = _aligned(end) if len(group) > 1 else end  # with what lies between, in whole numbers
        found.append(Piece(start, end - start, tuple(group)))
        group.clear()

    for entry in entries:
        if joined and 0 < entry.nbytes <= JOINED_BYTES:
            follows = group and _aligned(group[-1].end) == entry.offset
            if not follows or _aligned(entry.end) - group[0].offset > piece:
                flush()
            group.append(entry)
            continue
        for start, end in entry.pieces(piece):
            found.append(Piece(entry.offset + start, end - start, (entry,), start))
    flush()
    return tuple(found)


@dataclass(frozen=True)
class Layout:
    """Where all arrays lie. That of a learner's versions is always the same, and is said once.

    Attributes:
        entries: The arrays.
        piece: Bytes of a piece.
        joined: Whether small ones are one piece.
    """

    entries: tuple[Entry, ...]
    piece: int
    joined: bool

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """In the order in which they are copied."""
        return cut(self.entries, self.piece, self.joined)

    @cached_property
    def name(self) -> str:
        """Tells it from others: what both ends compute from it."""
        described = [self.piece, self.joined, [e.fields() for e in self.entries]]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    @property
    def total(self) -> int:
        """Bytes of the common memory."""
        return _aligned(max((e.end for e in self.entries), default=0))

    def fields(self) -> dict[str, Any]:
        """As it travels."""
        entries = [entry.fields() for entry in self.entries]
        return {"entries": entries, "piece": self.piece, "joined": self.joined}

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Layout:
        """What came. Raises KeyError, TypeError, ValueError, OverflowError: it is none, or contradicts itself."""
        entries = tuple(
            Entry(str(name), str(dtype), tuple(map(_whole, shape)), _whole(offset))
            for name, dtype, shape, offset in fields["entries"]
        )
        for entry in entries:
            fits = (
                entry.dtype in (*DTYPES, BFLOAT16)
                and 0 < len(entry.name) <= _NAME_LENGTH
                and len(entry.shape) <= MAX_DIMENSIONS
                and entry.offset % ALIGNMENT == 0
                and entry.end <= _MOST_BYTES
            )
            if not fits:
                raise ValueError(f"array {entry!r:.200}")
        piece = _whole(fields["piece"])
        if piece % ALIGNMENT or not 0 < piece <= _LARGEST_PIECE:
            raise ValueError(f"pieces of {piece} bytes")
        if len(entries) > _MOST_ARRAYS or len({e.name for e in entries}) < len(entries):
            raise ValueError("too many arrays, or two of one name")
        end = 0
        for entry in sorted(entries, key=lambda e: (e.offset, e.nbytes)):
            if entry.offset < end:
                raise ValueError(f"array {entry.name[:80]!r} lies in another")
            end = entry.end
        return cls(entries, piece, bool(fields["joined"]))


@dataclass(frozen=True)
class Offer:
    """A version that can be taken.

    Attributes:
        number, content_hash, config_hash, update, environment_steps, created_ns: As of
            :class:`~user_core.types.PolicyVersion`.
        way: ``gpu`` or ``memory``.
        layout: Its arrays, and where they lie.
        sums: Checksums of all pieces in turn, see :func:`checksum`.
        gpu: UUID of the GPU that it lies on.
        handle: The CUDA IPC handle of that memory, hexadecimal.
        owner: Tells the learner from others, also from itself after a restart.
    """

    number: int
    content_hash: str
    config_hash: str
    update: int
    environment_steps: int
    created_ns: int
    way: str
    layout: Layout
    sums: tuple[int, ...]
    gpu: str = ""
    handle: str = ""
    owner: str = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its arrays."""
        return self.layout.entries

    def fields(self, known: str = "") -> dict[str, Any]:
        """As it travels to who knows a layout by its name."""
        found: dict[str, Any] = {name: getattr(self, name) for name in _NUMBERS + _WORDS}
        found |= {"sums": self.sums, "layout": self.layout.name, "form": FORM}
        if known != self.layout.name:
            found |= self.layout.fields()
        return found

    @classmethod
    def parse(
        cls, fields: Mapping[str, Any], content_hash: str, known: Layout | None = None
    ) -> Offer:
        """What came, checked before anything is mapped or copied.

        Args:
            fields: What came.
            content_hash: Of the version that was asked for.
            known: A layout that came before, and need not have come again.

        Raises:
            CodecError: It is no offer, contradicts itself, or is of another release of this software.
        """
        check_form(fields)
        try:
            numbers = {name: _whole(fields[name]) for name in _NUMBERS}
            words = {name: str(fields[name]) for name in _WORDS}
            layout = Layout.parse(fields) if "entries" in fields or known is None else known
            if fields["layout"] != layout.name:
                raise ValueError(f"layout {fields['layout']!r:.80} instead of {layout.name}")
            sums = tuple(int(n) for n in fields["sums"])
            if len(sums) != len(layout.pieces):
                raise ValueError("not a sum for each piece")
            offer = cls(layout=layout, sums=sums, **numbers, **words)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CodecError(
                "a version that is offered on this host", got=repr(error)[:200], expected="arrays, places and sums"
            ) from error  # fmt: skip
        if offer.content_hash != content_hash:
            raise CodecError(
                "content hash of a version that is offered on this host", got=offer.content_hash[:80],
                expected=content_hash,
            )  # fmt: skip
        return offer


def check_form(fields: Mapping[str, Any]) -> None:
    """Raises CodecError where the other end is of a release with another form: sums would not agree."""
    if (form := fields.get("form", 1)) != FORM:
        raise CodecError(
            "weights of this host", got=f"form {form!r:.80} at the other end", expected=f"form {FORM}",
            hint="Start the learner and who takes its versions with the same release",
        )  # fmt: skip


_NUMBERS = ("number", "update", "environment_steps", "created_ns")
_WORDS = ("content_hash", "config_hash", "way", "gpu", "handle", "owner")


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.80} is no count")
    return value


def lay_out(arrays: Sequence[tuple[str, str, tuple[int, ...]]]) -> tuple[Entry, ...]:
    """Places for arrays, given by name, type and shape, one after the other: small ones behind the others, so that they
    can travel together."""
    entries = [Entry(name, dtype, tuple(shape), 0) for name, dtype, shape in arrays]
    found, offset = [], 0
    for entry in sorted(entries, key=lambda e: e.nbytes <= JOINED_BYTES):
        found.append(replace(entry, offset=offset))
        offset += _aligned(entry.nbytes)
    return tuple(found)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def checksum(data: Array) -> int:
    """Of the bytes of a piece: the sum of its numbers of eight bytes, with sign, and of the bytes that are left, as far
    as eight bytes hold it. A GPU computes the same while it copies the next piece, and reads each byte once for it: of
    smaller numbers it would make larger ones first, four times the work."""
    flat = data.reshape(-1).view(np.uint8)
    whole = len(flat) // NUMBER_BYTES * NUMBER_BYTES
    found = flat[:whole].view("<i8").sum(dtype=np.int64, keepdims=True)
    found += flat[whole:].sum(dtype=np.int64)  # an array does not warn of what it does not hold
    return int(found[0])


def address(content_hash: str) -> str:
    """Where a version is offered: a name in the host's memory, which ends with who listens there."""
    return "\0user.weights." + (
        content_hash
        if len(content_hash) <= 64
        else hashlib.sha256(content_hash.encode()).hexdigest()
    )


def is_there() -> bool:
    """Whether this system has such sockets, and files in memory that can be sealed."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


def same_user(connection: socket.socket) -> bool:
    """Whether whoever is at the other end runs as the same user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return bool(_UCRED.unpack(found)[1] == os.getuid())


def as_text(fields: Mapping[str, Any]) -> bytes:
    """What is said, as it goes over the socket."""
    return json.dumps(fields, separators=(",", ":")).encode()


def send(connection: socket.socket, fields: Mapping[str, Any] | bytes, *files: int) -> None:
    """Say something, or what :func:`as_text` has made of it, and hand over open files. Raises OSError."""
    text = fields if isinstance(fields, bytes) else as_text(fields)
    # Files go with bytes, and not with more than are taken at once.
    head = _LENGTH.pack(len(text))
    if files:
        socket.send_fds(connection, [head], list(files))
    else:
        connection.sendall(head)
    connection.sendall(text)


def receive(connection: socket.socket, files: int = 0) -> tuple[dict[str, Any], list[int]]:
    """What was said, and up to this many open files, which are the caller's.

    Raises:
        TransportError: The other end has gone, or says something else. It holds no file then.
        OSError: Nothing came in time.
    """
    fds: list[int] = []
    try:
        head = b""
        while len(head) < _LENGTH.size:
            more, came, *_ = socket.recv_fds(
                connection, _LENGTH.size - len(head), files or 1, socket.MSG_CMSG_CLOEXEC
            )
            fds += came
            if not more:
                raise EOFError
            head += more
        (length,) = _LENGTH.unpack(head)
        if length > _MESSAGE_BYTES or len(fds) > files:
            raise ValueError(f"{length} bytes and {len(fds)} files")
        text = bytearray()
        while len(text) < length:
            some = connection.recv(min(1 << 20, length - len(text)))
            if not some:
                raise EOFError
            text += some
        found = json.loads(bytes(text))
        if not isinstance(found, dict):
            raise ValueError(f"{found!r:.80}")
        return found, fds
    except (EOFError, ValueError, RecursionError) as error:
        _close(fds)
        raise TransportError(
            "weights of this host",
            got="the end" if isinstance(error, EOFError) else repr(error)[:200],
            expected="an answer",
        ) from error
    except OSError:
        _close(fds)
        raise


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def ends(connection: socket.socket) -> Callable[[], bool]:
    """What tells, without waiting, whether the other end has gone."""
    readable = select.poll()  # a socket with a time limit would wait in recv
    readable.register(connection, select.POLLIN)

    def has_ended() -> bool:
        try:
            return bool(readable.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    return has_ended
