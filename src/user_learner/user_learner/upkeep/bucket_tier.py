"""Old segments in a bucket: moved there, back from there, and removed there.

A segment is moved in steps each of which leaves it whole: its column files are copied, the bucket is asked what it
has, ``bucket.json`` in the segment's directory says so, and only then files here may go, those that came first when
more is here than is allowed (:mod:`user_learner.replay.bucket`). One that is cut short in between is copied again,
to the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from user_core.errors import StoreCorrupt, StoreError
from user_learner.replay.bucket import (
    LEAVING,
    LEAVING_SUFFIX,
    MARK,
    SEGMENTS,
    Bucket,
    InBucket,
    fetch,
    in_bucket,
    keep_here,
    leaving_mark,
    make_room,
    open_bucket,
    parse_mark,
    set_limit,
)
from user_learner.replay.index import connect, load_meta
from user_learner.replay.layout import RowLayout
from user_learner.replay.segments import segment_directory
from user_learner.upkeep.compression import upkeep_lock

#: Of segments in a bucket, how much may be here unless somebody says otherwise.
FETCHED_BYTES = 4 * 2**30


@dataclass
class TieringReport:
    """What was moved.

    Attributes:
        moved: Segments.
        nbytes: Their bytes.
        here: Segments that stay on the store's own disk.
        there: Segments that are elsewhere.
    """

    moved: int = 0
    nbytes: int = 0
    here: int = 0
    there: int = 0


def move_oldest(
    store: Path,
    segments: Iterable[tuple[int, int]],
    keep_bytes: int,
    nbytes_of: Callable[[Path], int | None],
    move: Callable[[Path], None],
    is_over: Callable[[], bool],
) -> TieringReport:
    """Move the oldest sealed segments elsewhere until the newest of this many bytes are left here.

    Args:
        store: The store.
        segments: Number of each, and whether it is sealed; the oldest first.
        keep_bytes: Bytes of segments that stay.
        nbytes_of: Bytes of a segment; None where one of its files is lost, which is for `verify` to say.
        move: Moves one.
        is_over: Asked before each segment: whether to leave the rest for later.
    """
    report, here = TieringReport(), []
    for number, sealed in segments:
        path = segment_directory(store, number)
        if path.is_symlink() or in_bucket(path) is not None:
            report.there += 1
        elif path.is_dir() and (nbytes := nbytes_of(path)) is not None:
            here.append((path, bool(sealed), nbytes))
    left, report.here = sum(nbytes for *_, nbytes in here), len(here)
    for path, sealed, nbytes in here:
        if left <= keep_bytes or is_over():
            break
        if not sealed:
            continue
        move(path)
        left -= nbytes
        report.moved += 1
        report.nbytes += nbytes
        report.here -= 1
        report.there += 1
    return report


def move_to_bucket(
    store: Path, url: str, keep_bytes: int, fetched_bytes: int, is_over: Callable[[], bool]
) -> TieringReport:
    """Move the oldest sealed segments to a bucket until the newest of this many bytes are left here.

    Args:
        store: The store; others may read and write it.
        url: ``s3://BUCKET/PREFIX``.
        keep_bytes: Bytes of segments that stay.
        fetched_bytes: Bytes of those in the bucket that may be here as well.
        is_over: Asked before each segment: whether to leave the rest for later.

    Raises:
        ConfigError: The URL is none.
        PluginError: The library is missing.
        StoreError: There is no store, or the bucket cannot be reached; each segment is here, there, or both.
    """
    with closing(connect(store, writable=False)) as index:
        meta = load_meta(index)
        rows = index.execute("SELECT id, sealed, created_ns FROM segments ORDER BY id").fetchall()
    bucket, prefix = open_bucket(url)
    # also where nothing is to be moved yet: else that is said weeks later
    bucket.require_usable(prefix)
    if meta.schema is None:
        return TieringReport()
    layout = RowLayout(meta.schema)
    created_ns = {segment_directory(store, number): made_ns for number, _, made_ns in rows}

    def move(path: Path) -> None:
        place = [prefix, meta.store, f"{path.name}-{created_ns[path]}"]
        _copy(path, bucket, "/".join(filter(None, place)), layout)

    with upkeep_lock(store):
        set_limit(store, fetched_bytes)
        remove_gone(store)
        segments = [(number, sealed) for number, sealed, _ in rows]
        nbytes_of = partial(_nbytes, layout)
        report = move_oldest(store, segments, keep_bytes, nbytes_of, move, is_over)
        make_room(store)
    return report


def bring_back_from_bucket(store: Path) -> TieringReport:
    """Bring all segments back that are in buckets, and remove them there; who calls this holds the upkeep lock. Raises
    as :func:`move_to_bucket`, and OSError when the disk here is full."""
    report = TieringReport()
    for path in sorted((store / SEGMENTS).iterdir()):
        found = in_bucket(path)
        if found is None:
            continue
        while in_bucket(path) is not None and not keep_here(path):
            fetch(path)
        report.moved += 1
        report.nbytes += sum(size for size, _ in found.files.values())
    remove_gone(store)
    return report


def remove_gone(store: Path) -> None:
    """Remove in the bucket what the store does not need any more, as far as it can be reached; the rest waits. Who
    calls this holds the upkeep lock: then nobody is writing a mark."""
    for half in (store / LEAVING).glob(f".*{LEAVING_SUFFIX}.tmp"):  # of a move that was killed
        half.unlink(missing_ok=True)
    for mark in sorted((store / LEAVING).glob(f"*{LEAVING_SUFFIX}")):
        try:
            url = parse_mark(mark).url
            if not _is_wanted(store / SEGMENTS / mark.name.partition("-")[0], url):
                bucket, prefix = open_bucket(url)
                bucket.remove(prefix)
        except StoreCorrupt:
            continue
        except StoreError:  # nothing is lost by what stays there for now
            return
        mark.unlink(missing_ok=True)


def _is_wanted(path: Path, url: str) -> bool:
    """Whether a segment is at a place in a bucket by now: each has always the same one. Raises StoreCorrupt."""
    found = in_bucket(path)
    return found is not None and found.url == url


def _copy(path: Path, bucket: Bucket, place: str, layout: RowLayout) -> None:
    url, files = f"s3://{bucket.name}/{place}", {}
    begun = leaving_mark(path)
    InBucket(url, {}).write(begun)  # what is there of a copy that is cut short is removed
    for file in _files(path, layout):
        files[file.name] = bucket.put(f"{place}/{file.name}", file)
    InBucket(url, files).write(path / MARK)
    begun.unlink()


def _files(path: Path, layout: RowLayout) -> list[Path]:
    """The column files of a segment, plain or compressed."""
    found = []
    for file in layout.files:
        plain, packed = path / file.filename, path / file.packed_filename
        found.append(plain if plain.exists() else packed)
    return found


def _nbytes(layout: RowLayout, path: Path) -> int | None:
    """Bytes of the column files of a segment; None where one is lost."""
    try:
        return sum(file.stat().st_size for file in _files(path, layout))
    except FileNotFoundError:
        return None
