"""The slab: a fixed amount of memory for rows, filled from the files of segments."""

from __future__ import annotations

import os

import numpy as np

from user_core.errors import StoreCorrupt
from user_core.specs import Array
from user_learner.replay.catalog import SegmentTable
from user_learner.replay.layout import RowLayout
from user_learner.replay.mapping import aligned_bytes

_CACHE_PIECE_BYTES = 2 * 2**20


class Slab:
    """Rows in anonymous memory, one array per column file.

    Rows are read with ``preadv`` straight into their place, and the page cache is told to
    forget them, so that the memory taken is that of the slab and no other.
    """

    def __init__(self, layout: RowLayout, rows: int) -> None:
        self._layout = layout
        self.rows = rows
        self.arrays: list[Array] = [
            aligned_bytes(rows * file.stride).reshape(rows, file.stride) for file in layout.files
        ]
        self._free = np.arange(rows - 1, -1, -1, dtype=np.int32)  # a stack, lowest on top
        self._free_count = rows

    @property
    def free(self) -> int:
        """Rows that are not in use."""
        return self._free_count

    def take(self, count: int) -> Array:
        """Take rows, ascending, (count,) int32; there must be so many."""
        self._free_count -= count
        return np.sort(self._free[self._free_count : self._free_count + count])

    def give(self, rows: Array) -> None:
        """Give rows back."""
        self._free[self._free_count : self._free_count + len(rows)] = rows[::-1]
        self._free_count += len(rows)

    def load(self, segments: SegmentTable, addresses: Array, rows: Array) -> int:
        """Read rows of the stores, by address, into rows of the slab; return the bytes read.

        Raises:
            OSError: A file cannot be read, for instance because retention dropped it.
            StoreCorrupt: A file is cut short.
        """
        segment, row = segments.locate(addresses)
        breaks = (np.diff(segment) != 0) | (np.diff(row) != 1) | (np.diff(rows) != 1)
        starts = [0, *(np.flatnonzero(breaks) + 1).tolist()]
        ends = [*starts[1:], len(rows)]
        nbytes = 0
        for index, (file, array) in enumerate(zip(self._layout.files, self.arrays, strict=True)):
            handle, current = -1, -1
            try:
                for start, end in zip(starts, ends, strict=True):
                    if segment[start] != current:
                        if handle >= 0:
                            os.close(handle)
                            handle = -1
                        current = int(segment[start])
                        path = segments.paths[current] / self._layout.files[index].filename
                        handle = os.open(path, os.O_RDONLY)
                        if hasattr(os, "posix_fadvise"):  # what follows is not wanted
                            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
                    target = array[rows[start] : rows[start] + end - start].reshape(-1)
                    nbytes += _read(handle, target, int(row[start]) * file.stride)
            finally:
                if handle >= 0:
                    os.close(handle)
        return nbytes


def _read(handle: int, target: Array, offset: int) -> int:
    done = 0
    while done < target.nbytes:
        count = os.preadv(handle, [target[done:].data], offset + done)
        if not count:
            raise StoreCorrupt("a column file ends within its committed rows", got=offset + done)
        done += count
    if hasattr(os, "posix_fadvise"):
        # The cache keeps files in pieces of up to 2 MiB, and drops whole ones only.
        start = offset - offset % _CACHE_PIECE_BYTES
        end = offset + done + -(offset + done) % _CACHE_PIECE_BYTES
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)
    return done
