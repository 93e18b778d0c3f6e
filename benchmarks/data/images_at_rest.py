"""Compressed images at rest: how small, how fast to draw from, how fast to open.

- ``size``: images of the simulator, and a photograph under a camera that stands still or moves, with noise: bytes at
  rest beside raw bytes, and how fast they are packed and read.
- ``sample``: ``sample(256)`` with two 128x128x3 images from full segments, raw and compressed in turns, each by a
  process of its own: a store that fits into memory, and one four times the budget.
- ``open``: a store of many steps with images, all full segments compressed, opened by new processes.

    tools/run python benchmarks/data/images_at_rest.py [size sample open] [--steps 500000] [--seconds 8] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from replay import BATCH, MemoryWatch, drop_cache, sum_bytes
from replay import run_child as run_child_of
from store_for_weeks import rss_mb
from user_core.command_line import Parser
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import ChunkId, EpisodeKey, Outcome, TrajectorySchema
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.sim.experts import ScriptedExpert
from user_learner.replay import StoreConfig, StoreReader, StoreWriter
from user_learner.replay.config import CompressionConfig
from user_learner.replay.layout import RowLayout, column_file
from user_learner.replay.packed import pack_file
from user_learner.replay.segments import read_rows
from user_learner.sampling import ReplaySource, SamplerConfig
from user_learner.upkeep.compression import compress
from user_testing.worlds.replay import blank_episode, whole_episode

SIDE = 128
SPEC = RobotSpec(
    "bench", {"image_front": ArraySpec((SIDE, SIDE, 3), "uint8"),
              "image_wrist": ArraySpec((SIDE, SIDE, 3), "uint8"), "state": ArraySpec((32,))}, ArraySpec((7,)),
)  # fmt: skip
SMALL = RobotSpec("bench", {"image": ArraySpec((40, 41, 3), "uint8")}, ArraySpec((7,)))
NOW = CompressionConfig(raw_bytes=0)
run_child = partial(run_child_of, program=__file__)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["size", "sample", "open"])
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn of sample")
    parser.add_argument("--folder", type=Path, help="where stores are made; by default /tmp")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *words = json.loads(options.child)
        print(json.dumps({"sample": child_sample, "open": child_open}[what](*words)))
        return
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="rest-bench-", dir=options.folder) as folder:
        for part in options.parts:
            place = Path(folder) / part
            place.mkdir()
            {"size": size, "sample": lambda p: sample(p, options.seconds),
             "open": lambda p: opening(p, options.steps)}[part](place)  # fmt: skip


# Images


def rendered(steps: int, task: str = "pick_place") -> tuple[np.ndarray, np.ndarray]:
    """What two cameras of the simulator see of an expert at work, (steps, SIDE, SIDE, 3) each."""
    robot = MujocoRobot(
        MujocoConfig(task=task, cameras=["front", "wrist"], image_height=SIDE, image_width=SIDE)
    )
    robot.connect()
    expert, found, seed, seen = ScriptedExpert(robot.spec, noise=0.1), [], 0, None
    while len(found) < steps:
        if seen is None or seen.task.terminated or seen.task.truncated:
            seen, seed = robot.reset(seed), seed + 1
            expert.reset()
        robot.command(expert.act(seen.arrays))
        seen = robot.read()
        found.append((seen.arrays["image_front"].copy(), seen.arrays["image_wrist"].copy()))
    robot.close()
    front, wrist = zip(*found, strict=True)
    return np.array(front), np.array(wrist)


def photographed(steps: int, moves: bool, noise: float) -> np.ndarray:
    """A photograph as a camera sees it that stands still, or moves by half a pixel a step; with the noise of a sensor:
    independent in each pixel and colour, this standard deviation at middle grey."""
    import cv2
    from matplotlib.cbook import get_sample_data

    path = get_sample_data("grace_hopper.jpg", asfileobj=False)
    whole = cv2.resize(cv2.imread(str(path))[..., ::-1], (256, 300), interpolation=cv2.INTER_AREA)
    rng, found = np.random.default_rng(0), []
    for step in range(steps):
        middle = (72 + 0.43 * step % 112, 150 + 40 * np.sin(step / 40)) if moves else (128, 150)
        view = cv2.getRectSubPix(whole, (SIDE, SIDE), middle).astype(np.float32)
        grain = rng.standard_normal(view.shape) * noise * np.sqrt(view / 128 + 0.1)
        found.append((view + grain).round().clip(0, 255).astype(np.uint8))
    return np.array(found)


def size(place: Path) -> None:
    front, wrist = rendered(512)
    sets = {"rendered, front": front, "rendered, wrist": wrist}
    for noise in (0.0, 1.0, 2.0, 4.0):
        for moves in (False, True):
            name = f"camera {'moves' if moves else 'stands'}, noise {noise:.0f}"
            sets[name] = photographed(256, moves, noise)
    file = column_file("observation.x", {"observation.x": ArraySpec((SIDE, SIDE, 3), "uint8")})
    print(
        f"\n{'':26} {'coding':8} {'of raw':>7} {'PSNR dB':>8} {'pack MB/s':>10} {'read MB/s':>10}"
    )
    for name, images in sets.items():
        for coding in ("zstd", "jpeg95", "webp90"):
            if coding != "zstd" and "noise 0" in name:
                continue
            (place / file.filename).write_bytes(images.tobytes())
            rows = len(images)
            pack_s, header = timed(partial(pack_file, place, file, rows, coding))
            read_s, _ = timed(partial(read_rows, place, file, 0, rows))
            psnr = header.psnr_db[0] if header.psnr_db else float("inf")
            print(
                f"{name:26} {coding:8} {header.nbytes / images.nbytes:7.3f} {psnr:8.1f} "
                f"{images.nbytes / pack_s / 1e6:10.0f} {images.nbytes / read_s / 1e6:10.0f}"
            )
            (place / file.packed_filename).unlink()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin_s = time.perf_counter()
    found = work()
    return time.perf_counter() - begin_s, found


# Drawing


def fill(path: Path, steps: int, spec: RobotSpec = SPEC) -> None:
    schema = TrajectorySchema.of(spec)
    views = [*rendered(500), photographed(500, True, 2.0)]
    with StoreWriter(path, schema, StoreConfig(durability="kernel", segment_bytes=1)) as writer:
        for number in range(steps // 500):
            columns = blank_episode(schema, 501)
            columns["observation.image_front"][:500] = views[0] if number % 2 else views[2]
            columns["observation.image_wrist"][:500] = views[1]
            for start in range(0, 501, 100):
                writer_append(writer, schema, columns, number, start)


def writer_append(
    writer: StoreWriter,
    schema: TrajectorySchema,
    columns: dict[str, np.ndarray],
    number: int,
    start: int,
) -> None:
    """An episode in chunks that a store accepts."""
    whole = whole_episode(EpisodeKey("bench", 1, number), schema, columns, Outcome.TIMEOUT)
    stop = min(start + 100, 501)
    part = {name: column[start:stop] for name, column in columns.items()}
    sequence = number * 6 + start // 100 + 1
    result = whole.result if stop == 501 else None
    writer.append(
        replace(
            whole, id=ChunkId("bench", 1, sequence), first_row=start, columns=part, result=result
        )
    )


def sample(place: Path, seconds: float) -> None:
    raw, packed = place / "raw", place / "packed"
    fill(raw, 6000)
    shutil.copytree(raw, packed)
    report = compress(packed, NOW)
    whole = int(6000 * 1.002 * RowLayout(TrajectorySchema.of(SPEC)).row_nbytes)
    print(f"\nsample({BATCH}), {whole / 2**20:,.0f} MiB of rows; full segments at "
          f"{report.nbytes / report.raw_nbytes:.3f} of raw")  # fmt: skip
    for name, budget in (("fits into memory", 4 * whole), ("four times the budget", whole // 4)):
        found: dict[str, list[dict]] = {"raw": [], "packed": []}
        for _ in range(4):
            for kind, path in (("raw", raw), ("packed", packed)):
                found[kind].append(run_child("sample", str(path), budget, seconds))
        p50 = {k: float(np.median([one["p50_ms"] for one in v])) for k, v in found.items()}
        mean = {k: float(np.median([one["mean_ms"] for one in v])) for k, v in found.items()}
        print(f"  {name}:")
        for kind, v in found.items():
            one = v[-1]
            print(
                f"    {kind:7} p50 {p50[kind]:6.2f} ms, mean {mean[kind]:6.2f}, p99 "
                f"{np.median([o['p99_ms'] for o in v]):7.2f}; exchanged "
                f"{np.median([o['read_mb_s'] for o in v]):5.0f} MB/s; most memory {one['memory_mb']:,.0f} of "
                f"{budget / 2**20:,.0f} MiB; first batch {np.median([o['first_s'] for o in v]):.2f} s"
            )
        print(
            f"    packed / raw: p50 x {p50['packed'] / p50['raw']:.2f}, mean x {mean['packed'] / mean['raw']:.2f}"
        )


def child_sample(path: str, budget: int, seconds: float) -> dict[str, float]:
    drop_cache(Path(path))
    config = SamplerConfig(memory_bytes=budget, prefetch=1, keep=1)
    begin_s = time.perf_counter()
    with ReplaySource(path, config) as source:
        watch = MemoryWatch()
        source.sample(BATCH)
        first_s = time.perf_counter() - begin_s
        taken, begin_s = [], time.perf_counter()
        before = getattr(source._pool, "bytes_read", 0)
        while time.perf_counter() < begin_s + seconds:
            taken.append(timed(lambda: source.sample(BATCH))[0])
        elapsed = time.perf_counter() - begin_s
        read = getattr(source._pool, "bytes_read", 0) - before
        memory = watch.stop()
    p50, p99 = np.percentile(taken, [50, 99]) * 1e3
    return {
        "p50_ms": p50, "p99_ms": p99, "mean_ms": float(np.mean(taken) * 1e3), "read_mb_s": read / elapsed / 1e6,
        "memory_mb": memory / 2**20, "first_s": first_s,
    }  # fmt: skip


# Opening


def opening(path: Path, steps: int) -> None:
    schema = TrajectorySchema.of(SMALL)
    config = StoreConfig(durability="kernel", segment_bytes=1)  # 1024 rows each
    image = photographed(500, True, 0.0)[:, ::3, ::3][:, :40, :41]
    columns = blank_episode(schema, 501)
    columns["observation.image"][:500] = image
    with StoreWriter(path, schema, config) as writer:
        for number in range(steps // 500):
            writer.append(
                whole_episode(EpisodeKey("bench", 1, number), schema, columns, Outcome.TIMEOUT)
            )
            if number % 200 == 199:
                writer.commit()
                compress(path, NOW)
    segments = len(list((path / "segments").iterdir()))
    print(
        f"\nopening {steps:,} steps with an image in {segments} segments, {sum_bytes(path) / 2**20:,.0f} MiB"
    )
    for what in ("reader", "first batch", "writer"):
        found = [run_child("open", str(path), what) for _ in range(3)]
        print(f"  {what:12} median {np.median([f['seconds'] for f in found]) * 1e3:6.0f} ms, most "
              f"{max(f['seconds'] for f in found) * 1e3:6.0f} ms, resident {found[-1]['rss_mb']:.0f} MiB")  # fmt: skip


def child_open(path: str, what: str) -> dict[str, float]:
    begin_s = time.perf_counter()
    if what == "reader":
        StoreReader(path).close()
    elif what == "writer":
        StoreWriter(path).close()
    else:
        config = SamplerConfig(memory_bytes=256 * 2**20, prefetch=0, refresh_period_s=0)
        with ReplaySource(path, config) as source:
            source.sample(BATCH)
            return {"seconds": time.perf_counter() - begin_s, "rss_mb": rss_mb()}
    return {"seconds": time.perf_counter() - begin_s, "rss_mb": rss_mb()}


if __name__ == "__main__":
    main()
