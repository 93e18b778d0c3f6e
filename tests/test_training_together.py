"""Several learner processes train as one would, stop together, and begin again together."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from user_core.codecs.states import flatten, unflatten
from user_core.codecs.weights import read_arrays
from user_core.errors import ConfigError, RankFailed, RankLost, SuiteError
from user_core.fakes import PolicyMailbox
from user_core.plugins import PluginChoice
from user_learner.learner import LearnerConfig, open_learner
from user_learner.ranks import Ranks
from user_learner.ranks import meeting as ranks_meeting
from user_learner.training.checkpoint import CHECKPOINTS
from user_testing.ports import free_endpoint
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.deployment import DeploymentRun
from user_testing.worlds.together import (
    SPEC,
    argument_files,
    learner_config,
    little_store,
    train,
)


def followers_of(first: psutil.Process) -> list[psutil.Process]:
    """The other ranks that a process has started, among all that it may have started."""
    found = []
    for child in first.children():
        with contextlib.suppress(psutil.Error):  # a zombie, or gone meanwhile: one of another test
            found += [child] * ("user_learner.ranks.follow" in child.cmdline())
    return found


def test_two_processes_on_different_data_keep_the_same_weights(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "user_testing.programs.together", str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    one, other = (dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in (0, 1))
    assert one.pop("update") == other.pop("update") >= 30  # one asked to stop, both did
    own, others = one.pop("sample"), other.pop("sample")
    assert not np.array_equal(own, others)
    assert len(one) > 5
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    # Only the first keeps checkpoints and publishes.
    assert len(list((tmp_path / "run0" / "checkpoints").glob("*.safetensors"))) == 1
    assert not list((tmp_path / "run1" / "checkpoints").glob("*.safetensors"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return little_store(tmp_path)


#: By name: algorithm, policy, sampler.
KINDS: dict[str, dict[str, Any]] = {
    "bc": {
        "algorithm": {"plugin": "user_testing.programs.whole_noise:WholeBC"},
        "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [16]}},
    },
    "flow": {
        "algorithm": {"plugin": "user_testing.programs.whole_noise:WholeBC"},
        "policy": {
            "plugin": "flow",
            "params": {
                "rows": 4,
                "hidden": [32],
                "backbone": "mlp",
                "ignored_observations": ["image"],
            },
        },
        "sampler": {"window": 4, "pad_windows": True},
    },
    "rlpd": {
        "algorithm": {
            "plugin": "user_testing.programs.whole_noise:WholeRLPD",
            "params": {"critics": 4, "critic_updates": 3, "critic_hidden": [16]},
        },
        "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [16]}},
    },
}


def learner(folder: Path, store: Path, kind: str = "bc", **more: Any) -> LearnerConfig:
    return learner_config(folder, store, **{**KINDS[kind], **more})


def trained(config: LearnerConfig, other: LearnerConfig | None = None) -> dict[str, Any]:
    """The arrays of the last checkpoint, after a training to its end. ``other``: what all but the first are told."""
    train(config, other)
    return arrays_of(newest_checkpoint(config))


def newest_checkpoint(config: LearnerConfig) -> dict[str, Any]:
    """The state in the newest one."""
    *_, file = sorted((config.directory / CHECKPOINTS).glob("*.safetensors"))
    arrays, metadata = read_arrays(file)
    content = json.loads(metadata["content"])
    assert content["info"]["update"] >= 30
    state: dict[str, Any] = unflatten(arrays, content["state"])
    return state


def arrays_of(state: dict[str, Any]) -> dict[str, Any]:
    """By their paths, and the state of the sampler as text."""
    arrays, rest = flatten(state)
    return {**arrays, "": json.dumps(rest["source"])}


def alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    """To rounding; the sampler's state, generators and counts exactly."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        if isinstance(array, str) or array.dtype.kind != "f":
            assert np.array_equal(array, two[name]), name
        else:
            np.testing.assert_allclose(array, two[name], rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["flow", "rlpd"])
def test_a_rank_on_a_host_without_the_store_gets_its_part_from_the_first(kind, tmp_path, store):
    one = trained(learner(tmp_path / "one", store, kind))
    config = learner(tmp_path / "two", store, kind, ranks=2)
    alike(one, trained(config, config.replace(store=tmp_path / "not_here")))


@pytest.mark.parametrize("kind", list(KINDS))
def test_two_ranks_train_as_one_with_the_whole_batch(kind, tmp_path, store):
    one = trained(learner(tmp_path / "one", store, kind))
    alike(one, trained(learner(tmp_path / "two", store, kind, ranks=2)))


def test_two_ranks_go_on_from_another_training(tmp_path, store):
    """All know that its updates are no debt, and after a restart nobody looks for it any more."""
    before = learner(tmp_path / "one", store)
    trained(before)
    limits = {"utd": {"target": 0.1, "learning_starts": 0}}
    config = learner(
        tmp_path / "two", store, ranks=2, start_from=str(before.directory),
        training={"max_updates": 35, **limits},
    )  # fmt: skip
    trained(config)
    shutil.rmtree(before.directory)
    trained(config.replace(training=config.training.replace(max_updates=38)))
    assert sorted((config.directory / CHECKPOINTS).glob("*38.safetensors"))


def test_under_torchrun_they_find_their_places(tmp_path, store):
    one, two = learner(tmp_path / "one", store), learner(tmp_path / "two", store)
    files = argument_files(tmp_path, two)
    words = ["--standalone", "--nproc-per-node", "2", "-m", "user_testing.programs.ranks"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, *files],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone, together = trained(one), arrays_of(newest_checkpoint(two))
    for name, array in alone.items():
        if not isinstance(array, str) and array.dtype.kind == "f":
            np.testing.assert_allclose(array, together[name], rtol=2e-3, atol=2e-5, err_msg=name)


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(tmp_path, store):
    with pytest.raises(ConfigError, match=r"batch_size.*17.*multiple of the 2 processes"):
        trained(learner(tmp_path, store, ranks=2, training={"batch_size": 17}))


def test_more_gpus_than_there_are_is_refused_before_anything_starts(tmp_path, store):
    with pytest.raises(ConfigError, match=r"gpus.*64.*expected (at most|0, which)"):
        trained(learner(tmp_path, store, gpus=64))


def test_a_rank_on_another_software_is_refused(tmp_path, store, monkeypatch):
    mine = ranks_meeting.software()
    monkeypatch.setattr(ranks_meeting, "software", lambda: {**mine, "user_learner": "0.0.1"})
    with pytest.raises(ConfigError, match=r"software of rank 1 of 2.*user_learner 0.0.1"):
        trained(learner(tmp_path, store, ranks=2))


def test_an_algorithm_that_learns_in_one_process_only_is_refused_in_several(tmp_path, store):
    more = {"ranks": 2, "algorithm": {"plugin": "async_ppo"}}
    with pytest.raises(ConfigError, match="async_ppo in several processes"):
        trained(learner(tmp_path, store, "rlpd", **more))


def test_the_end_of_a_rank_is_told_and_ends_the_others(tmp_path, store):
    lost: list[SuiteError] = []
    found = threading.Event()

    def note(error: SuiteError) -> None:
        lost.append(error)
        found.set()

    config = learner(tmp_path, store, ranks=2, training={"max_updates": None})
    ranks = Ranks(config, SPEC, note)
    with (  # noqa: PT012 - which error of torch comes depends on where it was
        pytest.raises((RuntimeError, SuiteError)) as caught,
        ranks,
        open_learner(ranks.config, SPEC, PolicyMailbox()) as loop,
    ):
        (follower,) = followers_of(psutil.Process())

        def kill() -> None:
            wait_until(lambda: loop.progress().update > 5, "updates")
            follower.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        loop.run()
    killer.join()
    assert found.wait(60)
    (error,) = lost
    assert isinstance(error, RankLost), error
    assert "rank 1 of 2 was ended by SIGKILL" in str(error)
    assert ranks.why_ended(caught.value) is error
    assert not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE


def test_a_rank_that_fails_by_itself_says_why(tmp_path, store):
    config = learner(tmp_path, store, ranks=2)
    ranks = Ranks(config, SPEC, lambda error: None)
    ranks._asked = config.replace(policy=PluginChoice(plugin="there_is_none"))
    with (  # noqa: PT012
        pytest.raises((RuntimeError, SuiteError)) as caught,
        ranks,
        open_learner(ranks.config, SPEC, PolicyMailbox()) as loop,
    ):
        loop.run()
    error = ranks.why_ended(caught.value)
    assert isinstance(error, RankFailed)
    assert "there_is_none" in str(error)


@pytest.mark.timeout(300)
def test_a_deployment_whose_rank_is_killed_goes_on_by_itself(tmp_path, start_process, ros_domain):
    """Robots go on, the learner comes back as a whole and trains from its newest checkpoint."""
    words = [
        "user", "up", "sim_single", "speed:=2.0", "algorithm:=rlpd_light", "learner.ranks:=2",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path), "--run", "r", "--no-table",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
    run = DeploymentRun(tmp_path / "r", process)
    run.until(lambda: run.number("policy_version") >= 2, "the ranks train")
    run.until(lambda: list((run.folder / "learner/checkpoints").glob("*")), "a checkpoint")
    first = psutil.Process(run.pid("learner"))
    (follower,) = followers_of(first)
    steps, update = run.number("stored_steps"), run.number("update")
    follower.send_signal(signal.SIGKILL)
    run.until(lambda: run.pid("learner") not in (0, first.pid), "the learner begins again")
    run.until(lambda: run.number("update") > update, "it has got further than it was")
    assert run.number("stored_steps") > steps
    left = psutil.Process(run.pid("learner")).children()
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    log = (run.folder / "logs/learner.log").read_text()
    assert "rank 1 of 2 was ended by SIGKILL" in log
