"""Turns on a GPU: training launches nothing while an answer to a robot is due.

Kernels that were launched run to their end, and a GPU has no idea which of them a robot waits
for. So whoever answers robots takes the turn, and whoever trains looks, between two pieces of
its work that take well under a millisecond, whether it is the other's. Both may be threads of one
process or processes of one host: they share some bytes in a file that all map, the times until
which training waits (several processes may answer robots, each has a turn of its own), and how long what training
has launched goes on after it has begun to wait. A
turn ends by itself, so that nobody waits for a process that has died.
``benchmarks/gpu/gpu_sharing.py`` measures what this brings beside what drivers offer.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from statistics import median

from user_core.errors import ConfigError

#: Longest turn, seconds: an answer of a large policy to several robots fits into it, and who dies in one holds training
#: up for no longer.
LONGEST_S = 1.0
#: The share of the time that others have where an answer is always due, as with simulated arms that ask without a
#: pause.
LEAST_SHARE = 0.2
#: This long others wait at most before they take their share, seconds: longer than robots of a fixed rate make them
#: wait.
PATIENCE_S = 1.0
#: Pieces of a version that take less than this together are one, seconds.
TOGETHER_S = 2e-3
_LOOK_S = 5e-5
#: Intervals that are looked at, and by which share of their median they may differ from it.
_INTERVALS, _REGULAR = 6, 0.2
#: Turns that there may be at once; who finds no place for one takes that of another.
_TURNS = 8
_FORMAT, _ALL = "<q", struct.Struct(f"<{_TURNS}q")
_TAIL = _TURNS * struct.calcsize(_FORMAT)
_BYTES = _TAIL + struct.calcsize(_FORMAT)
#: A turn is taken no earlier than so before a request, seconds: training that leaves more behind is not in pieces.
_LONGEST_TAIL_S = 0.01
#: Where the files are: memory, which a restart of the host empties.
_FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


class GpuTurns:
    """Until when training waits for whom, on the clock of this host, and how long it goes on then.

    Args:
        path: The file, one for each GPU; made when it is not there. On ``/dev/shm`` it is memory. None: the turns of
            threads of one process.

    Raises:
        ConfigError: It cannot be opened: it belongs to another user.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._until_ns, self._place = 0, os.getpid() % _TURNS
        if path is None:
            self._memory = mmap.mmap(-1, _BYTES)
            return
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
        except OSError as error:
            raise ConfigError(
                f"turns on a GPU, {path}", got=error.strerror or str(error),
                expected="a file that whoever trains and whoever acts may both write",
                hint="Run both as the same user, or remove what another user has left there",
            ) from error  # fmt: skip
        try:
            if os.fstat(file).st_size < _BYTES:
                os.ftruncate(file, _BYTES)
            self._memory = mmap.mmap(file, _BYTES)
        finally:
            os.close(file)

    def take(self, for_s: float) -> None:
        """An answer is due: training waits from now on, at most for this long."""
        now_ns, turns_ns = time.monotonic_ns(), self._turns_ns()
        if turns_ns[self._place] != self._until_ns:  # another process is there
            places = [(self._place + n) % _TURNS for n in range(_TURNS)]
            free = (place for place in places if not _lasts(turns_ns[place], now_ns))
            self._place = next(free, self._place)
        self._until_ns = now_ns + int(1e9 * min(for_s, LONGEST_S))
        struct.pack_into(_FORMAT, self._memory, 8 * self._place, self._until_ns)

    def give_back(self) -> None:
        """The answer is there; unless another has a turn, too, training goes on."""
        if self._turns_ns()[self._place] == self._until_ns:
            self._until_ns = 0
            struct.pack_into(_FORMAT, self._memory, 8 * self._place, 0)

    @property
    def taken(self) -> bool:
        """Whether training has to wait."""
        now_ns, turns_ns = time.monotonic_ns(), self._turns_ns()
        return max(turns_ns) > now_ns and any(_lasts(until_ns, now_ns) for until_ns in turns_ns)

    def _turns_ns(self) -> tuple[int, ...]:
        return _ALL.unpack_from(self._memory)

    @property
    def tail_s(self) -> float:
        """How long what training has launched goes on after a turn was taken, as training has said: so much earlier
        the GPU must be asked for. 0 where nobody has said it."""
        (tail_ns,) = struct.unpack_from(_FORMAT, self._memory, _TAIL)
        return min(max(int(tail_ns), 0) * 1e-9, _LONGEST_TAIL_S)

    def leaves(self, tail_s: float) -> None:
        """Training says how long what it has launched goes on after a turn was taken."""
        struct.pack_into(_FORMAT, self._memory, _TAIL, int(1e9 * tail_s))

    def wait(self, at_most_s: float = float("inf")) -> float:
        """Return when training may go on, or after this long; how long that took, seconds."""
        if not self.taken:
            return 0.0
        start_s = time.monotonic()
        while self.taken and time.monotonic() - start_s < at_most_s:
            time.sleep(_LOOK_S)
        return time.monotonic() - start_s

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def _lasts(until_ns: int, now_ns: int) -> bool:
    """Whether a turn goes on. A time far ahead is of another boot of the host, or damage: nobody takes so long a turn."""
    return now_ns < until_ns <= now_ns + int(1e9 * LONGEST_S)


class FairWait:
    """Waits while it is another's turn, but not for ever: work that gives way keeps :data:`LEAST_SHARE` of the time.

    What it computes between two waits gives it the right to as much waiting as leaves it that share.

    Args:
        turns: Whose turn it is.
        together_s: Pieces of work that are shorter than this together are one: hundreds of small ones, each with a wait
            of its own, would take many times as long, and spare nobody anything.
    """

    def __init__(self, turns: GpuTurns, together_s: float = 0.0) -> None:
        self._turns, self._together_s = turns, together_s
        self._patience_s, self._went_on_s = PATIENCE_S, time.monotonic()

    def __call__(self) -> float:
        """A place between two pieces of work; returns how long it has waited, seconds."""
        computed_s = time.monotonic() - self._went_on_s
        if computed_s < self._together_s:
            return 0.0
        earned_s = computed_s * (1 - LEAST_SHARE) / LEAST_SHARE
        patience_s = min(PATIENCE_S, self._patience_s + earned_s)
        waited_s = self._turns.wait(patience_s)
        self._patience_s, self._went_on_s = max(0.0, patience_s - waited_s), time.monotonic()
        return waited_s


class Arrivals:
    """When the next request of a robot is due, which asks in fixed periods: training makes room before it comes.

    Attributes:
        early_s: How long before it the turn is taken, at least: what was launched ends meanwhile.
    """

    early_s = 1e-3

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_INTERVALS + 1)

    def came(self, now_s: float) -> None:
        """One has come, on the clock of :func:`time.monotonic`."""
        self._times_s.append(now_s)

    def next_s(self, tail_s: float = 0.0) -> tuple[float, float] | None:
        """From when until when the turn is to be taken for the next; None where they come as they like.

        Args:
            tail_s: How long what was launched may go on, seconds.
        """
        if len(self._times_s) <= _INTERVALS:
            return None
        times_s = list(self._times_s)
        intervals_s = [b - a for a, b in pairwise(times_s)]
        period_s = median(intervals_s)
        spread_s = max(abs(interval - period_s) for interval in intervals_s)
        if spread_s > _REGULAR * period_s:
            return None
        due_s = times_s[-1] + period_s
        return due_s - spread_s - max(self.early_s, tail_s), due_s + spread_s


def turns_on(device: object) -> GpuTurns | None:
    """The turns on a GPU of this host.

    Args:
        device: A torch device or its name, as ``cuda:0``.

    Returns:
        None where that is no GPU.
    """
    path = file_of(device, "turns")
    return None if path is None else GpuTurns(path)


def file_of(device: object, name: str) -> Path | None:
    """A file that all processes on a GPU of this host share, by its UUID: they may number GPUs otherwise.

    Args:
        device: A torch device or its name, as ``cuda:0``.
        name: What it is for.

    Returns:
        None where that is no GPU.
    """
    if not str(device).startswith("cuda"):
        return None
    import torch

    there = torch.device(str(device))
    index = there.index if there.index is not None else torch.cuda.current_device()
    gpu = getattr(torch.cuda.get_device_properties(index), "uuid", index)
    return _FOLDER / f"user_gpu_{name}_{gpu}"
