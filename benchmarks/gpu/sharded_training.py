"""What it costs to spread a network over processes (FSDP2), beside having all of it in each, in one run.

Several processes clone batches with a flow policy of a transformer: on the cores of this host, with gloo, or with NCCL
on a GPU each. Every way takes its turn after each other in the same processes, so that all have the same machine.
Printed are medians of the time of an update, samples a second of all processes, and what a process holds of weights,
gradients and Adam.

    python benchmarks/gpu/sharded_training.py --ranks 2 --embedding 256 --layers 6
    python benchmarks/gpu/sharded_training.py --device cuda --ranks 1 2 --embedding 2048 --layers 18 --batch 64 --weak

With several numbers of processes one after the other is measured, and compared with the first: ``--batch`` rows of all
together, and with ``--weak`` also this many of each; several batches may be given. ``--profile`` says what a GPU does
in an update (three more are made for that): how much of it it computes, how much it exchanges with others while it
computes nothing, and how many kernels are launched. Batches are drawn in a thread of their own, on GPUs into
page-locked memory, as a learner does it; which share of the time an update waited for its batch is printed too.

Before each update the processes agree on what comes next, and its metrics are brought together, as the training loop
has it: read when the next update has been launched. With ``--read "at once"`` as it was before, when it was made, and
by exchanges that wait for the GPU; several are measured one after the other.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from user_core.command_line import Parser
from user_core.policies.generative.flow import FlowConfig, FlowPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common import distributed
from user_learner.algorithms.common.torch_tools import use_tensor_cores
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_learner.training.batch_feed import BatchFeed

SPEC = RobotSpec("r", {"x": ArraySpec((16,))}, ArraySpec((7,), low=-1.0, high=1.0))
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "blocks": {"shard": "blocks"},
    "layers": {"shard": "layers"},
    "blocks, activation_checkpointing": {"shard": "blocks", "activation_checkpointing": True},
    "whole, bfloat16": {"precision": "bfloat16"},
    "blocks, bfloat16": {"shard": "blocks", "precision": "bfloat16"},
    "layers, bfloat16": {"shard": "layers", "precision": "bfloat16"},
}
_WARM, _PROFILED = 3, 3
LATER, AT_ONCE = "later", "at once"


class Source:
    """Windows of random numbers, drawn anew each time, as a store's sampler gives them.

    Args:
        rows: Actions of a window.
        rng: Where they come from.
        pinned: Whether they lie in page-locked memory.
    """

    def __init__(self, rows: int, rng: np.random.Generator, pinned: bool) -> None:
        self._rows, self._rng, self._pinned = rows, rng, pinned

    def sample(self, rows: int) -> Batch:
        """A batch."""
        x = {"x": self._ready(self._rng.standard_normal((rows, 16), np.float32))}
        action = self._ready(self._rng.random((rows, self._rows, 7), np.float32) * 2 - 1)
        zeros = np.zeros((rows, self._rows), np.float32)
        return Batch(x, action, zeros, zeros, x, {"mask": np.ones((rows, self._rows), bool)})

    def _ready(self, array: Any) -> Any:
        return torch.from_numpy(array).pin_memory().numpy() if self._pinned else array


class Turns:
    """Updates as the training loop makes them, which agrees with other processes on what comes next.

    Args:
        algorithm: Makes them.
        read: When metrics are read.
    """

    def __init__(self, algorithm: BC, read: str) -> None:
        self._algorithm, self._later = algorithm, read == LATER
        self._unread = deque[Mapping[str, float]]()

    def update(self, batch: Batch) -> None:
        """The next one."""
        wishes = [2, 1, 1, 1]
        if self._later:
            late = self._unread.popleft() if len(self._unread) > 1 else {}
            distributed.exchanged([*wishes, *late.values()])
            self._unread.append(self._algorithm.update(batch))
        else:
            distributed.agreed_each(wishes)
            distributed.averaged(self._algorithm.update(batch))


def held(algorithm: BC) -> int:
    """Bytes of weights, gradients and both moments in this process."""
    shards = algorithm.shards()
    if not shards:
        return 16 * algorithm.parameters.flat.numel()
    own = sum(
        (t.to_local() if hasattr(t, "to_local") else t).numel()
        for name, t in shards.items()
        if name.startswith("policy/")
    )
    return 16 * own


def work(rank: int, given: argparse.Namespace, file: str) -> None:
    """One process, for each number of processes that it is among; the first writes what it found to a file."""
    cuda = given.device == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
        use_tensor_cores("cuda")
    torch.set_num_threads(1 if not cuda else 4)
    config = FlowConfig(
        rows=given.rows, backbone="transformer", embedding=given.embedding, layers=given.layers,
        heads=given.heads,
    )  # fmt: skip
    policy = FlowPolicy(config, SPEC)
    found: list[dict[str, Any]] = []
    for ranks in given.ranks:
        if rank >= ranks:
            continue  # it waits for the others in the next group
        store = dist.FileStore(f"{file}.{ranks}", ranks)
        kind = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(kind, store=store, rank=rank, world_size=ranks)
        for way in given.ways:  # one after the other: only one at a time has to fit
            found += measure(way, policy, ranks, given, rank)
        dist.destroy_process_group()
    if rank == 0:
        Path(file).write_text(json.dumps(found))


def measure(
    way: str, policy: FlowPolicy, ranks: int, given: argparse.Namespace, rank: int
) -> list[dict[str, Any]]:
    """What a way makes of each batch; by all processes."""
    cuda, found = given.device == "cuda", list[dict[str, Any]]()
    began = time.perf_counter()
    params = {**WAYS[way], "device": f"cuda:{rank}" if cuda else "cpu", "average": 0.0}
    algorithm = BC(BCConfig(**params), SPEC, policy)
    if rank == 0:
        print(f"{way} on {ranks}: made after {time.perf_counter() - began:.1f} s", flush=True)
    sizes = {size * each for size in given.batch for each in ((1, ranks) if given.weak else (1,))}
    reads = given.read if algorithm.shards() else [AT_ONCE]  # others are read at once in any case
    for size, read in [(size, read) for size in sorted(sizes) for read in reads]:
        row = _measure(algorithm, size // ranks, ranks, given, rank, read)
        found.append({"way": way, "read": read, **row})
        if cuda:
            found[-1]["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if rank == 0:
            print(json.dumps(found[-1]), flush=True)
    del algorithm
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return found


def _measure(
    algorithm: BC, rows: int, ranks: int, given: argparse.Namespace, rank: int, read: str
) -> dict[str, Any]:
    """The time of updates, and how much of it went by waiting for batches."""
    source = Source(given.rows, np.random.default_rng(rank), given.device == "cuda")
    feed, turns = BatchFeed(source, rows, depth=2), Turns(algorithm, read)
    synchronize: Callable[[], None] = (
        torch.cuda.synchronize if given.device == "cuda" else lambda: None
    )
    times: list[float] = []
    waited_s = 0.0
    try:
        for number in range(given.updates + _WARM):
            if number == _WARM:
                synchronize()
                dist.barrier()
                waited_s, start_s = 0.0, time.perf_counter()
            before_s = time.perf_counter()
            drawn = feed.take(60.0)
            assert drawn is not None
            waited_s += time.perf_counter() - before_s
            turns.update(drawn.batch)
            times.append(time.perf_counter() - before_s)
        synchronize()
        dist.barrier()
        took_s = time.perf_counter() - start_s
        profiled = _profiled(lambda: _take_and_update(turns, feed)) if given.profile else {}
    finally:
        feed.close()
    numbers = sum(p.numel() for p in algorithm.network.parameters())
    return {
        "ranks": ranks, "batch": rows * ranks, "parameters": numbers,
        "update_ms": 1e3 * statistics.median(times[_WARM:]),
        "samples_s": given.updates * rows * ranks / took_s,
        "waited": waited_s / took_s, "held_gb": held(algorithm) / 1e9,
        **profiled,
    }  # fmt: skip


def _take_and_update(turns: Turns, feed: BatchFeed) -> None:
    drawn = feed.take(60.0)
    assert drawn is not None
    turns.update(drawn.batch)


def _profiled(update: Callable[[], None]) -> dict[str, Any]:
    """What the GPU of this process does in an update, by torch's profiler, which takes time itself."""
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        begun_s = time.perf_counter()
        for _ in range(_PROFILED):
            update()
        torch.cuda.synchronize()
        took_ms = 1e3 * (time.perf_counter() - begun_s) / _PROFILED
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for event in profiler.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spans["nccl" in event.name.lower()].append(
                (event.time_range.start, event.time_range.end)
            )
    computes, exchanges = _length(spans[False]), _length(spans[True])
    either = _length(spans[False] + spans[True])
    each = 1e-3 / _PROFILED
    return {
        "profiled_ms": took_ms, "computes_ms": each * computes, "exchanges_ms": each * exchanges,
        "exchanges_alone_ms": each * (either - computes), "idle_ms": took_ms - each * either,
        "kernels": len(spans[False] + spans[True]) / _PROFILED,
    }  # fmt: skip


def _length(spans: list[tuple[float, float]]) -> float:
    """Time in which at least one of some spans lasts."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def main() -> None:
    """Entry point."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16, help="actions of a chunk")
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="rows of all processes together")  # fmt: skip
    parser.add_argument("--weak", action="store_true", help="also this many rows of each process")
    parser.add_argument("--profile", action="store_true", help="what a GPU does in an update")
    parser.add_argument("--read", nargs="+", choices=(LATER, AT_ONCE), default=[LATER], help="metrics of what is sharded")  # fmt: skip
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--out", default="", help="JSON lines are appended to this file")
    given = parser.parse_args()
    if given.profile and given.device != "cuda":
        parser.error("--profile says what a GPU does: give --device cuda")
    every: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "found")
        multiprocessing.spawn(work, args=(given, file), nprocs=max(given.ranks))
        every += json.loads(Path(file).read_text())
    first = {
        (row["way"], row["batch"], row["read"]): row
        for row in every
        if row["ranks"] == given.ranks[0]
    }  # in the order in which they were measured
    by_way = {row["way"]: row for row in reversed(list(first.values()))}
    print(f"{every[0]['parameters'] / 1e6:.1f} M parameters, actions of a chunk: {given.rows}")
    print(
        f"{'':34} {'read':>8} {'ranks':>5} {'batch':>6} {'ms':>8} {'samples/s':>10} {'of linear':>9} {'waited':>7} {'held GB':>8}"
    )
    for row in every:
        # Of the same batch where the first number of processes had it; else of its first one.
        base = first.get((row["way"], row["batch"], row["read"]), by_way[row["way"]])
        row["of_linear"] = row["samples_s"] / base["samples_s"] * base["ranks"] / row["ranks"]
        print(
            f"{row['way']:34} {row['read']:>8} {row['ranks']:5} {row['batch']:6} {row['update_ms']:8.1f} {row['samples_s']:10.1f} "
            f"{row['of_linear']:9.2f} {100 * row['waited']:6.1f}% {row['held_gb']:8.3f}"
        )
        if given.out:
            with open(given.out, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
