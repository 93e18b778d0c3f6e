"""Every shipped algorithm, killed by SIGKILL in the middle of an update, goes on as if nothing had been."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

from user_testing.programs import training_run
from user_testing.programs.training_run import CASES

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


def train(processes, *arguments, **more) -> int:
    """The exit code of a training."""
    child = processes.Process(target=training_run.run, args=arguments, kwargs=more)
    child.start()
    child.join(150)
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
