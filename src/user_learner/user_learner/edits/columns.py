"""Columns of rewards beside the data: what another reward says of stored steps, with its provenance.

A column is a folder ``rewards/NAME`` beside the log of edits::

    column.json    which reward judged, with which parameters, who wanted it and why
    values.bin     records of 8 bytes, one a judged step: reward float32, terminated uint8,
                   success int8 (-1: not told), two bytes of nothing
    pieces.log     which steps those are: a checksum and JSON a line,
                   {"episode": [producer, incarnation, number], "first_step", "steps", "offset"}

Values are durable before the line that makes them count. It is named by episodes, not by places in
segments: so it stays true when an index is built anew. A column is used when the log of edits says
so (:meth:`Edit.rewards`); steps that are not in it keep their recorded rewards.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from user_core.codecs.lines import decode_line, encode_line
from user_core.errors import SpecError, StoreCorrupt, StoreError, StoreFull
from user_core.runtime.closing import Closing
from user_core.runtime.files import pwrite_all, sync_directory, write_atomically
from user_core.runtime.locks import FileLock
from user_core.specs import Array
from user_core.types import EpisodeKey

FOLDER = "rewards"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
VALUE = np.dtype(
    {
        "names": ["reward", "terminated", "success"],
        "formats": ["<f4", "u1", "i1"],
        "offsets": [0, 4, 5],
        "itemsize": 8,
    }
)
#: ``success`` of a step of which the reward cannot tell it.
UNKNOWN_SUCCESS = -1


@dataclass(frozen=True)
class Provenance:
    """Where the values of a column come from.

    Attributes:
        name: Of the column.
        plugin: The reward that judged.
        params: Its parameters.
        author: Who wanted it.
        reason: Why.
        created_ns: When it was begun.
        store: Identity of the store.
        files: Files that the parameters name, by the hash of their content.
    """

    name: str
    plugin: str
    params: Mapping[str, Any] = field(default_factory=dict)
    author: str = ""
    reason: str = ""
    created_ns: int = 0
    store: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


#: Consecutive judged steps of an episode, and where their values begin; ``producer`` is a number of
#: :attr:`Pieces.producers`. The first three are the episode.
PIECE = np.dtype(
    [(n, "<i8") for n in ("producer", "incarnation", "number", "first_step", "steps", "offset")]
)
_EPISODE, _PLACE = ("producer", "incarnation", "number"), ("first_step", "steps", "offset")
#: This many lines are turned into numbers together, which bounds what of them is in memory.
_LINES_AT_ONCE = 4096
#: Pieces that came since the others were put in order, which a search goes through one by one.
_UNORDERED = 1024


class Pieces(Sequence[EpisodeKey]):
    """The pieces of a column in the order in which they were judged; as a sequence, the episode of each.

    Arrays, and no object for a piece: a sampler holds those of all episodes, 48 bytes each.

    Attributes:
        producers: Names of producers.
        table: The pieces, (P,) of :data:`PIECE`.
    """

    def __init__(self) -> None:
        self.producers: list[str] = []
        self._producer: dict[str, int] = {}  # its number
        self.table: Array = np.empty(0, PIECE)
        self._order: Array = np.empty(0, np.int64)  # of the first ones, by episode
        self._ordered: Array = np.empty((3, 0), np.int64)  # their episodes in that order

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> EpisodeKey: ...

    @overload
    def __getitem__(self, index: slice) -> list[EpisodeKey]: ...

    def __getitem__(self, index: int | slice) -> EpisodeKey | list[EpisodeKey]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        producer, incarnation, number, *_ = self.table[index].tolist()
        return EpisodeKey(self.producers[producer], incarnation, number)

    @property
    def end(self) -> int:
        """Where the values of all pieces end."""
        return int((self.table["offset"] + self.table["steps"]).max(initial=0))

    @property
    def episodes(self) -> int:
        """Episodes of which steps were judged."""
        if not len(self):
            return 0
        found = np.stack([self.table[name] for name in _EPISODE])
        found = found[:, np.lexsort(found[::-1])]
        return 1 + int((found[:, 1:] != found[:, :-1]).any(axis=0).sum())

    def of(self, key: EpisodeKey) -> Array:
        """Those of an episode, (n,) of :data:`PIECE`, in the order in which they were judged."""
        if key.producer not in self._producer:
            return self.table[:0]
        wanted = (self._producer[key.producer], key.incarnation, key.number)
        if len(self) - len(self._order) > _UNORDERED + len(self._order) // 8:
            found = np.stack([self.table[name] for name in _EPISODE])
            self._order = np.lexsort(found[::-1])  # stable: of one episode the order stays
            self._ordered = found[:, self._order]
        low, high = 0, len(self._order)
        for values, value in zip(self._ordered, wanted, strict=True):
            within = values[low:high]
            low, high = (
                low + int(within.searchsorted(value)),
                low + int(within.searchsorted(value, side="right")),
            )
        late = self.table[len(self._order) :]
        same = np.logical_and.reduce([late[n] == v for n, v in zip(_EPISODE, wanted, strict=True)])
        return np.concatenate([self.table[self._order[low:high]], late[same]])

    def add(self, items: Sequence[Mapping[str, Any]], there: int) -> list[str]:
        """Take what lines of ``pieces.log`` say, of a column that has this many values; return what is wrong with
        those that are passed over."""
        rows, wrong = [], []
        for item in items:
            try:
                producer, incarnation, number = item["episode"]
                row = (int(incarnation), int(number), *(int(item[name]) for name in _PLACE))
                _, _, _, steps, offset = row
                if not all(0 <= value < 2**63 for value in row):
                    raise ValueError(f"{row}, expected numbers from 0 to 2^63 - 1")
                if offset + steps > there:
                    raise ValueError(f"values to {offset + steps} of {there}")
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                wrong.append(str(error))
                continue
            name = str(producer)
            if name not in self._producer:
                self._producer[name] = len(self.producers)
                self.producers.append(name)
            rows.append((self._producer[name], *row))
        if rows:
            self.table = np.concatenate([self.table, np.array(rows, PIECE)])
        return wrong


def columns_of(place: Path) -> list[str]:
    """Names of the columns beside a log in this folder."""
    folder = place / FOLDER
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p / "column.json").is_file())


def column_path(place: Path, name: str) -> Path:
    """Folder of a column. Raises SpecError for what is no name."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            "name of a column of rewards", got=repr(name[:80]),
            expected="1 to 64 letters, digits, -, _ and .",
        )  # fmt: skip
    return place / FOLDER / name


class RewardColumn:
    """Reads a column, also while it is being written.

    Raises StoreError when there is none of this name.
    """

    def __init__(self, place: Path, name: str) -> None:
        self.path = column_path(place, name)
        try:
            self._made = _made(self.path)
            data = json.loads((self.path / "column.json").read_text())
            self.provenance = Provenance(**data)
        except FileNotFoundError as error:
            raise StoreError(
                f"no column of rewards {name!r} beside {place}",
                expected=f"one of {columns_of(place)}",
                hint="user reward relabel makes one",
            ) from error
        except (ValueError, TypeError, OSError) as error:
            raise StoreCorrupt(f"{self.path / 'column.json'}", got=repr(error)) from error
        self.pieces = Pieces()
        #: Values of all pieces, (N,) of :data:`VALUE`.
        self.values: Array = np.empty(0, VALUE)
        self.warnings: list[str] = []
        self._read = 0
        self.refresh()

    @property
    def is_another(self) -> bool:
        """Whether there is another column of this name by now: one that was removed and judged anew, or brought back from
        a copy. What was read of this one says nothing of it. One that was only removed stays as it was read."""
        try:
            size = (self.path / "pieces.log").stat().st_size if self._read else 0
            return _made(self.path) != self._made or size < self._read
        except FileNotFoundError:
            return False

    def refresh(self) -> bool:
        """Look for more values; return whether there are any."""
        path, before = self.path / "pieces.log", self._read
        if not path.exists() or path.stat().st_size == before:
            return False
        with open(path, "rb") as stream:
            stream.seek(before)
            # Values of these lines are in their file by now, those of later ones may not be.
            end = os.fstat(stream.fileno()).st_size
            there = (self.path / "values.bin").stat().st_size // VALUE.itemsize
            if there:
                self.values = np.memmap(self.path / "values.bin", VALUE, "r", shape=(there,))
            while lines := list(islice(_whole_lines(stream, end), _LINES_AT_ONCE)):
                self._read += sum(map(len, lines))
                self.warnings += [
                    f"{path}: a line is passed over: {wrong}" for wrong in self._take(lines, there)
                ]
        return self._read > before

    def _take(self, lines: Sequence[bytes], there: int) -> list[str]:
        items, wrong = [], []
        for line in lines:
            try:
                items.append(decode_line(line.rstrip(b"\n")))
            except ValueError as error:
                if line != b"\n":
                    wrong.append(str(error))
        return wrong + self.pieces.add(items, there)

    def of(self, key: EpisodeKey, first_step: int, steps: int) -> tuple[Array, Array]:
        """Values of steps of an episode, (steps,) of :data:`VALUE`, and which there are, bool."""
        values, known = np.zeros(steps, VALUE), np.zeros(steps, bool)
        for _, _, _, first, count, offset in self.pieces.of(key).tolist():
            low = max(first_step, first)
            high = min(first_step + steps, first + count)
            if low < high:
                at = offset + low - first
                values[low - first_step : high - first_step] = self.values[at : at + high - low]
                known[low - first_step : high - first_step] = True
        return values, known

    def judged(self, key: EpisodeKey) -> int:
        """Up to which step an episode is judged, not included."""
        found = self.pieces.of(key)
        return int((found["first_step"] + found["steps"]).max(initial=0))


def _made(path: Path) -> tuple[int, int]:
    """What tells a column from another of its name: its provenance is written when it is made."""
    found = (path / "column.json").stat()
    return found.st_ino, found.st_mtime_ns


def _whole_lines(stream: BinaryIO, end: int) -> Iterator[bytes]:
    """Lines of a file up to here, without one that is being written."""
    left = end - stream.tell()
    while left > 0 and (line := stream.readline(left)).endswith(b"\n"):
        left -= len(line)
        yield line


class ColumnWriter(Closing):
    """Adds to a column; makes it when it is not there. One process at a time.

    Raises:
        SpecError: The name is none, or the column is of another reward.
        StoreError: Somebody else is writing it, or the disk cannot be written.
    """

    def __init__(self, place: Path, provenance: Provenance) -> None:
        self.path = column_path(place, provenance.name)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / "lock", f"column of rewards {provenance.name!r}")
        except OSError as error:
            raise self._error(error) from error
        try:
            about = self.path / "column.json"
            if not about.exists():
                write_atomically(about, json.dumps(asdict(provenance), indent=1, sort_keys=True))
                sync_directory(self.path.parent)
            self.column = RewardColumn(place, provenance.name)
            if not len(self.column.pieces) and self.column.provenance != provenance:
                # nothing was judged by what it was made for: a model that does not fit, say
                write_atomically(about, json.dumps(asdict(provenance), indent=1, sort_keys=True))
                self.column = RewardColumn(place, provenance.name)
            there = self.column.provenance
            same = (there.plugin, dict(there.params), dict(there.files)) == (
                provenance.plugin, dict(provenance.params), dict(provenance.files)
            )  # fmt: skip
            if not same:
                raise SpecError(
                    f"column of rewards {provenance.name!r}",
                    got=f"values of {there.plugin} with {dict(there.params)}",
                    expected=f"{provenance.plugin} with {dict(provenance.params)}",
                    hint="Give the new one another name (--column)",
                )
            self._end = self.column.pieces.end
            self._values = os.open(self.path / "values.bin", os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._values, self._end * VALUE.itemsize)  # what never came to count
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._pieces = os.open(self.path / "pieces.log", flags, 0o644)
            size = os.fstat(self._pieces).st_size
            if size and os.pread(self._pieces, 1, size - 1) != b"\n":
                os.write(self._pieces, b"\n")
            self._lines: list[bytes] = []
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise self._error(error) from error
            raise

    def add(self, key: EpisodeKey, first_step: int, values: Array) -> None:
        """Add values (N,) of :data:`VALUE`; they count from the next :meth:`commit` on."""
        data = np.ascontiguousarray(values, VALUE)
        try:
            pwrite_all(self._values, data.view(np.uint8).data, self._end * VALUE.itemsize)
        except OSError as error:
            raise self._error(error) from error
        item = {
            "episode": [key.producer, key.incarnation, key.number],
            "first_step": first_step,
            "steps": len(data),
            "offset": self._end,
        }
        self._lines.append(encode_line(item))
        self._end += len(data)

    def commit(self) -> None:
        """Make what was added durable, and let it count."""
        if not self._lines:
            return
        try:
            os.fsync(self._values)
            view = memoryview(b"".join(self._lines))
            while view:
                view = view[os.write(self._pieces, view) :]
            os.fsync(self._pieces)
        except OSError as error:
            raise self._error(error) from error
        self._lines = []
        self.column.refresh()

    def close(self) -> None:
        """Commit nothing, let go. Idempotent."""
        for handle in (self._values, self._pieces):
            if handle >= 0:
                os.close(handle)
        self._values = self._pieces = -1
        self._lock.release()

    def _error(self, error: OSError) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return (StoreFull if full else StoreError)(
            f"column of rewards {self.path} cannot be written", got=error.strerror
        )
