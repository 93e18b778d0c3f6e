"""Backup of a store while it is written, again and again, and the way back.

A backup is a store: any tool opens it. Its index is a committed state of the original; sealed segments,
which never change, are copied once, and of those that are being filled the rows that came since.
Nothing that the backup's index speaks of is changed before the new index takes its place, so that a
backup which is killed is the one before.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from user_core.errors import StoreError
from user_core.runtime.files import replace_durably, sync_directory
from user_learner.replay.bucket import FETCH_LOCK, LIMIT, bring
from user_learner.replay.index import INDEX_NAME, connect, load_meta, set_meta, transaction
from user_learner.replay.layout import LOG_NAME, RowLayout
from user_learner.replay.maintenance import Report, verify
from user_learner.replay.packed import NEW_SUFFIX, can_pack
from user_learner.replay.segments import LEAVING, SEGMENTS, remove_unknown, segment_directory
from user_learner.upkeep.compression import UPKEEP_LOCK

Progress = Callable[[int, int], None]
_PIECE = 4 * 2**20
#: How often a backup begins anew when retention took a segment that it was about to copy.
_ATTEMPTS = 5
#: What is of one process or of one moment.
_NOT_COPIED = (
    "writer.lock", UPKEEP_LOCK, INDEX_NAME, SEGMENTS, LEAVING, LIMIT, FETCH_LOCK,
)  # fmt: skip
#: Says that a directory is what an unfinished restore has written, and nobody's data.
RESTORING = "restore.unfinished"


@dataclass
class BackupReport:
    """What a backup did.

    Attributes:
        segments: In the store.
        copied: Of which something was copied.
        nbytes: Bytes that were copied.
        removed: Segments that the store has no more.
        steps: Rows in the backup.
    """

    segments: int = 0
    copied: int = 0
    nbytes: int = 0
    removed: int = 0
    steps: int = 0


def backup(store: str | Path, target: str | Path, progress: Progress | None = None) -> BackupReport:
    """Bring a backup up to date, or make it.

    Args:
        store: The store; only read, while others may write to it.
        target: Directory of the backup, also on another disk or a mounted host.
        progress: Called with bytes done and in all.

    Raises:
        StoreError: There is no store, ``target`` has another one, or one lies in the other.
        OSError: The disk is full; the backup is the one before, and the next call continues.
    """
    store, target = Path(store).resolve(), Path(target).resolve()
    if store == target or store in target.parents or target in store.parents:
        raise StoreError(f"backup of {store}", got=str(target), expected="a directory beside it",
                         hint="Best on another disk")  # fmt: skip
    with closing(connect(store, writable=False)) as source:
        (target / SEGMENTS).mkdir(parents=True, exist_ok=True)
        before = _index_of(target, load_meta(source).store)
        for attempt in range(_ATTEMPTS):
            new = target / (INDEX_NAME + ".new")
            _snapshot(source, new)
            try:
                return _copy(store, target, new, before, progress or (lambda done, total: None))
            except FileNotFoundError:  # retention took it; the next state knows
                if attempt == _ATTEMPTS - 1:
                    raise
    raise AssertionError("one of the attempts ended")


def restore(backup_path: str | Path, store: str | Path, progress: Progress | None = None) -> Report:
    """Make a store of a backup, with an identity of its own, and verify it.

    Robots whose outbox is bound to the lost store see by the identity that this is a successor, and send it
    what they still have.

    Args:
        backup_path: The backup; only read.
        store: Directory that is not there, or empty.
        progress: Called with bytes done and in all.

    Raises:
        StoreError: There is something, also beside it as ``STORE.part`` that no restore made; or no backup.
        OSError: The disk is full; nothing is left.
    """
    store = Path(store)
    if store.exists() and any(store.iterdir()):
        raise StoreError(f"restore to {store}", got="something there", expected="a new directory")
    part = store.with_name(store.name + ".part")
    if part.exists() and any(part.iterdir()) and not (part / RESTORING).exists():
        raise StoreError(
            f"restore to {store}", got=f"{part}, which no restore made",
            expected="that name to be free: the copy is made there, and renamed when it is verified",
            hint="Give another directory, or rename that one",
        )  # fmt: skip
    # a name that says what it is once the mark is gone: a kill at any moment leaves nothing that nobody may remove
    verified = store.with_name(f".{store.name}.restored")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(verified, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        (part / RESTORING).touch()
        backup(backup_path, part, progress)
        with closing(connect(part, writable=True)) as index, transaction(index):
            set_meta(index, store=uuid.uuid4().hex)
        report = verify(part)
        part.rename(verified)
        (verified / RESTORING).unlink()
        if store.exists():
            store.rmdir()
        verified.rename(store)
        sync_directory(store.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(verified, ignore_errors=True)
        raise
    return report


def _snapshot(source: sqlite3.Connection, new: Path) -> None:
    """A committed state of the index, in a file of its own without a log."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(new, isolation_level=None)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def _index_of(target: Path, identity: str) -> dict[int, tuple[int, int, int]]:
    """Segments of the backup as it is: rows, bytes of the log, whether it was sealed."""
    if not (target / INDEX_NAME).exists():
        others = [
            f for f in target.iterdir() if f.name not in (SEGMENTS, INDEX_NAME + ".new", RESTORING)
        ]
        if others and not _is_begun(target):
            raise StoreError(
                f"backup to {target}", got="something there", expected="a new directory"
            )
        return {}
    with closing(connect(target, writable=False)) as index:
        found = load_meta(index).store
        if found != identity:
            raise StoreError(
                f"backup {target}", got=f"that of store {found}", expected=f"that of {identity}",
                hint="A store that was restored has an identity of its own: give it a new backup",
            )  # fmt: skip
        rows = index.execute("SELECT id, rows, log_bytes, sealed FROM segments").fetchall()
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def _is_begun(target: Path) -> bool:
    return (target / (INDEX_NAME + ".new")).exists() or any((target / SEGMENTS).iterdir())


def _copy(
    store: Path,
    target: Path,
    new: Path,
    before: dict[int, tuple[int, int, int]],
    progress: Progress,
) -> BackupReport:
    report = BackupReport()
    with closing(sqlite3.connect(new, isolation_level=None)) as index:
        meta = load_meta(index)
        segments = index.execute("SELECT id, rows, log_bytes, sealed FROM segments").fetchall()
    report.segments, report.steps = len(segments), sum(rows for _, rows, *_ in segments)
    if meta.schema is not None:
        layout = RowLayout(meta.schema)
        total = report.steps * layout.row_nbytes
        done = 0
        for segment, rows, log_bytes, sealed in segments:
            had = before.get(segment, (0, 0, 0))
            if had != (rows, log_bytes, sealed) or not had[2]:
                copied = _copy_segment(
                    segment_directory(store, segment), segment_directory(target, segment), layout,
                    meta.segment_rows, rows, log_bytes, had,
                )  # fmt: skip
                report.copied += bool(copied)
                report.nbytes += copied
            done += rows * layout.row_nbytes
            progress(done, total)
    report.nbytes += _copy_others(store, target)
    for suffix in ("-wal", "-shm"):  # of readers of the backup: nobody writes to it
        (target / (INDEX_NAME + suffix)).unlink(missing_ok=True)
    replace_durably(new, target / INDEX_NAME)
    report.removed = remove_unknown(target, (segment for segment, *_ in segments))
    return report


def _copy_segment(
    source: Path,
    target: Path,
    layout: RowLayout,
    segment_rows: int,
    rows: int,
    log_bytes: int,
    had: tuple[int, int, int],
) -> int:
    """Copy the rows that the backup lacks. Returns how many bytes."""
    target.mkdir(parents=True, exist_ok=True)
    copied = 0
    bring(source)
    for file in layout.files:
        packed, plain = target / file.packed_filename, target / file.filename
        if can_pack(file) and not (source / file.filename).exists():
            if not packed.exists():
                copied += _copy_whole(source / file.packed_filename, packed)
            plain.unlink(missing_ok=True)  # what it has is in the compressed one, too
            continue
        size = segment_rows * file.stride
        copied += _copy_part(
            source / file.filename, target / file.filename, had[0] * file.stride,
            rows * file.stride, size,
        )  # fmt: skip
    copied += _copy_part(source / LOG_NAME, target / LOG_NAME, had[1], log_bytes, log_bytes)
    sync_directory(target)
    return copied


def _copy_whole(source: Path, target: Path) -> int:
    new = target.with_name(target.name + NEW_SUFFIX)
    shutil.copyfile(source, new)
    replace_durably(new, target)
    return target.stat().st_size


def _copy_part(source: Path, target: Path, start: int, stop: int, size: int) -> int:
    with open(source, "rb") as reading, open(target, "ab"):  # it is there from now on
        with open(target, "r+b") as writing:
            if os.fstat(writing.fileno()).st_size < start:
                start = 0  # another one was there
            at = start
            reading.seek(at)
            writing.seek(at)
            while at < stop:
                piece = reading.read(min(_PIECE, stop - at))
                if not piece:
                    raise StoreError(f"{source} ends early", got=f"{at} bytes", expected=stop)
                writing.write(piece)
                at += len(piece)
            writing.flush()
            writing.truncate(size)
            os.fsync(writing.fileno())
    return stop - start


def _copy_others(store: Path, target: Path) -> int:
    """Edits, meaning, columns of rewards and logs beside the index; what did not change stays."""
    copied = 0
    for path in sorted(store.rglob("*")):
        place = path.relative_to(store)
        top = place.parts[0]
        if top in _NOT_COPIED or top.startswith(INDEX_NAME) or not path.is_file():
            continue
        there = target / place
        found = path.stat()
        with suppress(OSError):
            old = there.stat()
            if (old.st_size, old.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
                continue
        there.parent.mkdir(parents=True, exist_ok=True)
        new = there.with_name(there.name + ".new")
        shutil.copy2(path, new)
        replace_durably(new, there)
        copied += found.st_size
    return copied
