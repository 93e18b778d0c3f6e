"""Mapping the column files of many segments one behind the other in virtual memory.

numpy can gather from one array only. So that a batch is one gather per column file however
many segments there are, a large range of addresses is reserved per column file (that costs
nothing), and each segment is mapped, shared and read-only, into its place in that range.
The pages are those of the page cache: all readers of a machine share them, and nothing is
copied before the gather.

Only rows that the index says are committed may be touched: elsewhere is a hole that reads
zeros, or no mapping at all. A file that is cut short while it is mapped kills the process
that reads it (SIGBUS), as with every mapping; sizes are checked before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from user_core.errors import StoreError
from user_core.specs import Array
from user_learner.replay.layout import ColumnFile

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0x40
_PROT_NONE = 0
_FAILED = ctypes.c_void_p(-1).value
#: Addresses to reserve per column file at most, bytes; less where the machine allows less.
_RESERVE_BYTES = 2**42

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Region:
    """A reserved range of addresses, seen as one array of rows."""

    def __init__(self, file: ColumnFile, max_rows: int) -> None:
        """Reserve room for about ``max_rows`` rows; raises StoreError when there is none."""
        self._file = file
        nbytes = min(_RESERVE_BYTES, max_rows * file.stride)
        while True:
            self._nbytes = nbytes - nbytes % mmap.PAGESIZE
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            address = _libc.mmap(None, self._nbytes, _PROT_NONE, flags, -1, 0)
            if address != _FAILED:
                break
            if nbytes < 2**30:
                raise StoreError(
                    f"cannot reserve {nbytes} bytes of addresses",
                    got=os.strerror(ctypes.get_errno()),
                    hint="Lift the limit on address space (ulimit -v)",
                )
            nbytes //= 2
        self._address: int = address
        self.rows = self._nbytes // file.stride
        self.array: Array = np.asarray(_Memory(address, (self.rows, file.stride)))

    def map(self, path: Path, first_row: int, rows: int) -> None:
        """Map the rows of a segment's column file so that they begin at ``first_row``."""
        start, nbytes = first_row * self._file.stride, rows * self._file.stride
        if start % mmap.PAGESIZE or start + nbytes > self._nbytes:
            raise StoreError(
                f"no room to map {path}",
                got=f"rows {first_row} to {first_row + rows}",
                expected=f"within {self.rows} rows, at a page",
                hint="Lift the limit on address space (ulimit -v), or give a memory budget",
            )
        handle = os.open(path / self._file.filename, os.O_RDONLY)
        try:
            self._place(start, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, handle)
        finally:
            os.close(handle)

    def unmap(self, first_row: int, rows: int) -> None:
        """Let go of rows; their addresses stay reserved."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        start, nbytes = first_row * self._file.stride, rows * self._file.stride
        self._place(start, nbytes, _PROT_NONE, flags, -1)

    def close(self) -> None:
        """Let go of everything. The array must not be used any more. Idempotent."""
        if self._nbytes:
            _libc.munmap(self._address, self._nbytes)
            self._nbytes = 0

    def _place(self, start: int, nbytes: int, protection: int, flags: int, handle: int) -> None:
        wanted = self._address + start
        if _libc.mmap(wanted, nbytes, protection, flags | _MAP_FIXED, handle, 0) != wanted:
            raise StoreError(
                "cannot map a segment",
                got=os.strerror(ctypes.get_errno()),
                hint="Allow more mappings (sysctl vm.max_map_count), or use larger segments",
            )


class _Memory:
    """Lets numpy look at an address, read-only."""

    def __init__(self, address: int, shape: tuple[int, int]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": shape,
            "typestr": "|u1",
        }


def aligned_bytes(nbytes: int) -> Array:
    """Anonymous memory, (nbytes,) uint8, that begins at a page.

    Source and destination of a gather should have the same place within a page: copies
    between addresses that differ by a few bytes modulo 4096 were measured five times slower
    (loads that wait for stores to an address that looks the same).
    """
    memory = mmap.mmap(-1, max(1, nbytes))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8, nbytes)
