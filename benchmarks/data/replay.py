"""The replay store beside what its bytes cost at least.

A transition is a pair of observations of one 128x128x3 image and 32 floats: 98,560 bytes.

- ``sample``: batches of 256 from a store in memory, in turns with a plain gather of the same
  bytes from one array per column into preallocated arrays (numpy) and tensors (torch).
- ``handover``: updates of a small SAC on batches of states that a thread prepares ahead, in
  turns with batches gathered when they are asked for.
- ``append``: chunks as an actor cuts them (at most 256 KB), durable, in turns with plain
  sequential writes and fsyncs of the same bytes in the same portions.
- ``large``: a store four times the memory budget, sampled at a learner's pace by a process of
  its own: the most memory it took, and a chi-square test over how often each step was drawn.
- ``open``: a store of 1,000,000 steps, opened by new processes, to its first batch.

    tools/run python benchmarks/data/replay.py [sample handover append large open] [--seconds 60] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from user_core.command_line import Parser
from user_core.plugins import build
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.replay import StoreConfig, StoreReader, StoreWriter
from user_learner.replay.layout import RowLayout
from user_learner.sampling import ReplaySource, SamplerConfig
from user_learner.sampling.pool import aligned_bytes
from user_learner.training.loop import configure_torch
from user_testing import systems

IMAGES = RobotSpec(
    "bench",
    {"image": ArraySpec((128, 128, 3), "uint8"), "state": ArraySpec((32,))},
    ArraySpec((7,)),
)
STATES = RobotSpec("bench", {"state": ArraySpec((32,))}, ArraySpec((7,)))
BATCH = 256
CHUNK_BYTES = 256_000
STILL = SamplerConfig(prefetch=0, refresh_period_s=0, memory_bytes=2**40)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", default=["sample", "handover", "append", "large", "open"]
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run of large")
    parser.add_argument("--folder", type=Path, help="where stores are made; by default /tmp")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="replay-bench-", dir=options.folder) as folder:
        for part in options.parts:
            place = Path(folder) / part
            {"sample": sample, "handover": handover, "append": append, "open": opening}.get(
                part, lambda path: large(path, options.seconds)
            )(place)


# Data


def columns_of(schema: TrajectorySchema, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of one episode without its end."""
    rng = np.random.default_rng(seed)
    columns = {n: np.zeros((rows, *s.shape), s.dtype) for n, s in schema.columns.items()}
    for name, column in columns.items():
        if column.dtype == np.uint8 and column.ndim > 1:
            column[:] = rng.integers(0, 256, column.shape, np.uint8)
        elif column.dtype == np.float32:
            column[:] = rng.standard_normal(column.shape, np.float32)
        del name
    return columns


def episodes(
    schema: TrajectorySchema, count: int, steps: int, chunk_rows: int
) -> Iterator[TrajectoryChunk]:
    """Chunks of episodes of one actor; their bytes repeat from episode to episode."""
    columns, digest, sequence = columns_of(schema, steps + 1), schema.hash, 0
    columns["final"][-1] = columns["truncated"][-2] = True
    for number in range(count):
        key = EpisodeKey("bench", 1, number)
        result = EpisodeResult(key, EpisodeSource.ONLINE, Outcome.TIMEOUT, steps, 0.0)
        for start in range(0, steps + 1, chunk_rows):
            stop = min(start + chunk_rows, steps + 1)
            sequence += 1
            yield TrajectoryChunk(
                ChunkId("bench", 1, sequence),
                key,
                EpisodeSource.ONLINE,
                start,
                {name: column[start:stop] for name, column in columns.items()},
                digest,
                result if stop > steps else None,
            )


def make_store(path: Path, spec: RobotSpec, count: int, steps: int, chunk_rows: int) -> None:
    with StoreWriter(path, TrajectorySchema.of(spec), StoreConfig(durability="kernel")) as writer:
        for chunk in episodes(TrajectorySchema.of(spec), count, steps, chunk_rows):
            writer.append(chunk)


# sample


def in_turns(seconds: float, **contestants: Callable[[], object]) -> dict[str, list[float]]:
    """Milliseconds of each call, one after the other, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def plain_gathers(spec: RobotSpec, rows: int) -> dict[str, Callable[[], object]]:
    """Gather the columns of a batch from one array each, into ready memory."""
    schema, rng = TrajectorySchema.of(spec), np.random.default_rng(1)
    columns = columns_of(schema, rows)
    # what a batch consists of: both observations, action, reward, flag of the end
    names = [n for n in columns if n.startswith("observation.")]
    names += [*names, "action", "reward", "terminated"]
    out = []
    for name in names:
        spec_of_column = schema.columns[name]
        room = aligned_bytes(BATCH * spec_of_column.nbytes).view(spec_of_column.dtype)
        out.append(room.reshape(BATCH, *spec_of_column.shape))

    def gather_numpy() -> None:
        index = rng.integers(0, rows - 1, BATCH)
        for place, (name, target) in enumerate(zip(names, out, strict=True)):
            where = index + 1 if 2 <= place < 4 else index
            np.take(columns[name], where, axis=0, out=target, mode="clip")

    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    targets = [torch.from_numpy(target) for target in out]

    def gather_torch() -> None:
        index = torch.from_numpy(rng.integers(0, rows - 1, BATCH))
        for place, (name, target) in enumerate(zip(names, targets, strict=True)):
            where = index + 1 if 2 <= place < 4 else index
            torch.index_select(tensors[name], 0, where, out=target)

    return {"plain gather, numpy": gather_numpy, "plain gather, torch": gather_torch}


def sample(path: Path) -> None:
    for title, spec, count in (("images", IMAGES, 40), ("states only", STATES, 400)):
        store = path / title.split()[0]
        make_store(store, spec, count, 100, 50)
        plain = plain_gathers(spec, count * 101)
        with ReplaySource(store, STILL) as source:
            segments = len(source._catalog.snapshot.segments.base)
            for array in source_arrays(source):
                array.max()  # every page has been seen once
            for _ in range(5):
                source.sample(BATCH)  # nor is the memory of batches new
            times = in_turns(8.0, **plain, sample=lambda: source.sample(BATCH))
        base = min(np.median(times[name]) for name in plain)
        print(f"\nsample({BATCH}), {title}: {count * 100:,} steps in {segments} segments")
        for name, found in times.items():
            p10, p50 = np.percentile(found, [10, 50])
            print(f"  {name:22} p50 {p50:7.3f} ms  p10 {p10:7.3f} ms  x {p50 / base:5.2f}")


def handover(path: Path) -> None:
    configure_torch(1)
    spec = RobotSpec("bench", {"state": ArraySpec((17,))}, ArraySpec((6,), low=-1.0, high=1.0))
    make_store(path, spec, 20, 1000, 100)
    contestants = {}
    with ExitStack() as stack:
        for name, above in (("gathered when asked for", 2**30), ("prepared by a thread", 0)):
            policy = build("policies", "tanh_gaussian", {"hidden": [128, 128]}, spec)
            algorithm = build("algorithms", "sac", {"critic_hidden": [128, 128]}, spec, policy)
            config = SamplerConfig(prefetch_above_bytes=above, memory_bytes=2**30)
            source = stack.enter_context(ReplaySource(path, config))

            def updates(algorithm: Any = algorithm, source: ReplaySource = source) -> None:
                for _ in range(20):
                    algorithm.update(source.sample(128))

            contestants[name] = updates
        times = in_turns(20.0, **contestants)
    print("\nupdates of SAC (128x128, batch 128, states only), each with its batch")
    for name, found in times.items():
        p10, p50 = np.percentile(found, [10, 50]) / 20
        print(f"  {name:24} p50 {p50:6.2f} ms  p10 {p10:6.2f} ms")


def source_arrays(source: ReplaySource) -> list[np.ndarray]:
    """The mapped rows of a source."""
    source.sample(1)
    rows = int(source._catalog.snapshot.runs.address.max()) + 1
    return [array[:rows] for array in source._pool.arrays]


# append


def append(path: Path) -> None:
    """As replay_node does: one thread takes chunks, another commits what has come."""
    schema, config = TrajectorySchema.of(IMAGES), StoreConfig()
    chunk_rows = CHUNK_BYTES // schema.row_nbytes
    path.mkdir()
    rates: dict[str, list[float]] = {"append": [], "raw": []}
    raw = os.open(path / "raw", os.O_CREAT | os.O_WRONLY)
    block = os.urandom(config.commit_bytes)
    stream = episodes(schema, 10**6, 500, chunk_rows)
    with StoreWriter(path / "store", schema, config) as writer:
        for _ in range(12):
            rows, seconds = append_rows(writer, stream, 2000)
            rates["append"].append(rows / seconds)
            start, nbytes = time.perf_counter(), rows * schema.row_nbytes
            for offset in range(0, nbytes, len(block)):
                part = memoryview(block)[: nbytes - offset]
                while part:
                    part = part[os.write(raw, part) :]
                os.fdatasync(raw)
            rates["raw"].append(rows / (time.perf_counter() - start))
    os.close(raw)
    print(
        f"\nappend, fsync, chunks of {chunk_rows} rows ({chunk_rows * schema.row_nbytes:,} B); "
        f"raw: write and fsync, {config.commit_bytes >> 20} MiB at a time; transitions per second"
    )
    for name, found in rates.items():
        rate = np.median(found)
        print(
            f"  {name:8} median {rate:7,.0f}  ({rate * schema.row_nbytes / 1e6:6.0f} MB/s)"
            f"  slowest {min(found):7,.0f}  fastest {max(found):7,.0f}"
        )
    ratios = np.array(rates["append"]) / np.array(rates["raw"])
    print(f"  ratio    median {np.median(ratios):.2f}")


def append_rows(
    writer: StoreWriter, stream: Iterator[TrajectoryChunk], wanted: int
) -> tuple[int, float]:
    """Append, and commit beside it; rows and seconds until all of them are durable."""
    stopping, acknowledged = threading.Event(), [0]

    def commit() -> None:
        while not stopping.wait(0.005):
            if writer.commit_due:
                acknowledged[0] = max(a.sequence for a in writer.commit())

    committer = threading.Thread(target=commit)
    rows, start = 0, time.perf_counter()
    committer.start()
    while rows < wanted:
        chunk = next(stream)
        writer.append(chunk)
        rows += len(chunk)
    stopping.set()
    committer.join()
    writer.commit()
    seconds = time.perf_counter() - start
    assert writer.acknowledged()[0].sequence == chunk.id.sequence  # all of it is durable
    return rows, seconds


# large


def large(path: Path, seconds: float) -> None:
    schema = TrajectorySchema.of(IMAGES)
    layout, steps = RowLayout(schema), 16_000
    make_store(path, IMAGES, steps // 100, 100, 50)
    budget = int(steps * 1.01 * layout.row_nbytes / 4)
    found = run_child("large", str(path), budget, seconds)
    print(f"\nlarger than memory: {steps:,} steps, {4 * budget / 2**20:,.0f} MiB of rows")
    print(
        f"  budget {budget / 2**20:,.1f} MiB, most memory taken {found['memory'] / 2**20:,.1f} MiB"
    )
    print(f"  pages of the store left in the page cache: {found['cached'] / 2**20:,.1f} MiB")
    print(
        f"  {found['draws']:,} draws in {found['seconds']:.0f} s, "
        f"{found['bytes_read'] / found['seconds'] / 1e6:,.0f} MB/s read"
    )
    print(
        f"  draws per step: mean {found['mean']:.1f}, {found['least']} to {found['most']}; "
        f"chi-square {found['chi_square']:,.0f} at {found['freedom']:,} degrees of freedom, "
        f"z {found['z']:+.2f}, p {found['p']:.3f}"
    )


def child_large(path: str, budget: int, seconds: float) -> dict[str, float]:
    drop_cache(Path(path))
    config = SamplerConfig(memory_bytes=budget, prefetch=1, keep=1, read_bytes_per_s=400e6)
    with ReplaySource(path, config) as source:
        watch = MemoryWatch()
        reader = source._catalog.stores[0].reader
        highest = int(reader.tables.segments[:, 0].max())
        counts = np.zeros((highest + 1) * reader.meta.segment_rows, np.int64)
        source.sample(64)
        draws, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            rows = source.sample(64).extras["row"]
            np.add.at(counts, rows, 1)
            draws += len(rows)
            # the pace of a learner: 100 batches of 64 a second
            time.sleep(max(0.0, start + draws / (100 * 64) - time.perf_counter()))
        elapsed, pool = time.perf_counter() - start, source._pool
        assert source.cached
        memory, read, steps = watch.stop(), pool.bytes_read, len(source)
    drawn = np.sort(counts)[-steps:]
    expected = draws / steps
    chi_square, freedom = float(((drawn - expected) ** 2 / expected).sum()), steps - 1
    z = (chi_square - freedom) / math.sqrt(2 * freedom)
    return {
        "memory": memory, "cached": cached_bytes(Path(path)), "draws": draws, "seconds": elapsed,
        "bytes_read": read, "mean": expected, "least": int(drawn.min()), "most": int(drawn.max()),
        "chi_square": chi_square, "freedom": freedom, "z": z,
        "p": 0.5 * math.erfc(z / math.sqrt(2)),
    }  # fmt: skip


class MemoryWatch:
    """The most memory that this process takes beyond what it took at the start, bytes."""

    def __init__(self) -> None:
        self._start, self._most = resident_bytes(), 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            self._most = max(self._most, resident_bytes() - self._start)

    def stop(self) -> int:
        self._stopping.set()
        self._thread.join()
        return self._most


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def column_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.col"))


def drop_cache(path: Path) -> None:
    for file in column_files(path):
        handle = os.open(file, os.O_RDONLY)
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def cached_bytes(path: Path) -> int:
    """Bytes of the column files that the page cache holds."""
    import ctypes
    import mmap

    libc, total = ctypes.CDLL(None), 0
    for file in column_files(path):
        size = file.stat().st_size
        pages = -(-size // mmap.PAGESIZE)
        with open(file, "r+b") as stream, mmap.mmap(stream.fileno(), size) as memory:
            view = (ctypes.c_char * size).from_buffer(memory)
            held = (ctypes.c_ubyte * pages)()
            libc.mincore(ctypes.byref(view), ctypes.c_size_t(size), held)
            total += int((np.frombuffer(held, np.uint8) & 1).sum()) * mmap.PAGESIZE
            del view
    return total


# open


def opening(path: Path) -> None:
    make_store(path, STATES, 10_000, 100, 101)
    print(f"\nopening 1,000,000 steps, 10,000 episodes ({sum_bytes(path) / 2**20:,.0f} MiB)")
    for name in ("reader", "first batch", "writer"):
        found = [run_child("open", str(path), name)["seconds"] for _ in range(5)]
        print(
            f"  {name:12} median {np.median(found) * 1e3:6.0f} ms  most {max(found) * 1e3:6.0f} ms"
        )


def sum_bytes(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())


def child_open(path: str, what: str) -> dict[str, float]:
    for name in ("index.sqlite", "index.sqlite-wal"):
        if (Path(path) / name).exists():
            handle = os.open(Path(path) / name, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    start = time.perf_counter()
    if what == "reader":
        StoreReader(path).close()
    elif what == "writer":
        StoreWriter(path).close()
    else:
        source = ReplaySource(path, STILL)
        source.sample(BATCH)
        elapsed = time.perf_counter() - start
        assert len(source) == 1_000_000
        source.close()
        return {"seconds": elapsed}
    return {"seconds": time.perf_counter() - start}


# Processes of their own


def run_child(*arguments: object, program: str = __file__) -> dict[str, float]:
    command = [sys.executable, program, "--child", json.dumps(arguments)]
    done = systems.run_to_end(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(what: str, *arguments: object) -> None:
    print(json.dumps({"large": child_large, "open": child_open}[what](*arguments)))


if __name__ == "__main__":
    main()
