"""Processes of this machine, by the word of their command line that is theirs alone.

Every ROS process of a run is started with a parameter file of its own in the run's folder, by
either runner: that names it, whatever its parent is, and whether it answers or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from user_fleet.supervisor.standby import STANDBY_NAME

_PROC = Path("/proc")
_NAME_LENGTH = 15  # of the kernel's


def find_processes(words: Iterable[str]) -> dict[str, int]:
    """Process ids by word, for those words that stand in the command line of a living process."""
    wanted = {word.encode(): word for word in words}
    found: dict[str, int] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            here = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        for word in wanted.keys() & set(here):
            if not _stands_by(entry, here):
                found[wanted[word]] = int(entry.name)
    return found


def _stands_by(entry: Path, words: Sequence[bytes]) -> bool:
    """Whether it only waits to become the process whose command line it already has.

    From its start until it names itself, which takes a while on a busy machine, it has the name
    of its interpreter; then that of a standby, until it takes over.
    """
    if STANDBY_NAME.encode() not in words:
        return False
    with suppress(OSError):
        name = (entry / "comm").read_bytes().strip()
        return name in (STANDBY_NAME.encode(), words[0].rpartition(b"/")[2][:_NAME_LENGTH])
    return True  # it has just ended


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended (a zombie has)."""
    try:
        return state_of(pid) not in "ZX"
    except OSError:
        return False


def state_of(pid: int) -> str:
    """The kernel's letter for its state: R, S, D, T (stopped by a signal), Z, ... Raises OSError."""
    return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]


def session_members(sessions: Iterable[int]) -> list[int]:
    """Living processes that belong to one of these sessions: children and all they started."""
    wanted, found = set(sessions), []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[3]) in wanted:
            found.append(int(entry.name))
    return found


def started_ticks(pid: int) -> int:
    """When a process was started, in the kernel's clock; 0 when it is gone. With its number, it names it for ever."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def find_standbys() -> dict[int, int]:
    """Processes of this machine that stand by, with what each has of memory for itself alone, bytes.

    What it shares with the process that it stands by for (code of libraries) is not counted.
    """
    found: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if _stands_by(entry, words):
                    found[int(entry.name)] = own_memory(int(entry.name))
    return found


def own_memory(pid: int) -> int:
    """Memory that a process shares with no other, bytes. Raises OSError."""
    lines = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def resident_memory(pid: int) -> int:
    """Memory of a process that holds no file: its own and what it shares by shared memory, bytes. Costs no more for a
    large process. Raises OSError."""
    lines = (_PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * sum(
        int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))
    )
