"""RLPD from two cameras on a GPU: what an update costs, and what it waits for.

Two images of 128x128 a step, batch 256, 2 critics, bfloat16. Variants take turns in one process:
batches in ordinary memory or in page-locked memory (``sampler.output: pinned``), updates launched
one kernel after the other or as one CUDA graph (``algorithm.params.cuda_graph``). Then what the GPU is
busy with in each, and whether the graph learns the same as the launches do.

    python benchmarks/gpu/image_updates.py [--batch 256] [--rounds 20] [--out image_updates.jsonl]
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from user_core.command_line import Parser
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig

STATE, ACTION, SIDE = 32, 4, 128
CAMERAS = ("image_front", "image_wrist")


def spec(images: bool) -> RobotSpec:
    """A robot with or without cameras."""
    cameras = {name: ArraySpec((SIDE, SIDE, 3), "uint8") for name in CAMERAS if images}
    seen = {"state": ArraySpec((STATE,)), **cameras}
    return RobotSpec("bench", seen, ArraySpec((ACTION,), low=-1.0, high=1.0))


def batch_of(rows: int, images: bool, pinned: bool) -> Batch:
    """Random numbers."""
    rng = np.random.default_rng(0)

    def seen() -> dict[str, Any]:
        found: dict[str, Any] = {"state": rng.standard_normal((rows, STATE)).astype(np.float32)}
        for name in CAMERAS if images else ():
            found[name] = rng.integers(0, 256, (rows, SIDE, SIDE, 3), np.uint8)
        return {k: _pinned(v) if pinned else v for k, v in found.items()}

    columns = (
        rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        rng.standard_normal(rows).astype(np.float32),
        np.full(rows, 0.99, np.float32),
    )
    action, reward, discount = (_pinned(c) if pinned else c for c in columns)
    return Batch(seen(), action, reward, discount, seen())


def _pinned(array: Any) -> Any:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def learner(device: str, images: bool, graph: bool, updates: int, critics: int, units: int) -> RLPD:
    """RLPD of the given kind."""
    config = RLPDConfig(
        critics=critics, critic_updates=updates, critic_hidden=(units, units), device=device,
        cuda_graph=graph, precision="bfloat16" if images and device != "cpu" else "float32",
    )  # fmt: skip
    robot = spec(images)
    return RLPD(config, robot, TanhGaussianPolicy(TanhGaussianConfig(hidden=(256, 256)), robot))


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def busy(work: RLPD, batch: Batch) -> dict[str, Any]:
    """Milliseconds of a call in which the GPU computes and copies, and the longest kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(3):
            work.update(batch)
        synchronize()
    rows = [e for e in found.key_averages() if getattr(e, "self_device_time_total", 0) > 0]
    rows = [e for e in rows if str(e.device_type).endswith("CUDA")]
    rows.sort(key=lambda e: -e.self_device_time_total)
    return {
        "gpu_ms": sum(e.self_device_time_total for e in rows) / 3e3,
        "kernels": sum(e.count for e in rows) / 3,
        "longest": [[e.key[:60], round(e.self_device_time_total / 3e3, 3)] for e in rows[:8]],
    }


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)

    def tell(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)
        if args.out is not None:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    cases = (
        ("two cameras, UTD 2", True, 2, 2, 256),
        ("state, 2 critics, UTD 1", False, 1, 2, 256),
        ("state, 10 critics, UTD 20", False, 20, 10, 256),
    )
    for name, images, updates, critics, units in cases:
        batches = {p: batch_of(updates * args.batch, images, p) for p in (False, True)}
        variants = {
            f"{'pinned' if pinned else 'pageable'}, {'graph' if graph else 'launches'}": (
                learner(args.device, images, graph, updates, critics, units),
                batches[pinned],
            )
            for pinned in (False, True)
            for graph in (False, True)
        }
        for work, batch in variants.values():
            for _ in range(8):  # also until the graph is recorded
                work.update(batch)
        times: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(args.rounds):
            for variant, (work, batch) in variants.items():
                synchronize()
                start_s = time.perf_counter()
                work.update(batch)
                synchronize()
                times[variant].append(1e3 * (time.perf_counter() - start_s) / updates)
        base = float(np.median(times["pageable, launches"]))
        for variant, (work, batch) in variants.items():
            update_ms = float(np.median(times[variant]))
            row = {
                "case": name, "variant": variant, "batch": args.batch, "update_ms": update_ms,
                "updates_per_s": 1e3 / update_ms, "times": base / update_ms,
                "replays": work._graphed.replays,
            }  # fmt: skip
            tell(row)
            if args.device != "cpu":
                try:
                    tell({"case": name, "variant": variant, "profile": busy(work, batch)})
                except Exception as error:
                    tell({"case": name, "variant": variant, "profile_error": str(error)[:200]})
        tell(
            {"case": name, "same": difference(args.device, images, updates, critics, batches[True])}
        )


def difference(
    device: str, images: bool, updates: int, critics: int, batch: Batch
) -> dict[str, float]:
    """Of the parameters of two trainings, with and without a graph, after some calls; and of two without."""
    ends = []
    for graph in (False, False, True):
        work = learner(device, images, graph, updates, critics, 256)
        for _ in range(12):
            work.update(batch)
        synchronize()
        ends.append(torch.cat([work.networks.actor.flat, work.networks.critics.flat]).float())
    return {
        "moved": float((ends[0]).norm()),
        "between_launches": float((ends[0] - ends[1]).norm()),
        "between_graph_and_launches": float((ends[0] - ends[2]).norm()),
        "finite": float(torch.stack(ends).isfinite().all()),
    }


if __name__ == "__main__":
    main()
