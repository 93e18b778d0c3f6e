"""Old segments on a slower disk: another directory, also one of another host that is mounted.

A segment that was moved is a symbolic link at its place, so that readers, samplers, backups and
verification find it as before. The copy is complete and durable before the link takes the place of the
segment, in one step; who has it mapped goes on with what he has.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from user_core.errors import StoreError
from user_core.runtime.files import sync_directory, write_atomically
from user_learner.replay.bucket import SCHEME
from user_learner.replay.index import INDEX_NAME, connect, load_meta
from user_learner.replay.segments import SEGMENTS, disk_is_away, remove_leaving
from user_learner.sampling.features import PROGRESS_SUFFIX
from user_learner.upkeep.bucket_tier import (
    FETCHED_BYTES,
    TieringReport,
    bring_back_from_bucket,
    move_oldest,
    move_to_bucket,
)
from user_learner.upkeep.compression import upkeep_lock

#: Says of which store the segments beside it are.
OWNER_NAME = "store.path"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def move_old(
    store: str | Path,
    target: str | Path,
    keep_bytes: int,
    is_over: Callable[[], bool] = lambda: False,
    fetched_bytes: int = FETCHED_BYTES,
) -> TieringReport:
    """Move the oldest sealed segments elsewhere until the newest of this many bytes are left here.

    Args:
        store: The store; others may read and write it.
        target: Directory for segments of this store; made below, under the store's identity. Or a bucket, as
            ``s3://BUCKET/PREFIX``.
        keep_bytes: Bytes of segments that stay.
        is_over: Asked before each segment: whether to leave the rest for later.
        fetched_bytes: Of segments that are in a bucket, how much may be here as well.

    Raises:
        StoreError: There is no store, the bucket cannot be reached, ``target`` lies in it, or has segments of a copy of
            it.
        OSError: The disk there is full, or away; what was moved is whole, the rest is here.
    """
    if str(target).startswith(SCHEME):
        return move_to_bucket(Path(store), str(target), keep_bytes, fetched_bytes, is_over)
    store, target = Path(store).resolve(), Path(target).expanduser().resolve()
    if target == store or store in target.parents:
        raise StoreError(f"directory for old segments {target}", got="one within the store",
                         expected="one on another disk")  # fmt: skip
    with closing(connect(store, writable=False)) as index:
        identity = load_meta(index).store
        rows = index.execute("SELECT id, sealed FROM segments ORDER BY id").fetchall()
    place = target / identity
    _claim(place, store)
    remove_leaving(store)
    with upkeep_lock(store):
        _sweep(store, place)
        return move_oldest(
            store, rows, keep_bytes, _used, lambda path: _move(path, place / path.name), is_over
        )


def bring_back(store: str | Path) -> TieringReport:
    """Move all segments back to the store's own disk. Raises as :func:`move_old`."""
    with upkeep_lock(Path(store)):
        return _bring_back(Path(store))


def _bring_back(store: Path) -> TieringReport:
    report = bring_back_from_bucket(store)
    remove_leaving(Path(store))
    for link in sorted((store / SEGMENTS).iterdir()):
        if not link.is_symlink():
            report.here += 1
            continue
        away = link.resolve()
        part = link.with_name(link.name + ".part")
        _copy(away, part)
        exchange(part, link)
        part.unlink()
        shutil.rmtree(away, ignore_errors=True)
        report.moved += 1
        report.nbytes += _used(link)
        report.here += 1
    return report


def _claim(place: Path, store: Path) -> None:
    """Take a directory for the segments of this store alone. A copy of a store has its identity, too, and what
    one of them removed the other would lose."""
    place.mkdir(parents=True, exist_ok=True)
    owner = place / OWNER_NAME
    if owner.exists():
        other = Path(owner.read_text(encoding="utf-8").strip())
        if other != store and (other / INDEX_NAME).exists():
            raise StoreError(
                f"directory for old segments {place}", got=f"segments of {other}",
                expected=f"those of {store}, or none",
                hint="Give each copy of a store another directory on the slower disk",
            )  # fmt: skip
        if other == store:
            return
    write_atomically(owner, f"{store}\n")


def _sweep(store: Path, place: Path) -> None:
    """Remove copies that a kill left beside the segments of a store: of segments that were dropped since, nobody else
    would. Where a segment cannot be found it may be one of these, under another path: then all stay."""
    links = [path for path in (store / SEGMENTS).iterdir() if path.is_symlink()]
    if any(map(disk_is_away, links)):
        return
    used = {(found.st_dev, found.st_ino) for found in map(os.stat, links)}
    for path in place.iterdir():
        found = path.stat()
        if path.is_dir() and (found.st_dev, found.st_ino) not in used:
            shutil.rmtree(path, ignore_errors=True)


def _move(path: Path, away: Path) -> None:
    _copy(path, away)
    link = path.with_name(path.name + ".part")
    link.unlink(missing_ok=True)
    link.symlink_to(away, target_is_directory=True)
    exchange(link, path)
    sync_directory(path.parent)
    shutil.rmtree(link)  # the segment that was at the place


def _copy(source: Path, target: Path) -> None:
    """A durable copy of a directory of files, under its name when it is complete."""
    part = target.with_name(target.name + ".copy")
    for old in (part, target):
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    # First how far features of images are, which a learner may be writing: what it says is there by then.
    for file in sorted(source.iterdir(), key=lambda file: file.suffix != PROGRESS_SUFFIX):
        shutil.copy2(file, part / file.name)
        with open(part / file.name, "rb") as stream:
            os.fsync(stream.fileno())
    part.rename(target)
    sync_directory(target.parent)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step, so that neither is ever missing (Linux: renameat2).

    Raises:
        OSError: The file system cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def _used(path: Path) -> int:
    """Bytes that a segment takes; holes take none."""
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())
