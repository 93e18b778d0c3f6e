"""One flow policy that learns two tasks from one store, told apart by their instructions alone."""

import numpy as np
import pytest

from user_core import plugins
from user_core.fakes import PolicyMailbox
from user_core.policies.language import sentence
from user_core.policies.language.config import INSTRUCTION_SIZE, TASK
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeKey,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    Task,
    TrajectorySchema,
)
from user_learner.learner import LearnerConfig, open_learner
from user_learner.replay import StoreWriter
from user_learner.sampling import ReplaySource
from user_testing.worlds.replay import QUICK, STILL, whole_episode

SPEC = RobotSpec("r", {"x": ArraySpec((2,), low=-1, high=1)}, ArraySpec((1,), low=-1.0, high=1.0))
TASKS = {"left": "go to the left", "right": "go to the right"}
POLICY = {"rows": 2, "steps": 2, "hidden": [32, 32], "language": {"tasks": TASKS}}


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Embeddings without the model: one direction for each sentence."""

    def embeddings(sentences, weights=""):
        found = np.zeros((len(sentences), INSTRUCTION_SIZE), np.float32)
        for row, text in enumerate(sentences):
            found[row, sum(text.encode()) % INSTRUCTION_SIZE] = 1.0
        return found

    monkeypatch.setattr(sentence, "embeddings", embeddings)


@pytest.fixture
def store(tmp_path):
    """Episodes of both tasks, and of a third, that look alike: -0.6 is left, 0.6 right, 0 the third."""
    schema, rng = TrajectorySchema.of(SPEC), np.random.default_rng(0)
    path = tmp_path / "store"
    with StoreWriter(path, config=QUICK) as writer:
        for number in range(30):
            task, move = [("left", -0.6), ("right", 0.6), ("other", 0.0)][number % 3]
            seen = rng.uniform(-1, 1, (9, 2)).astype(np.float32)
            action = np.array([move], np.float32)
            steps = [Step({"x": one}, action, action, 0.0) for one in seen[:-1]]
            steps[-1] = Step({"x": seen[-2]}, action, action, 0.0, truncated=True)
            key = EpisodeKey("a", 1, number)
            columns = schema.rows([*steps, FinalObservation({"x": seen[-1]})])
            shown = EpisodeSource.DEMONSTRATION
            writer.append(whole_episode(key, schema, columns, Outcome.SUCCESS, shown, "r", task))
        writer.commit()
    return path


def test_batches_say_which_task_each_step_is_of(store):
    with ReplaySource(store, STILL, tasks=("left", "right")) as source:
        for _ in range(3):
            batch = source.sample(128)
            wanted = np.select([batch.action[:, 0] < 0, batch.action[:, 0] > 0], [0, 1], 2)
            for seen in (batch.observation, batch.next_observation):
                assert (seen[TASK] == wanted).all()
    with ReplaySource(store, STILL) as source:
        assert TASK not in source.sample(8).observation


def test_a_task_that_is_called_otherwise_in_the_data_is_warned_of(store):
    """Misspelt, its words would teach nothing, and nobody would see it."""
    for tasks, warned in (
        (("left", "right"), False), (("left", "right", "other", "later"), False), ((), False),
        (("left", "rihgt"), True),
    ):  # fmt: skip
        with ReplaySource(store, STILL, tasks=tasks) as source:
            said = [reason.text for reason in source.reasons() if reason.code == "tasks_untold"]
            assert bool(said) == warned
    assert "'rihgt' has no episode, and episodes of task 'right', 'other'" in said[0]


def test_one_policy_does_what_it_is_told(store, tmp_path):
    config = LearnerConfig(
        directory=tmp_path / "run", store=store, tensorboard=False,
        algorithm={"plugin": "bc", "params": {"learning_rate": 3e-3}},
        policy={"plugin": "flow", "params": POLICY},
        sampler={
            "window": 2, "pad_windows": True, "strata": [{"sources": ["demonstration"]}],
            "refresh_period_s": 0,
        },
        training={
            "batch_size": 64, "max_updates": 500, "utd": {"target": None, "learning_starts": 0}
        },
    )  # fmt: skip
    box = PolicyMailbox()
    with open_learner(config, SPEC, box) as loop:
        loop.run()
    policy = plugins.build("policies", "flow", POLICY, SPEC)
    policy.load(box.newest(0).arrays)
    found = {}
    for name in ("left", "right", "other"):
        policy.reset(Task(name))
        starts = np.random.default_rng(1).uniform(-1, 1, (20, 2)).astype(np.float32)
        moves = [policy.act({"x": x}, deterministic=True)[:, 0].mean() for x in starts]
        found[name] = float(np.mean(moves))
    assert found == pytest.approx({"left": -0.6, "right": 0.6, "other": 0.0}, abs=0.15)
