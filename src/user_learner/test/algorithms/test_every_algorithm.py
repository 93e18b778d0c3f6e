"""What every shipped algorithm keeps: NaN in a batch is told and spoils nothing. That kill -9 loses nothing is in
system/."""

from dataclasses import replace

import numpy as np
import pytest

from user_core import plugins
from user_core.codecs.states import flatten
from user_core.types import Batch
from user_testing.programs import training_run
from user_testing.programs.training_run import CASES, SPEC
from user_testing.worlds.batches import random_batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store and a base, which nobody changes."""
    path = tmp_path_factory.mktemp("training")
    training_run.prepare(path)
    return path


def test_all_that_are_shipped_are_here():
    found = plugins.available("algorithms")
    shipped = {n for n, point in found.items() if point.value.startswith("user_learner.")}
    assert shipped == {name.partition(" ")[0] for name in CASES}


def made(folder, name):
    config = training_run.config_of(name, folder, "none", 0)
    policy = config.policy.build("policies", SPEC, path="policy")
    return config.algorithm.build("algorithms", SPEC, policy, path="algorithm"), config


def batch_of(algorithm, config, seed, spoilt=False) -> Batch:
    rows, window = 8 * algorithm.updates_per_call, config.sampler.window
    batch = random_batch(SPEC, rows, np.random.default_rng(seed))
    action, reward, discount = batch.action, batch.reward, batch.discount
    if window:
        action = np.repeat(action[:, None], window, 1)
        reward, discount = (np.repeat(a[:, None], window, 1) for a in (reward, discount))
    if spoilt:
        action, reward = action.copy(), reward.copy()
        action[0], reward[0] = np.nan, np.nan
    extras = {"policy_version": np.ones(rows, np.int64)}
    return replace(batch, action=action, reward=reward, discount=discount, extras=extras)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_with_nan_is_told_and_spoils_nothing(folder, name):
    algorithm, config = made(folder, name)
    algorithm.published(1, algorithm.policy_arrays())
    for seed in range(3):
        algorithm.update(batch_of(algorithm, config, seed))
    metrics = algorithm.update(batch_of(algorithm, config, 3, spoilt=True))
    assert not np.isfinite(list(metrics.values())).all()  # so that the loop counts it
    arrays, _ = flatten(algorithm.state())
    assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")
    for seed in range(4, 40):  # also where actors learn only after a while
        metrics = algorithm.update(batch_of(algorithm, config, seed))
        assert np.isfinite(list(metrics.values())).all()
    assert all(np.isfinite(array).all() for array in algorithm.policy_arrays().values())
