"""Layout: how the columns of a trajectory lie in the files of a segment.

Small columns (joint positions, action, reward, flags, times) lie side by side in one
fixed-size *record* per row, in the column file ``records``; every large column (an image)
has a column file of its own. A commit of one producer therefore touches two or three files
instead of fifteen, each of which would cost an fsync, and a gather of all small columns is
one indexed copy.

Rows are padded to 64 bytes and a segment has a multiple of 1024 rows, so every column file
is a multiple of 64 KiB: segments can be mapped one behind the other, on machines with pages
of 4, 16 and 64 KiB alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np

from user_core.specs import Array
from user_core.types import TrajectorySchema

RECORDS = "records"
#: Columns of at least this many bytes a row have a file of their own: one page.
LARGE_NBYTES = 4096
ROW_ALIGNMENT = 64
SEGMENT_ROW_MULTIPLE = 1024
MAX_SEGMENT_ROWS = 65536
#: Aim for the unit of checksums and of residence in memory, bytes.
BLOCK_BYTES = 4 * 2**20
MIN_BLOCK_ROWS = 64


@dataclass(frozen=True)
class ColumnFile:
    """One file of a segment.

    Attributes:
        name: ``records``, or the name of the one large column in it.
        stride: Bytes from one row to the next, a multiple of 64.
        dtype: Type of one row; ``itemsize`` equals ``stride``. Its fields are the columns.
    """

    name: str
    stride: int
    dtype: np.dtype[Any]

    @property
    def filename(self) -> str:
        """Name of the file in the directory of a segment."""
        return quote(self.name, safe="") + ".col"


class RowLayout:
    """Where each column of a schema lies; equal schemas have equal layouts, everywhere."""

    def __init__(self, schema: TrajectorySchema) -> None:
        self.schema = schema
        large = sorted(n for n, spec in schema.columns.items() if spec.nbytes >= LARGE_NBYTES)
        small = sorted(
            (n for n in schema.columns if n not in large),
            key=lambda n: (-np.dtype(schema.columns[n].dtype).itemsize, n),
        )
        self.files: tuple[ColumnFile, ...] = (
            self._file(RECORDS, small),
            *(self._file(name, [name]) for name in large),
        )
        self.large: tuple[str, ...] = tuple(large)
        self.small: tuple[str, ...] = tuple(small)

    @cached_property
    def row_nbytes(self) -> int:
        """Bytes that a row takes on disk, over all files."""
        return sum(file.stride for file in self.files)

    def segment_rows(self, segment_bytes: int) -> int:
        """Rows of a segment of about this size: a power of two, 1024 to 65536."""
        rows = max(1, segment_bytes // self.row_nbytes)
        return int(np.clip(2 ** int(math.log2(rows)), SEGMENT_ROW_MULTIPLE, MAX_SEGMENT_ROWS))

    def block_rows(self) -> int:
        """Rows of a block, the unit of checksums and of residence in memory."""
        rows = max(1, BLOCK_BYTES // self.row_nbytes)
        return int(np.clip(2 ** int(math.log2(rows)), MIN_BLOCK_ROWS, SEGMENT_ROW_MULTIPLE))

    def pack(self, columns: Mapping[str, Array], start: int, stop: int) -> list[Array]:
        """Rows ``start`` to ``stop`` of checked columns, as bytes (rows, stride) per file."""
        rows = stop - start
        packed = []
        for file in self.files:
            names = file.dtype.names or ()
            spec = self.schema.columns[names[0]] if file.name != RECORDS else None
            if spec is not None and spec.nbytes == file.stride:  # a large column: no copy
                part = np.ascontiguousarray(columns[names[0]][start:stop], file.dtype[0].base)
                packed.append(part.reshape(rows, -1).view(np.uint8))
                continue
            records = np.zeros(rows, file.dtype)
            for name in names:
                records[name] = columns[name][start:stop]
            packed.append(records.view(np.uint8).reshape(rows, file.stride))
        return packed

    def unpack(self, packed: list[Array]) -> dict[str, Array]:
        """The inverse of :meth:`pack`: columns in the schema's order, contiguous copies."""
        found: dict[str, Array] = {}
        for file, raw in zip(self.files, packed, strict=True):
            rows = self.view(file, raw)
            for name in file.dtype.names or ():
                found[name] = np.array(rows[name], order="C")
        return {name: found[name] for name in self.schema.columns}

    @staticmethod
    def view(file: ColumnFile, raw: Array) -> Array:
        """Bytes (..., stride) as rows (...) of the file's dtype; no copy."""
        return raw.view(file.dtype).reshape(raw.shape[:-1])

    def _file(self, name: str, columns: list[str]) -> ColumnFile:
        formats, offsets, end = [], [], 0
        for column in columns:
            spec = self.schema.columns[column]
            base = np.dtype(spec.dtype).newbyteorder("<")
            end += -end % base.itemsize
            formats.append(np.dtype((base, spec.shape)))
            offsets.append(end)
            end += spec.nbytes
        stride = max(ROW_ALIGNMENT, end + -end % ROW_ALIGNMENT)
        dtype = np.dtype(
            {"names": columns, "formats": formats, "offsets": offsets, "itemsize": stride}
        )
        return ColumnFile(name, stride, dtype)
