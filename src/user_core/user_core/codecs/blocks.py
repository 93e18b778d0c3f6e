"""Blocks of numbers, coded alone or against what the receiver has, whichever is smallest.

A vector is cut into blocks of :data:`BLOCK` numbers, small enough for the processor's cache,
and each block says in its first byte how it is coded:

====== =====================================================================================
SAME   as in the base; nothing follows
RAW    the plain bytes, where nothing else is smaller
FULL   byte planes of the numbers
DIFF   byte planes of the difference of the bit patterns as integers, sign in the lowest bit
SPARSE count (u32), then byte planes of the gaps between changed numbers (u16), and of their
       ``number XOR base``
HALVES a block of the upper halves: float32 that holds bfloat16 values, so the lower are 0
====== =====================================================================================

Bit patterns of floats are ordered as the floats are, so a small step of a weight is a small
integer difference (Ratanaworabhan, Ke, Burtscher, "Fast lossless compression of scientific
floating-point data", 2006, has the idea). All of it is exact, NaN included, for every type.

Byte planes: numbers that are near each other agree in their high bytes and differ in their low
ones. So the bytes are sorted by their place first (byte shuffle), and each plane is then coded by
itself: one that is all zeros costs nothing, one that zstd cannot make smaller goes as it is. Layout
of ``n`` numbers of ``w`` bytes: ``w`` sizes (u32), then the planes, lowest bytes first; a size of 0
stands for zeros, ``n`` for the plain bytes, and anything between for a zstd frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import repeat

import numpy as np
import zstandard

from user_core.errors import CodecError
from user_core.specs import Array

#: What is left after the shuffle are unequal frequencies and long runs. So only long matches are
#: looked for, in few places: half as fast again as level 1, and smaller, for short matches are
#: chance there and cost more than the bytes that they stand for.
_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(
    1, source_size=2**16, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6
)
#: Below this zstd's frame costs more than it saves.
_WORTH_BYTES = 64


class PlaneCoder:
    """Codes and decodes planes. Not for two threads at a time.

    Keeps zstd's working memory, which is what makes small blocks fast.
    """

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, numbers: Array) -> list[bytes | memoryview]:
        """Code a contiguous vector of unsigned integers; the pieces make the block when joined."""
        count, width = numbers.size, numbers.itemsize
        used = int(np.bitwise_or.reduce(numbers)) if count else 0
        sizes, planes = [], list[bytes | memoryview]()
        for place in range(width):
            if not (used >> 8 * place) & 0xFF:
                sizes.append(0)
                continue
            # Shift and cast run four times as fast as a copy with a stride.
            plane = (numbers >> 8 * place).astype(np.uint8)
            coded: bytes | memoryview = plane.data
            if count >= _WORTH_BYTES:
                packed = self._compressor.compress(plane.data)
                coded = packed if len(packed) < count else coded
            sizes.append(len(coded))
            planes.append(coded)
        return [struct.pack(f"<{width}I", *sizes), *planes]

    def decode(self, data: memoryview, out: Array) -> int:
        """Fill a contiguous vector of unsigned integers; return the bytes that were read.

        Raises:
            CodecError: Cut short, or a plane of another size. Nothing is allocated but one
                plane of the size that ``out`` asks for.
        """
        count, width = out.size, out.itemsize
        end = 4 * width
        if len(data) < end:
            raise CodecError("byte planes", got=f"{len(data)} bytes", expected=f"{end} or more")
        sizes: Sequence[int] = struct.unpack_from(f"<{width}I", data)
        out[...] = 0
        for place, size in enumerate(sizes):
            if size > min(count, len(data) - end):
                raise CodecError(
                    "size of a byte plane",
                    got=size,
                    expected=f"at most {min(count, len(data) - end)}",
                )
            if size == 0:
                continue
            plane: bytes | memoryview = data[end : end + size]
            if size < count:
                plane = unpack_frame(plane, count, self._decompressor)
            out |= np.left_shift(np.frombuffer(plane, np.uint8), 8 * place, dtype=out.dtype)
            end += size
        return end


def unpack_frame(
    frame: memoryview | bytes,
    size: int,
    decompressor: zstandard.ZstdDecompressor | None = None,
) -> bytes:
    """Decompress one zstd frame of exactly this content size. Raises CodecError otherwise.

    The size in the frame is what the library allocates, so it is looked at before.
    """
    try:
        stated = zstandard.get_frame_parameters(frame)
        # Single-segment frames have a window of their content; others are not ours.
        if stated.content_size != size or stated.window_size > max(size, 1024):
            raise CodecError(
                "size of a zstd frame",
                got=f"{stated.content_size} (window {stated.window_size})",
                expected=size,
            )
        plain = (decompressor or zstandard.ZstdDecompressor()).decompress(
            frame, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CodecError("zstd frame", got=str(error)[:200], expected="a sound one") from error
    if len(plain) != size:
        raise CodecError("size of a zstd frame", got=len(plain), expected=size)
    return plain


#: Numbers in a block.
BLOCK = 2**16
#: Changed share below which sparse coding is tried, and is the only one that is.
_MAYBE_SPARSE, _SURELY_SPARSE = 1 / 16, 1 / 64
#: A difference of this share of the plain bytes or more: perhaps the numbers alone are smaller.
_POOR = 0.8

Pieces = list[bytes | memoryview]


class Coding(IntEnum):
    """How a block is coded. Never renumber."""

    SAME = 0
    RAW = 1
    FULL = 2
    DIFF = 3
    SPARSE = 4
    HALVES = 5


_CODINGS = frozenset(map(int, Coding))


def blocks(parts: Iterable[Array]) -> Iterator[Array]:
    """The blocks of vectors that follow each other: views, and copies where a block has several.

    So a large model is coded from where it lies: to put its arrays into one first would cost
    more time, for new memory, than to code them.
    """
    begun: list[Array] = []
    room = BLOCK
    for part in parts:
        start = 0
        while part.size - start >= room:
            piece = part[start : start + room]
            yield np.concatenate([*begun, piece]) if begun else piece
            start, room = start + room, BLOCK
            begun.clear()
        if start < part.size:
            begun.append(part[start:])
            room -= part.size - start
    if begun:
        yield np.concatenate(begun) if len(begun) > 1 else begun[0]


class BlockCoder:
    """Codes vectors block by block. Not for two threads at a time."""

    def __init__(self) -> None:
        self._planes = PlaneCoder()

    def encode(self, parts: Sequence[Array], base: Sequence[Array] | None) -> Pieces:
        """Code contiguous vectors of unsigned integers as one, against those of ``base``."""
        pieces: Pieces = []
        before = repeat(None) if base is None else blocks(base)
        for block, base_block in zip(blocks(parts), before, strict=False):
            pieces += self._encode(block, base_block)
        return pieces

    def decode(self, data: memoryview, out: Array, base: Sequence[Array] | None) -> int:
        """Fill a contiguous vector of unsigned integers; return the bytes that were read.

        ``base`` has as many numbers as ``out``, in one vector or in several.

        Raises:
            CodecError: Not coded like this, or cut short. Nothing larger than a block is
                allocated.
        """
        end = 0
        before = repeat(None) if base is None else blocks(base)
        for block, base_block in zip(blocks([out]), before, strict=False):
            if end >= len(data):
                raise CodecError("blocks", got="the end of the bytes", expected="another block")
            coding, end = data[end], end + 1
            end += self._decode(coding, data[end:], block, base_block)
        return end

    def _encode(self, numbers: Array, base: Array | None) -> Pieces:
        if numbers.itemsize == 4 and not np.bitwise_or.reduce(numbers) & 0xFFFF:
            upper = None if base is None else _upper(base)
            return [bytes([Coding.HALVES]), *self._encode(_upper(numbers), upper)]
        if base is None:
            return _smallest(numbers, [self._full(numbers)])
        xor = numbers ^ base
        changed = int(np.count_nonzero(xor))
        if changed == 0:
            return [bytes([Coding.SAME])]
        found = []
        if changed <= numbers.size * _MAYBE_SPARSE:
            found.append(self._sparse(xor))
        if changed > numbers.size * _SURELY_SPARSE:
            difference = _difference(numbers, base)
            found.append([bytes([Coding.DIFF]), *self._planes.encode(difference)])
        if min(map(_nbytes, found)) > _POOR * numbers.nbytes:
            found.append(self._full(numbers))
        return _smallest(numbers, found)

    def _full(self, numbers: Array) -> Pieces:
        return [bytes([Coding.FULL]), *self._planes.encode(numbers)]

    def _sparse(self, xor: Array) -> Pieces:
        where = np.flatnonzero(xor != 0)  # on bools it is five times as fast
        gaps = (np.diff(where, prepend=-1) - 1).astype("<u2")
        return [
            struct.pack("<BI", Coding.SPARSE, where.size),
            *self._planes.encode(gaps),
            *self._planes.encode(xor[where]),
        ]

    def _decode(self, coding: int, data: memoryview, out: Array, base: Array | None) -> int:
        if coding == Coding.RAW:
            if len(data) < out.nbytes:
                raise CodecError("block", got=f"{len(data)} bytes", expected=out.nbytes)
            out[...] = np.frombuffer(data[: out.nbytes], out.dtype)
            return out.nbytes
        if coding == Coding.FULL:
            return self._planes.decode(data, out)
        if coding == Coding.HALVES and out.itemsize == 4 and len(data):
            halves = np.empty(out.size, "<u2")  # of two bytes, so this goes one level deep
            upper = None if base is None else _upper(base)
            end = 1 + self._decode(data[0], data[1:], halves, upper)
            np.left_shift(halves, 16, out=out, dtype=out.dtype)
            return end
        if base is None or coding not in _CODINGS:
            raise CodecError(
                "coding of a block",
                got=coding,
                expected="RAW or FULL without a base"
                if base is None
                else f"one of {sorted(_CODINGS)}",
            )
        if coding == Coding.SAME:
            out[...] = base
            return 0
        if coding == Coding.SPARSE:
            return self._decode_sparse(data, out, base)
        end = self._planes.decode(data, out)
        _undo_difference(out, base)
        return end

    def _decode_sparse(self, data: memoryview, out: Array, base: Array) -> int:
        if len(data) < 4:
            raise CodecError("sparse block", got=f"{len(data)} bytes", expected="4 or more")
        (count,) = struct.unpack_from("<I", data)
        if count > out.size:
            raise CodecError("changed numbers of a block", got=count, expected=f"<= {out.size}")
        gaps, values = np.empty(count, "<u2"), np.empty(count, out.dtype)
        end = 4 + self._planes.decode(data[4:], gaps)
        end += self._planes.decode(data[end:], values)
        where = np.cumsum(gaps.astype(np.int64) + 1) - 1
        if count and where[-1] >= out.size:
            raise CodecError("place of a changed number", got=where[-1], expected=f"< {out.size}")
        out[...] = base
        out[where] ^= values
        return end


def _smallest(numbers: Array, found: list[Pieces]) -> Pieces:
    best = min(found, key=_nbytes)
    if _nbytes(best) > numbers.nbytes:
        return [bytes([Coding.RAW]), numbers.view(np.uint8).data]
    return best


def _nbytes(pieces: Pieces) -> int:
    return sum(len(piece) for piece in pieces)


def _upper(numbers: Array) -> Array:
    upper: Array = (numbers >> 16).astype("<u2")
    return upper


def _difference(numbers: Array, base: Array) -> Array:
    """Integer difference, folded so that small ones of both signs are small ("zigzag")."""
    folded: Array = numbers - base  # modulo 2^bits
    sign = folded.view(f"<i{folded.itemsize}") >> (8 * folded.itemsize - 1)
    folded <<= 1
    folded ^= sign.view(folded.dtype)
    return folded


def _undo_difference(folded: Array, base: Array) -> None:
    sign = folded & 1
    np.negative(sign, out=sign)  # 0 or all ones
    folded >>= 1
    folded ^= sign
    folded += base
