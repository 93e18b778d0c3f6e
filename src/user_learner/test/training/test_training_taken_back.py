"""Training goes back to the checkpoint of the last good version when the policy that it makes really fails."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.reasons import POLICY_RETURNED
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch, EpisodeKey, EpisodeResult, EpisodeSource, Outcome
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_learner.training import TrainingConfig, TrainingLoop, UtdConfig
from user_learner.training import loop as training_loop
from user_learner.training.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    CheckpointStore,
    hash_of_file,
)
from user_learner.training.config import GuardConfig
from user_learner.training.guard import GuardedSink
from user_testing.waiting import wait_until

SPEC = RobotSpec(
    "point", {"x": ArraySpec((1,), low=-1.0, high=1.0)}, ArraySpec((1,), low=-1.0, high=1.0)
)
GUARD = GuardConfig(episodes=5, hold_updates=50, restores_training=True)


class Shown:
    """A person shows the way to 0; with ``spoilt`` away from it."""

    def __init__(self):
        self.spoilt, self._rng = False, np.random.default_rng(0)

    def __len__(self):
        return 1000

    def sample(self, batch_size):
        x = self._rng.uniform(-1, 1, (batch_size, 1)).astype(np.float32)
        action = 0.8 * x if self.spoilt else -0.8 * x
        zeros = np.zeros(batch_size, np.float32)
        return Batch({"x": x}, action, zeros, zeros, {"x": x})


class Robots:
    """Act with what was published last."""

    def __init__(self):
        self.newest, self.policy, self._rng = None, policy(), np.random.default_rng(1)
        self._there = threading.Event()

    def publish(self, version):
        self.newest = version
        self._there.set()

    def episode(self):
        assert self._there.wait(20)
        version = self.newest
        self.policy.load(version.arrays)
        x = self._rng.choice([-1.0, 1.0]) * self._rng.uniform(0.5, 1.0)
        for _ in range(12):
            seen = {"x": np.array([x], np.float32)}
            x = float(
                np.clip(x + 0.5 * self.policy.act(seen, deterministic=True).reshape(-1)[0], -1, 1)
            )
        outcome = Outcome.SUCCESS if abs(x) < 0.2 else Outcome.TIMEOUT
        return EpisodeResult(
            EpisodeKey("robot", 1, 0), EpisodeSource.ONLINE, outcome, 12, 0.0,
            first_version=version.number, last_version=version.number,
        )  # fmt: skip


def policy():
    return TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,)), SPEC)


class Run:
    """A learner with its guard, in a directory, as the learner node puts them together."""

    def __init__(self, directory, source=None, guard=GUARD):
        self.robots, self.source = Robots(), source or Shown()
        self.guard = GuardedSink(guard, self.robots, directory, lambda: self.loop.keep_now())
        self.algorithm = BC(BCConfig(learning_rate=3e-3, loss="squared_error"), SPEC, policy())
        self.loop = TrainingLoop(
            TrainingConfig(
                batch_size=32, utd=UtdConfig(target=None, learning_starts=0), publish_period_s=0.0,
                publish_every_updates=10, checkpoint_period_s=0.0, checkpoint_every_updates=10,
            ),
            self.algorithm, self.source, self.guard,
            environment_steps=lambda: 0, directory=directory, identity={"a": 1},
        )  # fmt: skip
        self.resumed = self.loop.restore()
        if guard.restores_training:
            self.guard.takes_back(self.loop)
        self.thread = threading.Thread(target=self.loop.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.loop.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def is_good(self):
        """Whether a version was found good that succeeds."""
        state = self.guard.guard.state
        return state.good and state.before.success > 0.9

    def act_until(self, condition):
        def acted():
            self.guard.take(self.robots.episode())
            return condition()

        wait_until(acted, "the guard says so")


def events(directory, name):
    path = directory / "guard.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["event"] == name]


def test_training_goes_back_with_the_policy_and_learns_on_from_there(tmp_path):
    with Run(tmp_path) as run:
        run.act_until(run.is_good)
        run.source.spoilt = True
        run.act_until(lambda: events(tmp_path, "training"))
        run.source.spoilt = False
        (back,) = events(tmp_path, "training")
        good = max(line["update"] for line in events(tmp_path, "good"))
        assert back["update"] <= good, "a checkpoint of then, or right before"
        assert "succeeded without help" in back["why"]
        (reason,) = run.guard.reasons() or run.guard.reasons()
        assert reason.code == POLICY_RETURNED
        assert f"training went back to update {back['update']}" in reason.text
        run.act_until(lambda: events(tmp_path, "released"))
        released = events(tmp_path, "released")[0]["update"]
        assert released >= back["update"] + 50, "withheld from where training has gone back to"
        run.act_until(lambda: run.guard.guard.state.window.successes >= 4)
    assert len(events(tmp_path, "returned")) == 1
    aside = list((tmp_path / "checkpoints" / "refused").glob("*.reason.txt"))
    assert aside and "the policy got worse" in aside[0].read_text()


def test_a_learner_that_is_killed_before_training_has_gone_back_does_it_when_it_is_there_again(
    tmp_path,
):
    with Run(tmp_path) as run:
        run.act_until(run.is_good)
        asked = threading.Event()
        run.loop.return_to_good = lambda why, done: asked.set()  # killed before it is done
        run.source.spoilt = True
        run.act_until(asked.is_set)
    good = max(line["update"] for line in events(tmp_path, "good"))
    again = Run(tmp_path)
    assert again.resumed.update > good, "the newest checkpoint is of the spoilt training"
    with again:
        wait_until(lambda: events(tmp_path, "training"), "training has gone back")
    (back,) = events(tmp_path, "training")
    assert back["update"] <= good
    third = Run(tmp_path)
    assert not third.guard.guard.state.training, "it is not done twice"
    third.loop.abandon()


def test_where_no_checkpoint_of_a_good_version_is_left_training_goes_on_and_says_so(tmp_path):
    run = Run(tmp_path)
    run.loop.keep_good = lambda update: None
    with run:
        run.act_until(run.is_good)
        run.source.spoilt = True
        run.act_until(lambda: events(tmp_path, "training_stays"))
        wait_until(lambda: events(tmp_path, "returned"), "the policy has come back nevertheless")


def test_without_the_setting_training_goes_on_from_where_it_is(tmp_path):
    with Run(tmp_path, guard=GUARD.replace(restores_training=False)) as run:
        run.act_until(run.is_good)
        run.source.spoilt = True
        run.act_until(lambda: events(tmp_path, "returned"))
    assert not events(tmp_path, "training") and not run.guard.guard.state.training
    assert not (tmp_path / "checkpoints" / "refused").exists()


def written(store, *updates):
    for update in updates:
        state = {"w": np.full(2, update, np.float32)}
        store.write(Checkpoint(CheckpointInfo(update, 0, 0, 0), state))


def test_shards_go_with_the_last_checkpoint_that_names_them(tmp_path):
    store = CheckpointStore(tmp_path, {"a": 1}, keep=1)

    def write(update, number):
        checkpoint = Checkpoint(CheckpointInfo(update, 0, 0, 0), {})
        folder = f"{checkpoint.name}.{number}.shards"
        (tmp_path / folder).mkdir()
        state = {"w": np.ones(2, np.float32), "shards": {"folder": folder, "files": {}}}
        store.write(replace(checkpoint, state=state))

    def there():
        parts = [path.name.split(".") for path in tmp_path.glob("checkpoint-*.shards")]
        return sorted((int(name[11:]), int(number)) for name, _, number, _ in parts)

    for update in (10, 20):
        write(update, 1)
        assert store.keep_good(update) == update
    write(30, 1)
    assert there() == [(20, 1), (30, 1)], "of the good one and of the newest"
    assert store.return_to_good("it fell").info.update == 20
    write(20, 2)  # what a person asks for before the next update
    store.drop_leftovers()
    assert there() == [(20, 1), (20, 2)]
    assert (tmp_path / store.return_to_good("again").folder).is_dir()
    write(40, 1)
    assert store.keep_good(40) == 40
    assert there() == [(40, 1)]


def test_a_checkpoint_that_is_still_being_written_does_not_become_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "_FLUSH_S", 0.01)
    run = Run(tmp_path)
    run.loop._take_checkpoint()
    run.loop._keeper.flush()
    run.loop.keep_good(0)
    begun, go_on, write = threading.Event(), threading.Event(), run.loop.checkpoints.write

    def slow(checkpoint):
        begun.set()
        assert go_on.wait(60)
        return write(checkpoint)

    monkeypatch.setattr(run.loop.checkpoints, "write", slow)
    run.loop._update = 50
    run.loop._take_checkpoint()
    assert begun.wait(20)
    run.loop.return_to_good("it fell")
    threading.Timer(0.05, go_on.set).start()
    run.loop._take_back()
    run.loop._keeper.flush()
    assert run.loop.checkpoints.newest().info.update == 0
    run.loop.abandon()


def test_shards_of_the_good_checkpoint_stay_when_training_diverges_after_it(tmp_path):
    store = CheckpointStore(tmp_path, {"a": 1})
    for update in (10, 20, 30):
        checkpoint = Checkpoint(CheckpointInfo(update, 0, 0, 0), {})
        folder = f"{checkpoint.name}.1.shards"
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part").write_text("weights")
        files = {"part": hash_of_file(tmp_path / folder / "part")}
        store.write(replace(checkpoint, state={"shards": {"folder": folder, "files": files}}))
    assert store.keep_good(20) == 20
    assert store.go_back("not finite", 3).info.update == 10
    aside = [path.name for path in (tmp_path / "refused").glob("*.shards")]
    assert aside == ["checkpoint-000000000030.safetensors.1.shards"]
    assert store.return_to_good("it fell").info.update == 20


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoint_that_is_kept_as_good_outlives_the_newest(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(
            "os.link", lambda *paths: (_ for _ in ()).throw(OSError("no links here"))
        )
    store = CheckpointStore(tmp_path, {"a": 1}, keep=2)
    assert store.keep_good(5) is None and store.return_to_good("bad") is None
    written(store, 10, 20)
    assert store.keep_good(5) == 10, "all are newer: the oldest"
    assert store.keep_good(25) == 20, "the newest of those before"
    written(store, 30, 40, 50)
    assert store.keep_good(15) == 20, "what is kept is better than all that are there"
    assert store.return_to_good("it fell").info.update == 20
    assert store.newest().info.update == 20, "also after another kill"
    assert sorted(path.name[-16:-12] for path in (tmp_path / "refused").glob("*.safetensors")) == [
        "0040",
        "0050",
    ]
    store.forget_good()
    assert store.return_to_good("again") is None
