"""Atomic writing of files: complete or absent, even when the power fails. Whole pieces of files at an offset."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomically(
    path: Path, content: str | bytes | Iterable[bytes | memoryview], durable: bool = True
) -> None:
    """Write beside, make durable, rename, make the rename durable.

    Args:
        path: The file; its folder is there.
        content: Text (written as UTF-8), bytes, or bytes in pieces.
        durable: False: readers never see half a file, but after a power cut it may be the old
            one, or empty. For what can be made again.

    Raises:
        OSError: A full disk, for instance; what stood at ``path`` before is then untouched.
    """
    if isinstance(content, str):
        content = content.encode()
    pieces = [content] if isinstance(content, bytes) else content
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "wb") as file:
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def replace_durably(beside: Path, path: Path) -> None:
    """Put a file that somebody else has written in place of another, durably. Raises OSError."""
    with open(beside, "rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names in a directory durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def pwrite_all(handle: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset; raises OSError."""
    view = data.cast("B") if data.nbytes else data
    written = 0
    while written < view.nbytes:
        written += os.pwrite(handle, view[written:], offset + written)


def pread_into(handle: int, out: memoryview, offset: int) -> int:
    """Read from an offset on until ``out``, of bytes, is full or the file ends; return the bytes read. Raises
    OSError."""
    done = 0
    while done < len(out) and (count := os.preadv(handle, [out[done:]], offset + done)):
        done += count
    return done


def state_home() -> Path:
    """Where state outlives a process: ``$ROS_HOME/user``, or ``~/.ros/user``."""
    home = os.environ.get("ROS_HOME", "")
    return (Path(home) if home else Path.home() / ".ros") / "user"


def cache_home() -> Path:
    """Where lies what can be found out anew: ``$XDG_CACHE_HOME/user``, or ``~/.cache/user``. Raises RuntimeError
    without a home."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "user"
