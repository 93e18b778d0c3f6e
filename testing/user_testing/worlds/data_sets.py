"""A robot with every kind of array, and stores of its episodes, for exports and imports."""

from contextlib import closing

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
