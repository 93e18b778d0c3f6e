"""Pools: memory that batches are gathered from; here all rows of all stores, mapped.

numpy can gather from one array only. So that a batch is one gather per column file however
many segments there are, a large range of addresses is reserved per column file (that costs
nothing), and each segment is mapped, shared and read-only, into its place in that range.
The pages are those of the page cache: all readers of a machine share them, and nothing is
copied before the gather. Of what is compressed they are decoded once, into memory of our own.

Only rows that the index says are committed may be touched: elsewhere is a hole that reads
zeros, or no mapping at all. A file that is cut short while it is mapped kills the process
that reads it (SIGBUS), as with every mapping; sizes are checked before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from user_core.errors import StoreError
from user_core.specs import Array
from user_core.types import EpisodeSource
from user_learner.replay.layout import ColumnFile, RowLayout
from user_learner.replay.packed import PackedColumn, unpack_into
from user_learner.replay.segments import open_column
from user_learner.sampling.catalog import SegmentTable, Snapshot
from user_learner.sampling.draws import Population


class Pins:
    """Counts the gathers in flight by the time at which they were planned."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._now = 0
        self._held: Counter[int] = Counter()

    def pin(self) -> int:
        """A gather was planned; give the ticket to :meth:`unpin` when it is done."""
        with self._condition:
            self._held[self._now] += 1
            return self._now

    def unpin(self, ticket: int) -> None:
        """A gather is done, or was given up."""
        with self._condition:
            self._held[ticket] -= 1
            if not self._held[ticket]:
                del self._held[ticket]
                self._condition.notify_all()

    def stamp(self) -> int:
        """A time after which nothing new is planned with what is going away."""
        with self._condition:
            self._now += 1
            return self._now - 1

    def passed(self, stamp: int) -> bool:
        """Whether all gathers planned up to a stamp are done."""
        with self._condition:
            return not self._held or min(self._held) > stamp

    def wait(self, stamp: int, timeout_s: float | None = None) -> bool:
        """Wait until all gathers planned up to a stamp are done."""
        with self._condition:
            return self._condition.wait_for(
                lambda: not self._held or min(self._held) > stamp, timeout_s
            )


# --------------------------------------------------------------------------------------------------
# Address ranges
# --------------------------------------------------------------------------------------------------


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
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
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

    def map(
        self, path: Path, first_row: int, rows: int, aside: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Map the rows of a segment's column file so that they begin at ``first_row``. Of what is compressed, rows
        that are set ``aside`` as damaged are not decoded, and read zeros."""
        start, nbytes = first_row * self._file.stride, rows * self._file.stride
        if start % mmap.PAGESIZE or start + nbytes > self._nbytes:
            raise StoreError(
                f"no room to map {path}",
                got=f"rows {first_row} to {first_row + rows}",
                expected=f"within {self.rows} rows, at a page",
                hint="Lift the limit on address space (ulimit -v), or give a memory budget",
            )
        with open_column(path, self._file) as column:
            if isinstance(column, PackedColumn):
                self._decode(path, start, nbytes, column.header.rows, aside)
            else:
                self._place(start, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, column.fileno())

    def _decode(
        self, path: Path, start: int, nbytes: int, rows: int, aside: Sequence[tuple[int, int]]
    ) -> None:
        """Memory of our own for what is compressed, decoded once: it is drawn from as often as what is mapped."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._place(start, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)
        shape = rows, self._file.stride
        memory = _Memory(self._address + start, shape, writable=True)
        packed = path / self._file.packed_filename
        unpack_into(packed, self._file, np.asarray(memory), aside)

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
    """Lets numpy look at an address."""

    def __init__(self, address: int, shape: tuple[int, int], writable: bool = False) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, not writable),
            "shape": shape,
            "typestr": "|u1",
        }


def aligned_bytes(nbytes: int) -> Array:
    """Anonymous memory, (nbytes,) uint8, that begins at a page; zeros, taken from the system as they are written.

    Source and destination of a gather should have the same place within a page: copies
    between addresses that differ by a few bytes modulo 4096 were measured five times slower
    (loads that wait for stores to an address that looks the same).

    What is large lies in huge pages where the system has them. Linux moves small ones about to make room for huge ones
    of others, and whoever reads a page on its way waits, as long as the one who moves it has no core; huge ones stay.

    Raises:
        MemoryError: There is less.
    """
    size = max(1, nbytes)
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **flags)
    except OSError as error:
        raise MemoryError(f"{nbytes} bytes: {error.strerror}") from error
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= _HUGE_BYTES:
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8, nbytes)


#: Of a huge page, on most machines.
_HUGE_BYTES = 2 * 2**20
#: Linux 5.14; mmap does not name it.
_MADV_POPULATE_WRITE = 23


def take_pages(memory: Array) -> None:
    """Take from the system what :func:`aligned_bytes` has not taken yet, contents stay: so that whoever writes there
    with a lock need not wait for pages. Where the system cannot, they are taken as they are written."""
    start = memory.ctypes.data
    first, end = start - start % mmap.PAGESIZE, start + memory.nbytes
    if sys.platform == "linux" and end > first:
        _libc.madvise(first, end - first, _MADV_POPULATE_WRITE)


def release(memory: Array) -> None:
    """Give whole pages at the end of :func:`aligned_bytes` back to the system; they read zeros from now on."""
    start = memory.ctypes.data
    first, end = start + -start % mmap.PAGESIZE, start + memory.nbytes
    if hasattr(mmap, "MADV_DONTNEED") and end > first:
        _libc.madvise(first, end - first, mmap.MADV_DONTNEED)


def give_back_free_memory() -> None:
    """Give what was freed back to the system. The allocator else keeps pages between others that are in use: after some
    changes of large tables tens of megabytes, and not as many in each run."""
    if hasattr(_libc, "malloc_trim"):  # glibc
        _libc.malloc_trim(0)


# --------------------------------------------------------------------------------------------------
# Pools
# --------------------------------------------------------------------------------------------------


_RESERVED_ROWS = 2**40
#: How long to wait for gathers in flight when a pool is closed.
CLOSE_S = 10.0


@dataclass(frozen=True)
class Drawn:
    """Steps that were drawn.

    Attributes:
        rows: Rows of the pool's arrays: of the steps and of the H rows after them, (B, H + 1).
            Past the last row of an episode that one is repeated.
        after: How many following rows there are, (B,), at most H.
        address: Address of the steps in the snapshot, (B,).
        demonstration: Whether they are from demonstrations, (B,) bool.
        before: Rows of the N - 1 observations before the steps, (B, N - 1), oldest first, where several are seen
            at once; the first of an episode is repeated.
        idle: How many of the steps of a window do not count, the first ones, (B,); None: all count.
    """

    rows: Array
    after: Array
    address: Array
    demonstration: Array
    before: Array
    idle: Array | None = None

    @classmethod
    def join(cls, parts: list[Drawn]) -> Drawn:
        """Several, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        idle = None
        if any(part.idle is not None for part in parts):
            idle = np.concatenate(
                [0 * part.after if part.idle is None else part.idle for part in parts]
            )
        joined = cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("rows", "after", "address", "demonstration", "before")
            )
        )
        return replace(joined, idle=idle)

    def part(self, which: Array) -> Drawn:
        """Only the steps of these numbers, (M,)."""
        return Drawn(
            self.rows[which], self.after[which], self.address[which], self.demonstration[which],
            self.before[which], None if self.idle is None else self.idle[which],
        )  # fmt: skip


class Pool(Protocol):
    """Rows in memory, by column file, and how to draw steps among them."""

    pins: Pins

    @property
    def arrays(self) -> list[Array]:
        """One array (rows, stride) uint8 per column file."""

    def draw(self, stratum: int, count: int, rng: np.random.Generator) -> Drawn:
        """Draw steps of a stratum uniformly, with replacement."""

    def has(self, stratum: int) -> bool:
        """Whether anything of a stratum that is not empty can be drawn now."""

    def wait_for_disk(self) -> None:
        """Wait, for a limited time, until drawing is allowed; never with a gather pinned, because
        memory is given back only when pinned gathers are done."""

    def ready(self, snapshot: Snapshot, populations: list[Population]) -> Any:
        """Make what going over to a later state of the stores takes, beside draws, which go on."""

    def renew(self, ready: Any) -> None:
        """Go over to what :meth:`ready` made; nothing is being drawn meanwhile, so that it must be quick."""

    def settle(self) -> None:
        """Do what is left afterwards, beside draws again."""

    def state(self) -> dict[str, Any]:
        """What has to survive a restart besides the state of the random numbers."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""

    def close(self) -> None:
        """Let go of the memory. Idempotent."""


@dataclass(frozen=True)
class _Mapping:
    """A later state of the stores. ``late``: segments that take addresses which others leave only now."""

    snapshot: Snapshot
    populations: list[Population]
    gone: list[tuple[str, int]]
    late: list[tuple[Path, int, int]]


class MappedPool:
    """All rows of all stores, mapped: for stores that fit into the memory budget.

    Args:
        layout: Where the columns lie.
        horizon: Rows that are wanted after a drawn one.
        files: Column files to map; None: all of the layout.
        past: Rows that are wanted before a drawn one.
    """

    def __init__(
        self,
        layout: RowLayout,
        horizon: int,
        files: Sequence[ColumnFile] | None = None,
        past: int = 0,
    ) -> None:
        self.pins, self._past = Pins(), past
        self._horizon = horizon
        self._snapshot = Snapshot()
        self._populations: list[Population] = []
        self._mapped: dict[tuple[str, int], int] = {}
        self._gone: list[tuple[str, int]] = []
        files = layout.files if files is None else files
        self._regions = [Region(file, _RESERVED_ROWS) for file in files]
        self.arrays: list[Array] = [region.array for region in self._regions]

    def draw(self, stratum: int, count: int, rng: np.random.Generator) -> Drawn:
        """See :class:`Pool`."""
        population, runs = self._populations[stratum], self._snapshot.runs
        run, offset = population.pick(rng.integers(0, len(population), count))
        addresses, after = runs.follow(run, offset, self._horizon)
        demonstration = runs.source[run] == int(EpisodeSource.DEMONSTRATION)
        before = runs.precede(run, offset, self._past)
        return Drawn(addresses, after, addresses[:, 0], demonstration, before)

    def has(self, stratum: int) -> bool:
        """See :class:`Pool`: always."""
        return True

    def wait_for_disk(self) -> None:
        """See :class:`Pool`: the kernel reads what is missing."""

    def ready(self, snapshot: Snapshot, populations: list[Population]) -> _Mapping:
        """See :class:`Pool`. Maps new segments: nothing is drawn from their addresses yet."""
        table = snapshot.segments
        wanted = list(zip(table.paths, table.base.tolist(), table.capacity.tolist(), strict=True))
        keys = {(str(path), base) for path, base, _ in wanted}
        gone = [key for key in self._mapped if key not in keys]
        leaving, late = {base for _, base in gone}, []
        for path, base, capacity in wanted:
            if (str(path), base) in self._mapped:
                continue
            if base in leaving:
                late.append((path, base, capacity))
            else:
                self._map(table, path, base, capacity)
        return _Mapping(snapshot, populations, gone, late)

    def renew(self, ready: _Mapping) -> None:
        """See :class:`Pool`."""
        self._snapshot, self._populations = ready.snapshot, ready.populations
        self._gone = ready.gone
        if ready.late:
            self.settle()
        for segment in ready.late:
            self._map(ready.snapshot.segments, *segment)

    def settle(self) -> None:
        """See :class:`Pool`. Unmaps segments that were dropped, so that their disk space becomes free."""
        gone, self._gone = self._gone, []
        if gone:
            self.pins.wait(self.pins.stamp())
        for key in gone:
            for region in self._regions:
                region.unmap(key[1], self._mapped[key])
            del self._mapped[key]

    def _map(self, table: SegmentTable, path: Path, base: int, capacity: int) -> None:
        for region in self._regions:
            region.map(path, base, capacity, table.aside.get(path, ()))
        self._mapped[str(path), base] = capacity

    def state(self) -> dict[str, Any]:
        """See :class:`Pool`: nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`Pool`: nothing."""

    def close(self) -> None:
        """See :class:`Pool`."""
        if self.pins.wait(self.pins.stamp(), CLOSE_S):  # else somebody may still read: leave it
            self._release()

    def _release(self) -> None:
        for region in self._regions:
            region.close()
