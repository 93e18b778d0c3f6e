"""Byte planes: numbers to compressed bytes and back, without loss.

Numbers that are near each other agree in their high bytes and differ in their low ones. So the
bytes are sorted by their place first (byte shuffle), and each plane is then coded by itself:
one that is all zeros costs nothing, one that zstd cannot make smaller goes as it is. Layout of
``n`` numbers of ``w`` bytes: ``w`` sizes (u32), then the planes, lowest bytes first; a size of 0
stands for zeros, ``n`` for the plain bytes, and anything between for a zstd frame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

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
