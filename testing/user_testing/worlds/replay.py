"""Experience whose every value tells where it belongs, and a slow model of what a store is."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ActedBy,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.replay import StoreConfig, StoreReader, StoreWriter
from user_learner.replay.index import connect
from user_learner.replay.layout import result_to_dict
from user_learner.sampling import SamplerConfig

SPEC = RobotSpec("arm", {"place": ArraySpec((3,), "int32")}, ArraySpec((2,)))
IMAGE_SPEC = RobotSpec(
    "arm",
    {"place": ArraySpec((3,), "int32"), "image_wrist": ArraySpec((40, 41, 3), "uint8")},
    ArraySpec((2,)),
)
SCHEMA = TrajectorySchema.of(SPEC)
IMAGE_SCHEMA = TrajectorySchema.of(IMAGE_SPEC)

#: As a test wants it: nothing is held back, and the disk's free space does not matter.
QUICK = StoreConfig(durability="kernel", min_free_bytes=0)
FSYNC = StoreConfig(min_free_bytes=0)
#: Nothing happens by itself.
STILL = SamplerConfig(prefetch=0, prefetch_above_bytes=0, refresh_period_s=0)


def reward_of(episode: int, row: int) -> float:
    return float(np.float32(((episode * 31 + row * 7) % 23) / 8 - 1))


def pixel_of(actor, episode, row):
    return (actor * 101 + episode * 13 + row * 5) % 256


def blank_episode(schema: TrajectorySchema, rows: int) -> dict[str, np.ndarray]:
    """Columns of zeros of an episode at 10 Hz that a time limit ended, with its final observation."""
    row = np.arange(rows)
    columns = {n: np.zeros((rows, *s.shape), s.dtype) for n, s in schema.columns.items()}
    columns["final"], columns["truncated"] = row == rows - 1, row == rows - 2
    columns["stamp_ns"] = row * 10**8
    return columns


def whole_episode(
    key: EpisodeKey,
    schema: TrajectorySchema,
    columns: dict[str, np.ndarray],
    outcome: Outcome,
    source: EpisodeSource = EpisodeSource.ONLINE,
    robot: str = "arm",
    task: str = "",
) -> TrajectoryChunk:
    """An episode in one chunk, of a producer that numbers both alike."""
    steps = len(columns["reward"]) - 1
    return TrajectoryChunk(
        ChunkId(key.producer, key.incarnation, key.number + 1), key, source, 0, columns,
        schema.hash, EpisodeResult(key, source, outcome, steps, 0.0), robot, task,
    )  # fmt: skip


@dataclass
class Plan:
    """What an episode will be like."""

    steps: int = 10
    source: EpisodeSource = EpisodeSource.ONLINE
    terminated: bool = False
    final: bool = True
    humans: frozenset[int] = frozenset()

    @property
    def rows(self) -> int:
        return self.steps + self.final


@dataclass
class Actor:
    """Makes chunks as an outbox does: numbered without gaps, rows of one episode each."""

    number: int = 1
    incarnation: int = 1
    schema: TrajectorySchema = field(default_factory=lambda: SCHEMA)
    chunk_rows: int = 4
    sequence: int = 0
    episode: int = 0
    robot: str = "arm"

    @property
    def name(self) -> str:
        return f"actor{self.number}"

    def columns(self, episode: int, plan: Plan) -> dict[str, np.ndarray]:
        row = np.arange(plan.rows)
        step, last = row < plan.steps, (row == plan.steps - 1) & plan.final
        action = np.stack([np.full(plan.rows, episode), row], axis=1) * step[:, None]
        columns = {
            "observation.place": np.stack(
                [np.full(plan.rows, self.number), np.full(plan.rows, episode), row], axis=1
            ),
            "action": action,
            "proposed_action": (action - 1) * step[:, None],
            "reward": [reward_of(episode, r) if r < plan.steps else 0.0 for r in row.tolist()],
            "terminated": last & plan.terminated,
            "truncated": last & (not plan.terminated),
            "final": ~step,
            "acted_by": np.isin(row, list(plan.humans)) * int(ActedBy.HUMAN),
            "reward_source": np.zeros(plan.rows),
            "policy_version": step * episode,
            "stamp_ns": row,
            "action_stamp_ns": step * (row + 1),
        }
        columns["plan"] = np.stack([step * (1 + row // 3), step * (row % 3)], axis=1)
        if "observation.image_wrist" in self.schema.columns:
            spec = self.schema.columns["observation.image_wrist"]
            images = np.empty((plan.rows, *spec.shape), np.uint8)
            images[:] = pixel_of(self.number, episode, row)[:, None, None, None]
            columns["observation.image_wrist"] = images
        return {
            name: np.asarray(columns[name], spec.dtype)
            for name, spec in self.schema.columns.items()
        }

    def chunks(self, plan: Plan) -> list[TrajectoryChunk]:
        """The chunks of the next episode."""
        key = EpisodeKey(self.name, self.incarnation, self.episode)
        columns = self.columns(self.episode, plan)
        result = EpisodeResult(
            key,
            plan.source,
            Outcome.SUCCESS if plan.terminated else Outcome.TIMEOUT,
            plan.steps,
            sum(reward_of(self.episode, row) for row in range(plan.steps)),
            len(plan.humans),
        )
        found = []
        for start in range(0, plan.rows, self.chunk_rows):
            stop = min(start + self.chunk_rows, plan.rows)
            self.sequence += 1
            found.append(
                TrajectoryChunk(
                    ChunkId(self.name, self.incarnation, self.sequence),
                    key,
                    plan.source,
                    start,
                    {name: column[start:stop] for name, column in columns.items()},
                    self.schema.hash,
                    result if stop == plan.rows else None,
                    self.robot,
                    "reach",
                )
            )
        self.episode += 1
        return found

    def empty(self, like: TrajectoryChunk) -> TrajectoryChunk:
        """What takes the place of a chunk that was refused."""
        return replace(like, columns={n: c[:0] for n, c in like.columns.items()})


def fill(writer, actor: Actor, plans: list[Plan]) -> list[TrajectoryChunk]:
    """Append whole episodes and commit."""
    chunks = [chunk for plan in plans for chunk in actor.chunks(plan)]
    for chunk in chunks:
        answer = writer.append(chunk)
        assert answer.status == "staged", answer
    writer.commit()
    return chunks


def same_columns(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
        for name in one
    )


def joined(chunks) -> dict[EpisodeKey, dict[str, np.ndarray]]:
    """The columns of each episode, as a store should give them back."""
    parts: dict[EpisodeKey, list] = {}
    for chunk in chunks:
        parts.setdefault(chunk.episode, []).append(chunk.columns)
    return {
        key: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for key, found in parts.items()
    }


def assert_holds(reader, chunks) -> None:
    """The store holds exactly the rows of these chunks."""
    wanted = joined(chunks)
    found = {episode.key: episode for episode in reader.episodes()}
    assert found.keys() == wanted.keys()
    for key, columns in wanted.items():
        assert same_columns(reader.read_episode(found[key]), columns), key


def contents(path) -> dict[EpisodeKey, dict[str, np.ndarray]]:
    """The columns of each episode of which rows are in a store."""
    with closing(StoreReader(path)) as reader:
        return {e.key: reader.read_episode(e) for e in reader.episodes() if e.extents}


def assert_same(one, other) -> None:
    """Two :func:`contents` are the same."""
    assert one.keys() == other.keys()
    for key, columns in one.items():
        assert same_columns(columns, other[key]), key


def many_episodes(path, count: int) -> None:
    """A store of which the index says that it has this many episodes."""
    with StoreWriter(path, config=QUICK) as writer:
        fill(writer, Actor(), [Plan(6)])
    db = connect(path, writable=True)
    rows = []
    for n in range(1, count):
        result = EpisodeResult(
            EpisodeKey("actor1", 1, n), EpisodeSource.ONLINE,
            Outcome.SUCCESS if n % 3 else Outcome.FAILURE, 50, float(n), n % 7 == 0,
        )  # fmt: skip
        rows.append(
            ("actor1", 1, n, 0, "arm", "reach", 51, 0, 1, json.dumps(result_to_dict(result)), 1)
        )
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO episodes (producer, incarnation, number, source, robot, task, rows, gaps, ended,"
        " result, commit_id) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    db.execute("COMMIT")
    db.close()
