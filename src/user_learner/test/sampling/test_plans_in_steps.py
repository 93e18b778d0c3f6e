"""Which plan, and which of its rows, in each stored step; stores and outboxes from before have none."""

from contextlib import closing

import numpy as np
import pytest

from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Step, TrajectorySchema
from user_learner.replay import ChunkStatus, StoreReader, StoreWriter
from user_learner.replay.layout import RowLayout
from user_learner.sampling import ReplaySource
from user_learner.sampling.config import History
from user_testing.worlds.replay import QUICK, SCHEMA, SPEC, STILL, Actor, Plan, fill

WITH = TrajectorySchema.of(SPEC, plans=True)


def read(path):
    with closing(StoreReader(path)) as reader:
        return [reader.read_episode(episode) for episode in reader.episodes()]


def test_plans_are_stored_and_do_not_count_in_what_schemas_are_compared_by():
    assert WITH.hash == SCHEMA.hash and WITH.required.columns == SCHEMA.columns
    spec = RobotSpec("r", {"x": ArraySpec((1,))}, ArraySpec((1,)))
    one = np.zeros(1, np.float32)
    rows = TrajectorySchema.of(spec, plans=True).rows(
        [Step({"x": one}, one, one, 0.0, plan=4, plan_row=2)]
    )
    assert rows["plan"].tolist() == [[4, 2]]
    small, large = RowLayout(SCHEMA), RowLayout(WITH)
    assert [f.dtype for f in small.files] == [f.dtype for f in large.files if f.name != "plan"]


@pytest.mark.parametrize("first_has_plans", [True, False])
def test_chunks_with_and_without_plans_fit_one_store(tmp_path, first_has_plans):
    actors = [Actor(1, schema=WITH), Actor(2, schema=SCHEMA)]
    if not first_has_plans:
        actors.reverse()
    with StoreWriter(tmp_path, config=QUICK) as writer:
        for actor in actors:
            fill(writer, actor, [Plan(5)])
        assert ("plan" in writer.schema.columns) is first_has_plans
    for number, episode in enumerate(read(tmp_path)):
        assert ("plan" in episode) is first_has_plans
        if first_has_plans:
            wanted = [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [0, 0]]
            assert episode["plan"].tolist() == (wanted if number == 0 else [[0, 0]] * 6)


def test_stores_with_and_without_plans_are_sampled_together(tmp_path):
    for name, schema in (("new", WITH), ("old", SCHEMA)):
        with StoreWriter(tmp_path / name, config=QUICK) as writer:
            fill(writer, Actor(1 + (name == "old"), schema=schema), [Plan(20)])
    for live, older in (("new", "old"), ("old", "new")):
        history = [History(path=str(tmp_path / older))]
        with ReplaySource(tmp_path / live, STILL, history) as source:
            batch = source.sample(256)
            assert set(batch.observation["place"][:, 0].tolist()) == {1, 2}
            assert (batch.action[:, 1] == batch.observation["place"][:, 2]).all()


def test_a_column_of_that_name_with_something_else_is_refused(tmp_path):
    odd = TrajectorySchema({**SCHEMA.columns, "plan": ArraySpec((2,), "float32")})
    with StoreWriter(tmp_path, config=QUICK) as writer:
        result = writer.append(Actor(1, schema=odd).chunks(Plan(3))[0])
        assert result.status is ChunkStatus.REFUSED and "column 'plan'" in result.ack.error
