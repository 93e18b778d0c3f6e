"""A robot with every kind of array, and stores of its episodes, for exports and imports."""

import json
from contextlib import closing
from fractions import Fraction

import numpy as np

from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import EpisodeSource, TrajectorySchema
from user_learner.data.importing import import_data
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.meaning import write_meaning
from user_testing.worlds.replay import QUICK, Actor, Plan, fill

SPEC = RobotSpec(
    "arm",
    {
        "place": ArraySpec((3,), "int32"),
        "image_wrist": ArraySpec((40, 41, 3), "uint8"),
        "joint_position": ArraySpec((2,), unit="rad", names=("shoulder", "elbow")),
        "opening": ArraySpec(()),
        "precise": ArraySpec((2, 2), "float64"),
        "depth": ArraySpec((32, 34), "uint8"),
    },
    ArraySpec((2,), low=-1.0, high=500.0, unit="rad", names=("shoulder", "elbow")),
    ActionKind.JOINT_POSITION,
    period_s=0.1,
)
SCHEMA = TrajectorySchema.of(SPEC)


class Robot(Actor):
    def columns(self, episode, plan):
        rng = np.random.default_rng(episode + 100 * self.number)
        rows = plan.rows
        added = {
            "observation.joint_position": rng.normal(size=(rows, 2)).astype(np.float32),
            "observation.opening": rng.normal(size=rows).astype(np.float32),
            "observation.precise": rng.normal(size=(rows, 2, 2)),
            "observation.depth": rng.integers(0, 256, (rows, 32, 34), np.uint8),
        }
        schema, self.schema = self.schema, _fixed(self.schema, added)
        columns = super().columns(episode, plan)
        self.schema = schema
        columns = {**columns, **added}
        images = columns["observation.image_wrist"] = columns["observation.image_wrist"].copy()
        images[:, ::3] = rng.integers(0, 256, images[:, ::3].shape, np.uint8)
        return {name: columns[name] for name in schema.columns}


def _fixed(schema, added):
    return TrajectorySchema({n: s for n, s in schema.columns.items() if n not in added})


PLANS = [
    Plan(7, EpisodeSource.DEMONSTRATION, terminated=True, humans=frozenset({2, 3})),
    Plan(5, final=False),
    Plan(9),
    Plan(4, EpisodeSource.EVALUATION, terminated=True),
]


def store(path, plans=PLANS, number=1):
    with StoreWriter(path, config=QUICK) as writer:
        chunks = fill(writer, Robot(number, schema=SCHEMA), plans)
    write_meaning(path, SPEC)
    return chunks


def take(source, path, **more):
    with StoreWriter(path, config=QUICK) as writer:
        return import_data(source, writer, **more)


def held(path):
    with closing(StoreReader(path)) as reader:
        return {e.key: (e, reader.read_episode(e)) for e in reader.episodes()}


def as_version_2_1(v3, path, coding="lossless"):
    """An export of one file of each kind as LeRobot 0.3 laid data sets out: a parquet and an mp4 for each episode."""
    import pyarrow.parquet as pq

    from user_learner.data.lerobot.video import VideoReader, VideoWriter

    info = json.loads((v3 / "meta/info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (path / "meta").mkdir(parents=True)
    (path / "data/chunk-000").mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    rows = pq.read_table(v3 / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    table = pq.read_table(v3 / "data/chunk-000/file-000.parquet")
    lines = []
    for row in rows:
        number, start, length = row["episode_index"], row["dataset_from_index"], row["length"]
        pq.write_table(
            table.slice(start, length), path / f"data/chunk-000/episode_{number:06d}.parquet"
        )
        lines.append({"episode_index": number, "tasks": row["tasks"], "length": length})
        for name, feature in info["features"].items():
            if feature["dtype"] != "video":
                continue
            reader = VideoReader(v3 / f"videos/{name}/chunk-000/file-000.mp4")
            images, _ = reader.frames(row[f"videos/{name}/from_timestamp"], length, 10.0)
            reader.close()
            folder = path / f"videos/chunk-000/{name}"
            folder.mkdir(parents=True, exist_ok=True)
            video = VideoWriter(
                folder / f"episode_{number:06d}.mp4", Fraction(10), images.shape[1:3], coding
            )
            video.add(images)
            video.close()
    (path / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "reach"}) + "\n")
    return path
