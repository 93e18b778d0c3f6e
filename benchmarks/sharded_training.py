"""What it costs to spread a network over processes (FSDP2), beside having all of it in each, in one run.

Several processes on the cores of this host, with gloo, clone the same batches with a flow policy of a transformer. Every
way takes its turn after each other in the same processes, so that all have the same machine. Printed are medians of
the time of an update, and what a process holds of weights, gradients and Adam.

    python benchmarks/sharded_training.py --ranks 2 --embedding 256 --layers 6
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
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
from user_learner.algorithms.imitation.bc import BC, BCConfig

SPEC = RobotSpec("r", {"x": ArraySpec((16,))}, ArraySpec((7,), low=-1.0, high=1.0))
ROWS = 16
WAYS: dict[str, dict[str, Any]] = {
    "whole in each": {},
    "shard: blocks": {"shard": "blocks"},
    "shard: layers": {"shard": "layers"},
    "blocks, activation_checkpointing": {"shard": "blocks", "activation_checkpointing": True},
    "blocks, bfloat16": {"shard": "blocks", "precision": "bfloat16"},
}


def batch(rows: int, rng: np.random.Generator) -> Batch:
    """Windows of random numbers."""
    x = {"x": rng.standard_normal((rows, 16)).astype(np.float32)}
    action = rng.uniform(-1, 1, (rows, ROWS, 7)).astype(np.float32)
    zeros = np.zeros((rows, ROWS), np.float32)
    return Batch(x, action, zeros, zeros, x, {"mask": np.ones((rows, ROWS), bool)})


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


def work(rank: int, given: argparse.Namespace, folder: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "meeting"), given.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=given.ranks)
    config = FlowConfig(
        rows=ROWS, backbone="transformer", embedding=given.embedding, layers=given.layers, heads=4
    )
    made = {
        way: BC(BCConfig(**params), SPEC, FlowPolicy(config, SPEC)) for way, params in WAYS.items()
    }
    rng = np.random.default_rng(rank)
    times: dict[str, list[float]] = {way: [] for way in made}
    for number in range(given.updates + 2):
        drawn = batch(given.batch // given.ranks, rng)
        for way, algorithm in made.items():
            dist.barrier()
            start_s = time.perf_counter()
            algorithm.update(drawn)
            dist.barrier()
            if number >= 2:
                times[way].append(time.perf_counter() - start_s)
    if rank == 0:
        numbers = made["whole in each"].parameters.flat.numel()
        print(f"{given.ranks} ranks, {numbers / 1e6:.1f} M parameters, batch {given.batch}")
        base = statistics.median(times["whole in each"])
        for way, taken in times.items():
            median = statistics.median(taken)
            print(
                f"{way:34} {1e3 * median:7.1f} ms  {median / base:5.2f}  {held(made[way]) / 1e6:8.1f} MB held"
            )
    dist.destroy_process_group()


def main() -> None:
    """Entry point."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--updates", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, args=(given, folder), nprocs=given.ranks)


if __name__ == "__main__":
    main()
