"""Throws mutated messages at the way in: read or deserialise, then convert.

Run as a program it does so in a child process, so that a crash of the middleware (a segmentation
fault in C++) is seen, attributed to its input and survived::

    tools/run python -m user_testing.programs.message_fuzz --count 100000

Every mutation follows from its number alone: ``--first N --count 1`` shows one again.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message

from user_comm.cdr import CdrLimits
from user_comm.converters import CONVERTERS
from user_comm.subscriptions import decode_bytes
from user_comm.topics import interface_class
from user_core.command_line import Parser
from user_core.errors import SuiteError
from user_core.types import (
    ActionChunk,
    AppliedAction,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Observation,
    Outcome,
    TaskFeedback,
    TrajectoryChunk,
)

_MEMORY_LIMIT = 4 * 2**30
_INTERESTING = (0, 1, 2, 3, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def samples() -> dict[str, list[bytes]]:
    """Serialised messages to start from, by message type."""
    rng = np.random.default_rng(0)
    key = EpisodeKey("actor-1", 1_700_000_000_000_000_000, 3)
    columns = {
        "observation.state": rng.standard_normal((5, 8)).astype(np.float32),
        "observation.image_front": rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8),
        "action": rng.standard_normal((5, 3)).astype(np.float32),
        "reward": np.zeros(5, np.float32),
        "terminated": np.zeros(5, bool),
        "stamp_ns": np.arange(5, dtype=np.int64),
    }
    result = EpisodeResult(key, EpisodeSource.ONLINE, Outcome.SUCCESS, 5, 1.0, reason="solved")
    values: dict[str, list[Any]] = {
        "user_msgs/msg/Observation": [
            Observation(
                {
                    "joint_position": rng.standard_normal(7),
                    "image_front": rng.integers(0, 255, (8, 8, 3), dtype=np.uint8),
                    "flag": np.ones((), bool),
                },
                10**18, 5, 2, TaskFeedback(1.0, True, False, True),
                AppliedAction(np.zeros(3, np.float32), 4),
            ),
            Observation({}, 0),
        ],
        "user_msgs/msg/ActionChunk": [ActionChunk(rng.standard_normal((4, 7)), 10**8, 10**18, 9)],
        "user_msgs/msg/TrajectoryChunk": [
            TrajectoryChunk(
                ChunkId("actor-1", 17, 4), key, EpisodeSource.ONLINE, 10, columns, "ab" * 32,
                result, "panda", "reach",
            )
        ],
    }  # fmt: skip
    return {
        name: [serialize_message(CONVERTERS[name].encode(value)) for value in items]
        for name, items in values.items()
    }


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four random changes of one serialised message."""
    body = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_MUTATIONS)(body, others, rng)
    return bytes(body)


def _flip(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        if body:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)


def _truncate(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    del body[rng.randrange(len(body) + 1) :]


def _length(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    """Put an interesting number where a length may stand (lengths are aligned to 4)."""
    if len(body) >= 8:
        at = rng.randrange(1, len(body) // 4) * 4
        struct.pack_into("<I", body, at, rng.choice(_INTERESTING))


def _nudge_length(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    """Change a small number, which probably is a length, by a little."""
    places = [
        at for at in range(4, len(body) - 3, 4) if 0 < struct.unpack_from("<I", body, at)[0] < 4096
    ]
    if places:
        at = rng.choice(places)
        value = struct.unpack_from("<I", body, at)[0] + rng.choice((-2, -1, 1, 2, 1000))
        struct.pack_into("<I", body, at, max(0, value))


def _splice(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    other = rng.choice(others)
    at = rng.randrange(len(body) + 1)
    start = rng.randrange(len(other))
    body[at : at + rng.randrange(64)] = other[start : start + rng.randrange(64)]


def _tail(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    """The head of this message with the tail of another."""
    other = rng.choice(others)
    at = rng.randrange(len(body) + 1)
    body[at:] = other[min(at, len(other)) :]


def _header(body: bytearray, others: list[bytes], rng: random.Random) -> None:
    """Another representation: big endian, parameter lists, XCDR2, nonsense."""
    if len(body) >= 4:
        body[1] = rng.choice((0, 1, 1, 2, 3, 6, 7, 8, 9, 255))
        body[3] = rng.randrange(256)


_MUTATIONS: tuple[Callable[[bytearray, list[bytes], random.Random], None], ...] = (
    _flip, _flip, _truncate, _length, _length, _nudge_length, _nudge_length, _splice, _tail,
    _header,
)  # fmt: skip


def attempt(number: int, start: dict[str, list[bytes]], middleware: bool) -> str:
    """Mutation ``number``: how it ended, ``taken`` or the code or class of the refusal."""
    rng = random.Random(number)
    name = rng.choice(sorted(start))
    everything = [data for items in start.values() for data in items]
    data = mutate(rng.choice(start[name]), everything, rng)
    cls, decode = interface_class(name), CONVERTERS[name].decode
    try:
        if middleware:
            decode(deserialize_message(data, cls))
        else:
            decode_bytes(data, cls, None, CdrLimits())  # for those who want the message itself
            decode_bytes(data, cls, decode, CdrLimits())
    except SuiteError as error:
        return error.code
    except Exception as error:  # what the middleware raises
        return type(error).__name__
    return "taken"


def child(first: int, count: int, middleware: bool, progress: Path, crash_at: int) -> None:
    """Attempt one after the other; the number of the present one stands in ``progress``."""
    # What is allocated beyond this was asked for by a message: better this process than others.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    with open(progress, "r+b") as stream, mmap.mmap(stream.fileno(), 8) as place:
        start, ends = samples(), Counter[str]()
        slowest_s = 0.0
        for number in range(first, first + count):
            place[:8] = struct.pack("<q", number)
            if number == crash_at:
                os.kill(os.getpid(), signal.SIGSEGV)
            began_s = time.perf_counter()
            ends[attempt(number, start, middleware)] += 1
            slowest_s = max(slowest_s, time.perf_counter() - began_s)
    peak_mb = _peak_kb() / 1024
    print(json.dumps({"ends": ends, "peak_mb": round(peak_mb), "slowest_s": slowest_s}))


def _peak_kb() -> int:
    """Most memory of this process. Not ru_maxrss: that counts from before exec, and so the memory
    of whoever started it."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(first: int, count: int, middleware: bool = False, crash_at: int = -1) -> dict[str, Any]:
    """Attempt mutations in child processes; a crashed one is replaced and goes on behind.

    Returns how the attempts ended, the numbers at which a child crashed, the largest memory of a
    child and the slowest attempt.
    """
    total: dict[str, Any] = {"ends": Counter(), "crashes": {}, "peak_mb": 0, "slowest_s": 0.0}
    end = first + count
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        while first < end:
            # In pieces, so that a crash loses the counts of one piece only.
            piece = min(end - first, 10000)
            progress.write_bytes(struct.pack("<q", -1))
            arguments = [
                f"--first={first}", f"--count={piece}", f"--child={progress}",
                f"--crash-at={crash_at}",
            ]  # fmt: skip
            done = subprocess.run(
                [sys.executable, os.path.abspath(__file__), *arguments]
                + (["--middleware"] if middleware else []),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                report = json.loads(done.stdout.splitlines()[-1])
                total["ends"].update(report["ends"])
                for key in ("peak_mb", "slowest_s"):
                    total[key] = max(total[key], report[key])
                first += piece
                continue
            (number,) = struct.unpack("<q", progress.read_bytes())
            if number < first:
                raise RuntimeError(f"the child did not start:\n{done.stderr}")
            total["crashes"][number] = (done.returncode, done.stderr[-400:])
            first = number + 1
    return total


def main() -> int:
    """Command line; exit code 1 if anything crashed."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--middleware", action="store_true", help="without our reader")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--crash-at", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*(getattr(options, n) for n in ("first", "count", "middleware", "child", "crash_at")))
        return 0
    began_s = time.perf_counter()
    total = fuzz(options.first, options.count, options.middleware)
    for end, number in total["ends"].most_common():
        print(f"{number:8d} {end}")
    print(f"{len(total['crashes']):8d} crashes {dict(list(total['crashes'].items())[:5])}")
    print(
        f"peak memory {total['peak_mb']} MB, slowest message {1e3 * total['slowest_s']:.1f} ms, "
        f"{time.perf_counter() - began_s:.0f} s in all"
    )
    return 1 if total["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
