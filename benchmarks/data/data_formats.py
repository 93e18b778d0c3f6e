"""Import against the decoder alone, and export against LeRobot's own recorder, in one run.

LeRobot needs Python 3.12 and an environment of its own::

    tools/run python benchmarks/data/data_formats.py --lerobot ENV/bin/python

Without ``--lerobot`` only the import is measured. Export: LeRobot's recorder (``add_frame``,
``save_episode``, ``finalize``) and ``user data export`` write the same episodes, both with AV1 at
LeRobot's settings, and ours also with its default. Import: frames per second that come into a store
(fsync), beside those that PyAV alone decodes of the same files to RGB; each is the best of three.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from user_core.command_line import Parser
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
)  # fmt: skip
from user_learner.data.exporting import export_lerobot
from user_learner.data.importing import import_data
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.meaning import write_meaning
from user_testing import systems
from user_testing.worlds.data_sets import as_version_2_1

SIZE = 128
SPEC = RobotSpec(
    "arm",
    {
        "image_front": ArraySpec((SIZE, SIZE, 3), "uint8"),
        "image_wrist": ArraySpec((SIZE, SIZE, 3), "uint8"),
        "joint_position": ArraySpec((7,), unit="rad"),
    },
    ArraySpec((7,), low=-3.0, high=3.0, unit="rad"),
    ActionKind.JOINT_POSITION,
)
SCHEMA = TrajectorySchema.of(SPEC)

RECORD = """
import json, shutil, sys, time
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
source, target = sys.argv[1:3]
image = {"dtype": "video", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
vector = {"dtype": "float32", "shape": (7,), "names": [str(i) for i in range(7)]}
features = {"observation.images.image_front": image, "observation.images.image_wrist": image,
            "observation.state": vector, "action": vector}
episodes = []
import glob
for name in sorted(glob.glob(source + "/*.npz")):
    with np.load(name) as data:
        episodes.append({n: data[n] for n in data.files})
begin = time.perf_counter()
dataset = LeRobotDataset.create("a/b", 10, features, root=target, image_writer_threads=4)
for episode in episodes:
    for i in range(len(episode["action"])):
        dataset.add_frame({
            "observation.images.image_front": episode["image_front"][i],
            "observation.images.image_wrist": episode["image_wrist"][i],
            "observation.state": episode["joint_position"][i],
            "action": episode["action"][i], "task": "reach"})
    dataset.save_episode()
dataset.finalize()
print(json.dumps({"seconds": time.perf_counter() - begin}))
""".replace("SIZE", str(SIZE))


def images(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Pictures as a renderer makes them: a floor with a gradient, and blocks that move."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    base = np.stack([x + y, 255 - x, 128 + y // 2], axis=2).clip(0, 255).astype(np.uint8)
    found = np.repeat(base[None], rows, axis=0)
    for _ in range(5):
        at, speed = rng.uniform(0, 100, 2), rng.normal(0, 1, 2)
        colour = rng.integers(0, 256, 3)
        for i in range(rows):
            top, left = ((at + speed * i) % 100).astype(int)
            found[i, top : top + 20, left : left + 20] = colour
    return found


def fill(path: Path, folder: Path, episodes: int, steps: int) -> None:
    """Make the episodes: as a store, and as arrays for LeRobot."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with StoreWriter(path) as writer:
        for number in range(episodes):
            rows = steps + 1
            row = np.arange(rows)
            key = EpisodeKey("bench", 1, number)
            given = {
                "observation.image_front": images(rng, rows),
                "observation.image_wrist": images(rng, rows),
                "observation.joint_position": rng.normal(size=(rows, 7)),
                "action": rng.normal(size=(rows, 7)),
                "final": row == steps, "truncated": row == steps - 1, "stamp_ns": row * 10**8,
            }  # fmt: skip
            columns = {
                name: np.asarray(given.get(name, np.zeros((rows, *spec.shape))), spec.dtype)
                for name, spec in SCHEMA.columns.items()
            }
            result = EpisodeResult(key, EpisodeSource.DEMONSTRATION, Outcome.SUCCESS, steps, 0.0)
            writer.adopt(TrajectoryChunk(
                ChunkId("bench", 1, 1), key, EpisodeSource.DEMONSTRATION, 0, columns, SCHEMA.hash,
                result, "arm", "reach",
            ))  # fmt: skip
            names = ("image_front", "image_wrist", "joint_position")
            arrays = {n: columns[f"observation.{n}"][:-1] for n in names}
            np.savez(folder / f"{number:04d}.npz", action=columns["action"][:-1], **arrays)
    write_meaning(path, SPEC)


def decode_alone(path: Path) -> float:
    """Seconds that PyAV takes to decode all videos of a data set to RGB."""
    import av

    begin = time.perf_counter()
    for file in sorted(path.glob("videos/*/*/*.mp4")):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                frame.to_ndarray(format="rgb24")
    return time.perf_counter() - begin


def write_hdf5(arrays: Path, path: Path, compression: str | None) -> None:
    """The episodes as robomimic lays them out, by h5py."""
    import h5py

    with h5py.File(path, "w") as file:
        for number, one in enumerate(sorted(arrays.glob("*.npz"))):
            group = file.create_group(f"data/demo_{number}")
            with np.load(one) as data:
                group["actions"] = data["action"]
                group["obs/joint_position"] = data["joint_position"]
                for name in ("image_front", "image_wrist"):
                    images = data[name]
                    chunks = (1, *images.shape[1:]) if compression else None
                    group.create_dataset(
                        f"obs/{name}", data=images, compression=compression, chunks=chunks
                    )


def read_hdf5(path: Path) -> float:
    """Seconds that h5py takes to read all of it."""
    import h5py

    begin = time.perf_counter()
    with h5py.File(path) as file:
        for demo in file["data"].values():
            for one in (demo["actions"], *demo["obs"].values()):
                one[()]
    return time.perf_counter() - begin


def import_beside(
    name: str, path: Path, alone: Callable[[], float], folder: Path, frames: int, episodes: int
) -> None:
    """Import a data set three times, in turns with what decodes it alone; print the ratio."""
    decoded, taken = [], []
    for turn in range(3):
        decoded.append(alone())
        target = folder / f"{path.stem}{turn}.store"
        begin = time.perf_counter()
        with StoreWriter(target) as writer:
            import_data(path, writer)
        taken.append(time.perf_counter() - begin)
        with closing(StoreReader(target)) as reader:
            assert len(list(reader.episodes())) == episodes
        shutil.rmtree(target)
    print(
        f"import, {name}: {frames / min(taken):.0f} frames/s, decoder alone "
        f"{frames / min(decoded):.0f}, ratio {min(decoded) / min(taken):.2f}"
    )


def main() -> None:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--lerobot", default="", help="Python of an environment with LeRobot")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fill(folder / "store", folder / "arrays", options.episodes, options.steps)
        frames = 2 * options.episodes * options.steps
        print(f"{options.episodes} episodes, {options.steps} steps, 2 images of {SIZE} x {SIZE}")
        theirs = 0.0
        if options.lerobot:
            done = systems.run_to_end(
                [options.lerobot, "-c", RECORD, folder / "arrays", folder / "theirs"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            theirs = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
            print(
                f"export, LeRobot's recorder, AV1: {theirs:.2f} s, {frames / theirs:.0f} frames/s"
            )
        for coding in ("av1", "h264", "lossless", "png"):
            begin = time.perf_counter()
            report = export_lerobot(folder / "store", folder / coding, coding=coding)
            ours = time.perf_counter() - begin
            nbytes = sum(p.stat().st_size for p in (folder / coding).rglob("*") if p.is_file())
            raw = frames * SIZE * SIZE * 3
            times = f", {theirs / ours:.2f} times LeRobot's recorder" if theirs else ""
            print(
                f"export, ours, {coding}: {ours:.2f} s, {frames / ours:.0f} frames/s, "
                f"{report.psnr_db:.1f} dB, {nbytes / raw:.3f} of raw{times}"
            )
        count = (folder, frames, options.episodes)
        for coding in ("av1", "h264", "lossless"):
            path = folder / coding
            import_beside(f"v3, {coding}", path, partial(decode_alone, path), *count)
        path = as_version_2_1(folder / "h264", folder / "v21", "h264")
        import_beside("v2.1, h264", path, partial(decode_alone, path), *count)
        for compression in (None, "gzip"):
            path = folder / f"{compression or 'plain'}.hdf5"
            write_hdf5(folder / "arrays", path, compression)
            import_beside(f"HDF5, {compression}", path, partial(read_hdf5, path), *count)
        if theirs:
            begin = time.perf_counter()
            with StoreWriter(folder / "of_theirs") as writer:
                report = import_data(folder / "theirs", writer)
            print(
                f"import of what LeRobot recorded: {report.episodes} episodes, "
                f"{report.rows} rows, {len(report.skipped)} left out, "
                f"{time.perf_counter() - begin:.2f} s"
            )


if __name__ == "__main__":
    main()
