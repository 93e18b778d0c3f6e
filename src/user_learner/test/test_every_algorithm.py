"""What every shipped algorithm keeps: it goes on after kill -9 as if nothing had been, and NaN spoils nothing."""

import multiprocessing
import os
import sys
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

from user_core import plugins
from user_core.types import Batch
from user_learner.training.checkpoint import flatten
from user_testing.programs import training_run
from user_testing.programs.training_run import CASES, SPEC
from user_testing.worlds.batches import random_batch

PROGRAM = "user_testing.programs.training_run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store and a base, which nobody changes."""
    path = tmp_path_factory.mktemp("training")
    training_run.prepare(path)
    return path


@pytest.fixture(scope="module")
def processes():
    """Processes that are forked from one that has imported torch, once."""
    context, patch = multiprocessing.get_context("forkserver"), pytest.MonkeyPatch()
    context.set_forkserver_preload([PROGRAM])
    with patch.context() as here:
        here.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


def test_all_that_are_shipped_are_here():
    found = plugins.available("algorithms")
    assert {n for n, point in found.items() if point.value.startswith("user_learner.")} == set(
        CASES
    )


def train(processes, *arguments, **more) -> int:
    """The exit code of a training."""
    child = processes.Process(target=training_run.run, args=arguments, kwargs=more)
    child.start()
    child.join(60)
    try:
        assert child.exitcode is not None, "the training did not end"
    finally:
        child.kill()
    return child.exitcode


def end(folder: Path, run: str) -> dict[str, np.ndarray]:
    return dict(np.load(folder / run / "end.npz"))


@pytest.mark.parametrize("name", CASES)
def test_killed_in_the_middle_of_an_update_it_ends_as_if_it_had_not_been(folder, processes, name):
    """Same store, same draws: the state at the end is the same, bit by bit."""
    straight, broken = f"{name}_straight", f"{name}_broken"
    assert train(processes, name, str(folder), straight, 40) == 0
    assert train(processes, name, str(folder), broken, 40, killed_at=20) == -9
    assert not (folder / broken / "end.npz").exists()
    assert train(processes, name, str(folder), broken, 40) == 0
    assert 0 < int((folder / broken / "begun_at").read_text()) < 40  # it did go on
    one, other = end(folder, straight), end(folder, broken)
    assert one.keys() == other.keys()
    for key, array in one.items():
        np.testing.assert_array_equal(array, other[key], err_msg=f"{name}: {key}")


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
