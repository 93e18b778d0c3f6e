"""The writer beside a plain model, driven by hypothesis through every order of events."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from user_core.types import EpisodeSource
from user_learner.replay import ChunkStatus, StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_testing.worlds.replay import QUICK, Actor, Plan, joined, same_columns

SOURCES = [EpisodeSource.ONLINE, EpisodeSource.DEMONSTRATION]


class StoreMachine(RuleBasedStateMachine):
    """Three producers; chunks that come in order, again, early and refused; commits; restarts."""

    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="replay-model-"))
        self.actors = [Actor(number, chunk_rows=1 + 2 * number) for number in range(3)]
        self.made = [[] for _ in self.actors]  # chunks that each producer has cut so far
        self.staged = [0, 0, 0]  # how many of them the store must have staged
        self.committed = [0, 0, 0]
        self.early = [set(), set(), set()]

    @initialize(rows=st.sampled_from([1, 2**30]), reorder=st.sampled_from([0, 2**20]))
    def open(self, rows, reorder):
        self.config = QUICK.replace(segment_bytes=rows, reorder_bytes=reorder)
        self.writer = StoreWriter(self.path, config=self.config)
        self.reader = None

    def teardown(self):
        self.writer.close()
        if self.reader is not None:
            self.reader.close()
        report = verify(self.path)
        shutil.rmtree(self.path)
        assert report.ok, report.errors

    @rule(
        who=st.integers(0, 2),
        steps=st.integers(1, 9) | st.just(1500),
        source=st.sampled_from(SOURCES),
        terminated=st.booleans(),
        final=st.booleans(),
    )
    def record_an_episode(self, who, steps, source, terminated, final):
        if len(self.made[who]) < 2000:
            plan = Plan(steps, source, terminated, final)
            rows, self.actors[who].chunk_rows = self.actors[who].chunk_rows, max(1, steps // 3)
            self.made[who] += self.actors[who].chunks(plan)
            self.actors[who].chunk_rows = rows

    @rule(who=st.integers(0, 2), count=st.integers(1, 5))
    def send_what_is_next(self, who, count):
        for chunk in self.made[who][self.staged[who] : self.staged[who] + count]:
            if chunk.id.sequence <= self.staged[who]:
                continue  # it waited in the store, and went in with one before it
            answer = self.writer.append(chunk)
            assert answer.status is ChunkStatus.STAGED, answer
            before = self.staged[who]
            self.went_in(who)
            told = [staged.id.sequence for staged in answer.staged]
            assert told == list(range(before + 1, self.staged[who] + 1))

    def went_in(self, who):
        self.staged[who] += 1
        while self.config.reorder_bytes and self.staged[who] + 1 in self.early[who]:
            self.early[who].discard(self.staged[who] + 1)
            self.staged[who] += 1

    @rule(who=st.integers(0, 2), back=st.integers(1, 20))
    def send_again(self, who, back):
        if self.staged[who] > 0:
            number = max(0, self.staged[who] - back)
            answer = self.writer.append(self.made[who][number])
            assert answer.status is ChunkStatus.DUPLICATE
            assert answer.ack.sequence == self.committed[who]

    @rule(who=st.integers(0, 2), ahead=st.integers(1, 4))
    def send_early(self, who, ahead):
        number = self.staged[who] + ahead
        if number < len(self.made[who]):
            assert self.writer.append(self.made[who][number]).status is ChunkStatus.EARLY
            self.early[who].add(number + 1)

    @rule(who=st.integers(0, 2), kind=st.sampled_from(["row", "flags", "hash"]))
    def send_nonsense(self, who, kind):
        following = self.made[who][self.staged[who] : self.staged[who] + 1]
        for chunk in following:
            if kind == "row":
                chunk = replace(chunk, first_row=-5)
            elif kind == "hash":
                chunk = replace(chunk, schema_hash="")
            else:
                both = {"final": ~chunk.columns["final"], "terminated": chunk.columns["reward"] < 9}
                chunk = replace(chunk, columns={**chunk.columns, **both})
                if len(chunk) == 1 and not chunk.columns["final"][0]:
                    continue  # a last step whose final observation is yet to come: sense
            assert self.writer.append(chunk).status is ChunkStatus.REFUSED

    @rule()
    def commit(self):
        moved = {ack.producer: ack.sequence for ack in self.writer.commit()}
        expected = {
            actor.name: now
            for actor, now, before in zip(self.actors, self.staged, self.committed, strict=True)
            if now != before
        }
        assert moved == expected
        self.committed = list(self.staged)

    @precondition(lambda self: any(self.made))
    @rule(lost=st.booleans())
    def restart(self, lost):
        if not lost:
            self.commit()
        self.writer.close()  # what was staged only is forgotten, as after a crash
        self.staged = list(self.committed)
        self.early = [set(), set(), set()]
        self.writer = StoreWriter(self.path, config=self.config)
        assert self.writer.warnings == []

    @rule()
    def the_index_is_lost(self):
        if not any(self.committed):
            return
        self.writer.close()
        for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
            (self.path / name).unlink(missing_ok=True)
        self.writer = StoreWriter(self.path, config=self.config)
        held = {ack.producer: ack.sequence for ack in self.writer.acknowledged()}
        for who, actor in enumerate(self.actors):
            # what was written but not committed may have come back too
            assert self.committed[who] <= held.get(actor.name, 0) <= self.staged[who]
            self.committed[who] = self.staged[who] = held.get(actor.name, 0)
        self.early = [set(), set(), set()]

    @invariant()
    def a_reader_sees_what_is_committed(self):
        if not hasattr(self, "writer"):
            return
        if self.reader is None:
            self.reader = StoreReader(self.path)
        self.reader.refresh()
        wanted = joined(
            chunk for made, count in zip(self.made, self.committed, strict=True)
            for chunk in made[:count]
        )  # fmt: skip
        found = {episode.key: episode for episode in self.reader.episodes()}
        assert found.keys() == wanted.keys()
        for key, columns in wanted.items():
            assert same_columns(self.reader.read_episode(found[key]), columns)
        rows = sum(len(columns["reward"]) for columns in wanted.values())
        assert self.reader.tables.extents[:, 5].sum() == rows
        finals = sum(int(columns["final"].sum()) for columns in wanted.values())
        assert sum(self.reader.meta.steps.values()) == rows - finals


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, print_blob=True
)
TestStoreMachine = StoreMachine.TestCase
