"""The training loop in one process: ratio, versions, checkpoints, resuming, pausing, failing."""

import threading
import time

import numpy as np
import pytest

from user_core.errors import ConfigError, StoreError
from user_core.fakes import MemoryReplay, PolicyMailbox
from user_core.interfaces import Algorithm
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.reasons import ALL_UPDATES, LEARNER_SLOW, NO_DATA, UPDATE_SKIPPED
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch, PolicyVersion
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from user_learner.training import LearnerState, TrainingConfig, TrainingLoop, UtdConfig
from user_learner.training.loop import GO, STOP, WAIT, TrainingDiverged
from user_testing.waiting import wait_until

SPEC = RobotSpec("r", {"x": ArraySpec((2,))}, ArraySpec((1,), low=-1.0, high=1.0))
FREE = UtdConfig(target=None, learning_starts=0)


class FixedData:
    """Draws from data that never changes; its state is that of its generator."""

    def __init__(self, rows=500, seed=0):
        rng = np.random.default_rng(seed)
        self._x = rng.standard_normal((rows + 1, 2)).astype(np.float32)
        self._action = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
        self._rng = np.random.default_rng(seed + 1)

    def __len__(self):
        return len(self._action)

    def sample(self, batch_size):
        rows = self._rng.integers(0, len(self), batch_size)
        reward = -(self._action[rows, 0] ** 2)
        return Batch(
            {"x": self._x[rows]}, self._action[rows], reward, np.full(batch_size, 0.9),
            {"x": self._x[rows + 1]},
        )  # fmt: skip

    def state(self):
        return self._rng.bit_generator.state

    def load_state(self, state):
        self._rng.bit_generator.state = state


class Counting(Algorithm):
    """Counts its updates; ``delay_s`` makes it slow, ``bad_at`` makes it diverge."""

    def __init__(self, delay_s=0.0, bad_at=None, updates_per_call=1):
        self.count, self.delay_s, self.bad_at = 0, delay_s, bad_at
        self.updates_per_call = updates_per_call
        self.rows = []

    def update(self, batch):
        time.sleep(self.delay_s)
        self.count += 1
        self.rows.append(len(batch))
        return {"loss": np.nan if self.count == self.bad_at else 1.0 / self.count}

    def policy_arrays(self):
        return {"count": np.array([float(self.count)])}

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = int(state["count"])


def rlpd():
    policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,)), SPEC)
    config = RLPDConfig(critics=3, critic_hidden=(16,), critic_updates=2)
    return RLPD(config, SPEC, policy)


def make(directory, algorithm=None, source=None, sink=None, steps=lambda: 0, **settings):
    on_metrics = settings.pop("on_metrics", None)
    published, start_over = settings.pop("published", None), settings.pop("start_over", False)
    identity = settings.pop("identity", {"a": 1})
    settings = {"batch_size": 8, "utd": FREE, "publish_period_s": 0.0, **settings}
    return TrainingLoop(
        TrainingConfig(**settings),
        Counting() if algorithm is None else algorithm,
        FixedData() if source is None else source,
        PolicyMailbox() if sink is None else sink,
        environment_steps=steps,
        directory=directory,
        identity=identity,
        on_metrics=on_metrics,
        published=published,
        start_over=start_over,
    )


def in_thread(loop):
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    return thread


def finish(loop, thread):
    loop.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_it_trains_to_the_end_and_hands_out_what_was_learned(tmp_path):
    box, seen = PolicyMailbox(), []
    loop = make(tmp_path, sink=box, max_updates=50, metrics_period_s=0.001, on_metrics=seen.append)
    loop.run()
    version = box.newest(after=0)
    assert version.update == 50
    assert version.arrays["count"] == 50
    progress = loop.progress()
    assert progress.state is LearnerState.FINISHED
    assert progress.update == 50
    assert progress.checkpoint_update == 50
    assert progress.policy_version == version.number
    assert seen[-1].metrics["loss"] > 0
    assert seen[-1].updates_per_s > 0
    assert progress.warnings == ()
    assert progress.reason.code == ALL_UPDATES


def test_a_call_of_many_updates_gets_a_batch_for_each(tmp_path):
    algorithm = Counting(updates_per_call=5)
    loop = make(tmp_path, algorithm, max_updates=20)
    loop.run()
    assert algorithm.rows == [40] * 4
    assert loop.progress().update == 20


@pytest.mark.parametrize("prefetch", [0, 3])
def test_stopped_and_resumed_it_ends_bit_by_bit_where_it_would_have_ended(tmp_path, prefetch):
    straight = rlpd()
    make(tmp_path / "straight", straight, max_updates=40, prefetch=prefetch).run()
    for end in (10, 26, 40):  # three processes, one after the other
        broken = rlpd()
        loop = make(tmp_path / "broken", broken, max_updates=end, prefetch=prefetch)
        info = loop.restore()
        assert (info.update if info else 0) == {10: 0, 26: 10, 40: 26}[end]
        loop.run()
    for name in ("actor", "critics", "target", "log_temperature"):
        for key, array in straight.state()[name].items():
            np.testing.assert_array_equal(array, broken.state()[name][key])
    for name, array in straight.policy_arrays().items():
        np.testing.assert_array_equal(array, broken.policy_arrays()[name])


def test_version_numbers_go_up_also_from_an_old_checkpoint(tmp_path):
    box = PolicyMailbox()
    make(tmp_path, sink=box, max_updates=30).run()
    first = box.newest(after=0).number
    for path in (tmp_path / "checkpoints").iterdir():  # lost, but for versions that robots have
        path.unlink()
    loop = make(tmp_path, sink=box, max_updates=10)
    assert loop.restore() is None
    loop.run()
    assert box.newest(after=0).number > first
    assert box.newest(after=0).update == 10
    (tmp_path / "policy_version").unlink()  # and the other way round
    newest = box.newest(after=0).number
    loop = make(tmp_path, sink=box, max_updates=12)
    assert loop.restore().policy_version == newest
    loop.run()
    assert box.newest(after=0).number > newest


def test_the_ratio_is_kept_while_robots_move_and_when_they_stop(tmp_path):
    steps = [0]
    config = UtdConfig(target=2.0, learning_starts=50, ahead_steps=5)
    loop = make(tmp_path, utd=config, steps=lambda: steps[0])
    thread = in_thread(loop)
    try:
        wait_until(lambda: loop.progress().state is LearnerState.WAITING)
        assert loop.progress().update == 0
        for count in range(50, 250, 10):
            steps[0] = count
            wait_until(lambda wanted=2 * (count - 50): loop.progress().update >= wanted)
            assert loop.progress().update <= 2 * (count - 50 + 5)
        wait_until(lambda: loop.progress().state is LearnerState.LIMITED)
        progress = loop.progress()
        assert progress.utd_target == 2
        assert progress.utd_ratio == pytest.approx(2 * (240 - 50 + 5) / 240)
        assert progress.environment_steps == 240
    finally:
        finish(loop, thread)


def test_a_learner_too_slow_says_so(tmp_path):
    config = UtdConfig(target=10.0, learning_starts=0, behind_steps=10)
    steps = [1]
    loop = make(tmp_path, utd=config, steps=lambda: steps[0])
    thread = in_thread(loop)
    try:
        wait_until(lambda: loop.progress().update >= 10)
        steps[0] = 10_000
        wait_until(lambda: loop.progress().warnings)
        assert "slower than robots" in loop.progress().warnings[0].text
        assert loop.progress().warnings[0].code == LEARNER_SLOW
    finally:
        finish(loop, thread)


def test_it_waits_for_the_first_data_and_says_what_is_missing(tmp_path):
    replay = MemoryReplay()
    loop = make(tmp_path, source=replay)
    thread = in_thread(loop)
    try:
        wait_until(lambda: loop.progress().warnings)
        assert "empty memory" in loop.progress().warnings[0].text
        assert loop.progress().reason.code == NO_DATA
        assert loop.progress().state is LearnerState.WAITING
        wait_until(lambda: loop.progress().data_wait_share > 0.1)
    finally:
        finish(loop, thread)


def test_it_pauses_proceeds_and_stops_at_once(tmp_path):
    loop = make(tmp_path, Counting(delay_s=0.001))
    thread = in_thread(loop)
    try:
        wait_until(lambda: loop.progress().update > 5)
        loop.pause()
        wait_until(lambda: loop.progress().state is LearnerState.PAUSED)
        update = loop.progress().update
        time.sleep(0.05)
        assert loop.progress().update == update
        loop.proceed()
        wait_until(lambda: loop.progress().update > update + 5)
    finally:
        start_s = time.monotonic()
        finish(loop, thread)
    assert time.monotonic() - start_s < 20  # and not when it would save or report next
    assert loop.progress().checkpoint_update == loop.progress().update


def test_a_slow_sink_never_slows_training(tmp_path):
    release = threading.Event()

    class Stuck(PolicyMailbox):
        def publish(self, version):
            release.wait(60)
            super().publish(version)

    box = Stuck()
    loop = make(tmp_path, sink=box)
    thread = in_thread(loop)
    try:
        wait_until(lambda: loop.progress().update > 200)
        assert box.newest(after=0) is None
        release.set()
        wait_until(lambda: box.newest(after=0) is not None and box.newest(after=0).update > 200)
        assert box.newest(after=0).number < 50  # those in between were dropped
    finally:
        release.set()
        finish(loop, thread)


def test_a_learner_that_is_killed_again_and_again_gets_on(tmp_path):
    loop = make(tmp_path, checkpoint_period_s=1000.0)
    thread = in_thread(loop)
    try:
        wait_until(lambda: loop.progress().checkpoint_update > 0)  # long before its period
    finally:
        finish(loop, thread)


def test_a_disk_that_is_full_does_not_stop_training(tmp_path, monkeypatch):
    loop = make(tmp_path, checkpoint_period_s=0.0)

    def full(checkpoint):
        raise OSError(28, "No space left on device")

    write = loop.checkpoints.write
    monkeypatch.setattr(loop.checkpoints, "write", full)
    thread = in_thread(loop)
    try:
        wait_until(lambda: any("No space left" in one.text for one in loop.progress().warnings))
        before = loop.progress().update
        wait_until(lambda: loop.progress().update > before + 20)
        monkeypatch.setattr(loop.checkpoints, "write", write)
        wait_until(lambda: loop.progress().checkpoint_update > before)
        assert loop.progress().warnings == ()
    finally:
        finish(loop, thread)


def test_what_diverged_is_neither_kept_nor_published(tmp_path):
    box = PolicyMailbox()
    make(tmp_path, sink=box, max_updates=10).run()
    loop = make(tmp_path, Counting(bad_at=15), sink=box, publish_period_s=1000.0, skipped_updates=0)
    loop.restore()
    with pytest.raises(TrainingDiverged, match="update 15"):
        loop.run()
    assert box.newest(after=0).update == 10
    assert make(tmp_path).restore().update == 10


def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path):
    algorithm = Counting(bad_at=5)
    loop = make(tmp_path, algorithm, max_updates=20)
    loop.run()
    assert (algorithm.count, loop.skipped_updates) == (20, 1)
    (said,) = (one for one in loop.progress().warnings if one.code == UPDATE_SKIPPED)
    assert "update 5" in said.text and "loss" in said.text


def test_a_batch_of_nan_changes_no_weight_and_training_goes_on(tmp_path):
    class Poisoned(FixedData):
        def sample(self, batch_size):
            self.drawn += 1
            batch = super().sample(batch_size)
            if self.drawn in (7, 8):
                batch.reward[:] = np.nan
            return batch

        def __init__(self):
            super().__init__()
            self.drawn = 0

    loop = make(tmp_path, rlpd(), Poisoned(), max_updates=40)
    loop.run()
    assert loop.skipped_updates == 2
    assert all(np.isfinite(a).all() for a in loop.algorithm.policy_arrays().values())
    assert all(np.isfinite(value) for value in loop.progress().metrics.values())


def test_an_algorithm_that_fails_ends_the_loop_with_its_error(tmp_path):
    class Broken(Counting):
        def update(self, batch):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        make(tmp_path, Broken()).run()


def test_a_checkpoint_that_the_algorithm_refuses_is_set_aside(tmp_path):
    class Strict(Counting):
        def load_state(self, state):
            super().load_state(state)
            if self.count == 20:
                raise StoreError("state", got=20)

    make(tmp_path, max_updates=10).run()
    again = make(tmp_path, max_updates=20)
    again.restore()
    again.run()
    algorithm = Strict()
    loop = make(tmp_path, algorithm)
    assert loop.restore().update == 10
    assert algorithm.count == 10
    assert "set aside" in loop.progress().warnings[0].text


def test_a_run_of_another_configuration_is_refused_until_somebody_says_start_over(tmp_path):
    make(tmp_path, max_updates=10).run()
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):  # also the second time
        loop = make(tmp_path, identity={"a": 2})
        with pytest.raises(ConfigError, match="another configuration.*start_over"):
            loop.restore()
        loop.abandon()
        assert sorted(tmp_path.rglob("*")) == before
    loop = make(tmp_path, identity={"a": 2}, start_over=True)
    assert loop.restore() is None
    assert "another configuration" in loop.progress().warnings[0].text
    assert loop.progress().update == 0
    assert len(list((tmp_path / "checkpoints" / "refused").glob("*.safetensors"))) > 0


def test_a_run_none_of_whose_checkpoints_can_be_loaded_is_refused_and_left_as_it_is(tmp_path):
    class Other(Counting):
        def load_state(self, state):
            if "count" in state:
                raise KeyError("weights")

    make(tmp_path, max_updates=10).run()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="KeyError: 'weights'"):
        make(tmp_path, Other()).restore()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_policy_with_less_training_is_not_published_over_one_with_more(tmp_path):
    more = PolicyVersion(7, {"count": np.array([40.0])}, "", 40, 400, 1)
    box = PolicyMailbox()
    loop = make(tmp_path, sink=box, max_updates=60, publish_every_updates=7, published=more)
    seen, publish = [], box.publish
    box.publish = lambda version: (seen.append(version), publish(version))
    loop.run()
    assert seen[0].update == 40 and seen[0].arrays["count"] == 40
    updates = [version.update for version in seen]
    assert updates == sorted(updates) and updates[-1] == 60
    assert all(version.update >= 40 for version in seen[1:])


class Diverges(Counting):
    """Diverges when it gets to an update, for the first so many times."""

    def __init__(self, at, times):
        super().__init__()
        self.at, self.times = at, times

    def update(self, batch):
        metrics = super().update(batch)
        if self.count == self.at and self.times:
            self.times -= 1
            return {"loss": np.inf}
        return metrics


def test_a_training_that_diverges_goes_back_to_a_good_checkpoint_and_says_so(tmp_path):
    make(tmp_path, max_updates=10).run()
    box = PolicyMailbox()
    loop = make(
        tmp_path, Diverges(15, 2), sink=box, max_updates=30, checkpoint_period_s=1000.0,
        skipped_updates=0,
    )  # fmt: skip
    loop.restore()
    loop.run()
    assert box.newest(after=0).update == 30
    (warning,) = loop.progress().warnings
    assert warning.code == "training_diverged" and "went back to update 10" in warning.text


def test_a_training_that_diverges_again_and_again_is_given_up(tmp_path):
    make(tmp_path, max_updates=10).run()
    algorithm = Diverges(15, 100)
    loop = make(tmp_path, algorithm, checkpoint_period_s=1000.0, skipped_updates=0)
    loop.restore()
    with pytest.raises(TrainingDiverged, match="update 15"):
        loop.run()
    assert algorithm.times == 96


def test_a_batch_that_makes_training_diverge_is_named(tmp_path):
    class Rewards(FixedData):
        def sample(self, batch_size):
            batch = super().sample(batch_size)
            batch.reward[0] = 1e25
            return batch

    with pytest.raises(TrainingDiverged, match="holds a reward of 1e"):
        make(tmp_path, Diverges(3, 100), source=Rewards(), skipped_updates=0).run()


def test_a_state_that_is_not_finite_is_no_checkpoint(tmp_path):
    class Spoilt(Counting):
        def state(self):
            return {"count": self.count, "weights": np.array([1.0, np.nan])}

    loop = make(tmp_path, Spoilt(), max_updates=5)
    loop.run()
    assert any("not finite" in warning.text for warning in loop.progress().warnings)
    assert not list((tmp_path / "checkpoints").glob("*.safetensors"))


def test_the_temperature_is_bounded_and_that_is_said():
    policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,), log_std_max=-5.0), SPEC)
    config = RLPDConfig(
        critics=2, target_critics=2, critic_hidden=(16,), critic_updates=1,
        temperature_learning_rate=0.3, max_temperature=20.0,
    )  # fmt: skip
    algorithm, data = RLPD(config, SPEC, policy), FixedData()
    assert not algorithm.warnings()
    for _ in range(40):
        metrics = algorithm.update(data.sample(8))
        assert np.isfinite(list(metrics.values())).all()
        assert metrics["temperature"] <= 20.001
    (warning,) = algorithm.warnings()
    assert warning.code == "temperature_bound" and "20" in warning.text


def test_step_by_step_without_threads_of_its_own(tmp_path):
    """As the single-process example drives it."""
    steps = [0]
    config = UtdConfig(target=1.0, learning_starts=3, ahead_steps=0)
    loop = make(tmp_path, utd=config, steps=lambda: steps[0], prefetch=0, max_updates=6)
    made = []
    for count in range(12):
        steps[0] = count
        while (decision := loop.step()) == GO:
            made.append(count)
    assert made == [3, 4, 5, 6, 7, 8]
    assert decision == STOP
    steps[0] = 0
    assert make(tmp_path / "b", utd=config, steps=lambda: steps[0]).step() == WAIT
