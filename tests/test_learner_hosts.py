"""Processes of several hosts train with one learner: they meet, are refused, are lost, and begin again."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from user_core.codecs.weights import read_version
from user_core.errors import ConfigError, RankLost, SuiteError
from user_core.fakes import PolicyMailbox
from user_learner.learner import LearnerConfig, open_learner
from user_learner.ranks import Ranks
from user_learner.ranks import hosts as ranks_hosts
from user_learner.ranks.beside import RanksHere
from user_learner.ranks.first import require_places
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.ports import free_endpoint, free_port
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.deployment import DeploymentRun
from user_testing.worlds.together import (
    SPEC,
    argument_files,
    assert_alike,
    last_weights,
    learner_config,
    little_store,
    train,
)

WHOLE = {"plugin": "user_testing.programs.whole_noise:WholeBC"}
LAN = LinkQuality(rate_mbit_s=1000.0, delay_ms=0.2)
POLICY = {"plugin": "tanh_gaussian", "params": {"hidden": [16]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def meeting() -> str:
    return f"127.0.0.1:{free_port()}"


@contextlib.contextmanager
def other_host(meeting: str, folder: Path, name: str = "b", count: int = 1) -> Iterator[Any]:
    """``learner_ranks`` with its words in a file."""
    words = ["--meeting", meeting, "--name", name, "--ranks", str(count)]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "user_learner.ranks.beside", *words], stderr=log, cwd=folder
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, 1)
        finally:
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                child.kill()
            process.kill()
            process.wait()


def config(folder: Path, store: Path, **more: Any) -> LearnerConfig:
    return learner_config(folder, store, algorithm=WHOLE, policy=POLICY, **more)


def weights(settings: LearnerConfig, told: LearnerConfig | None = None) -> dict[str, Any]:
    """Of the last version, after a training to its end. ``told``: what the other hosts are told."""
    train(settings, told)
    return last_weights(settings)


def test_three_ranks_of_two_hosts_train_as_one_and_only_the_first_has_the_store(
    tmp_path, store, meeting
):
    one = weights(config(tmp_path / "one", store, training={"batch_size": 18}))
    both = config(
        tmp_path / "both", store, hosts=["b"], meeting=meeting, training={"batch_size": 18}
    )
    with other_host(meeting, tmp_path, count=2) as process:
        found = weights(both, both.replace(store=tmp_path / "not_here"))
        assert_alike(found, one)
        assert process.poll() is None  # it waits for the next
    assert "ranks 1 to 2 of 3" in (tmp_path / "b.log").read_text()


def test_a_rank_of_another_host_that_is_killed_is_told_and_its_host_begins_again(
    tmp_path, store, meeting
):
    lost: list[SuiteError] = []
    endless = config(
        tmp_path / "r", store, hosts=["b"], meeting=meeting, training={"max_updates": None}
    )
    with other_host(meeting, tmp_path) as process:
        ranks = Ranks(endless, SPEC, lost.append)
        with (  # noqa: PT012 - which error of torch comes depends on where it was
            pytest.raises((RuntimeError, SuiteError)),
            ranks,
            open_learner(ranks.config, SPEC, PolicyMailbox()) as loop,
        ):
            (follower,) = psutil.Process(process.pid).children()
            loop._before_update = lambda: follower.kill() if loop.progress().update == 5 else None
            loop.run()
        wait_until(lambda: lost, "it is told")
        assert isinstance(lost[0], RankLost)
        assert "rank 1, on b: ended by SIGKILL" in str(lost[0])
        again = endless.replace(training=endless.training.replace(max_updates=12))
        weights(again)


def test_a_host_with_other_software_is_refused_on_both_sides(tmp_path, store, meeting, monkeypatch):
    mine = ranks_hosts.software()
    monkeypatch.setattr(ranks_hosts, "software", lambda: {**mine, "user_learner": "0.0.1"})
    with other_host(meeting, tmp_path) as process:
        with pytest.raises(ConfigError, match=r"software of host b.*user_learner.*0\.0\.1"):
            weights(config(tmp_path / "r", store, hosts=["b"], meeting=meeting))
        assert process.wait(60) == 1
    assert "user_learner 0.0.1" in (tmp_path / "b.log").read_text()


def test_a_host_that_does_not_come_and_one_that_nobody_expects(
    tmp_path, store, meeting, monkeypatch
):
    monkeypatch.setattr(ranks_hosts, "MEET_S", 6.0)
    with other_host(meeting, tmp_path, "c") as process:
        with pytest.raises(RankLost, match=r"host b of the learner.*learner_ranks"):
            weights(config(tmp_path / "r", store, hosts=["b"], meeting=meeting))
        assert process.wait(60) == 1
    assert "not expected by the learner" in (tmp_path / "c.log").read_text()


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "an address of the learner's host, here"),
        ("nowhere.invalid", "nowhere.invalid: .*expected a name or address"),
    ],
)
def test_a_meeting_at_another_host_is_refused_at_once(tmp_path, store, host, why):
    """The learner waited two minutes for itself."""
    with pytest.raises(ConfigError, match=why):
        require_places(config(tmp_path / "r", store, hosts=["b"], meeting=f"{host}:29500"), 1)
    require_places(config(tmp_path / "r", store, hosts=["b"], meeting="localhost:29500"), 1)


def test_a_host_says_why_it_waits_for_the_learner(meeting, caplog):
    here = RanksHere(meeting, "b", 1)
    store, why = here._connect()
    assert store is None and why == "Connection refused"
    nowhere = RanksHere("nowhere.invalid:29500", "b", 1)
    thread = threading.Thread(target=nowhere.run)
    with caplog.at_level(logging.INFO):
        thread.start()
        wait_until(
            lambda: "waiting for the learner at nowhere.invalid" in caplog.text, "it says so"
        )
    nowhere.stop()
    thread.join(60)
    assert "name" in caplog.text.lower().split("29500: ")[1].lower()


def test_a_meeting_that_is_no_address_is_refused(tmp_path, store):
    for wrong in ("", "a:b", "a:0"):
        with pytest.raises(ConfigError, match="meeting"):
            weights(config(tmp_path / "r", store, hosts=["b"], meeting=wrong))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_two_hosts_that_are_really_apart_train_as_one(tmp_path):
    """Each has its own network and its own disk; the network is cut, and the first says which host is silent."""
    shared = tmp_path / "first"
    shared.mkdir()
    store = little_store(shared)
    flow = {"rows": 4, "backbone": "transformer", "embedding": 16, "layers": 2, "heads": 2}
    values: dict[str, Any] = {
        "policy": {"plugin": "flow", "params": {**flow, "ignored_observations": ["image"]}},
        "sampler": {"window": 4, "pad_windows": True},
        "algorithm": {**WHOLE, "params": {"shard": "blocks"}},
    }
    one = weights(learner_config(shared / "one", store, **values))
    with Host("near") as near, Host("far") as far, Link(near, far, LAN) as link:
        meeting = f"{link.address_of(near)}:29511"
        both = learner_config(shared / "both", store, hosts=["far"], meeting=meeting, **values)

        @contextlib.contextmanager
        def first(settings: LearnerConfig) -> Iterator[subprocess.Popen[str]]:
            files = argument_files(shared, settings)
            words = [sys.executable, "-u", "-m", "user_testing.programs.ranks", *files]
            with near.popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                try:
                    yield process
                finally:  # else a failure here would wait for a training without end
                    process.kill()

        words = [sys.executable, "-m", "user_learner.ranks.beside", "--meeting", meeting]
        hidden = f"mount -t tmpfs none {shared} && exec {shlex.join([*words, '--name', 'far'])}"
        with (tmp_path / "far.log").open("w") as log:
            other = far.popen(["unshare", "-m", "sh", "-c", hidden], stderr=log)
        try:
            with first(both) as process:
                _, said = process.communicate(timeout=120)
                assert process.returncode == 0, said[-3000:]
            assert_alike(last_weights(both), one)
            longer = both.replace(training=both.training.replace(max_updates=None))
            with first(longer) as process:
                versions = both.directory / "policy.safetensors"
                wait_until(lambda: read_version(versions).update > 40, "it goes on")
                link.cut()
                assert process.stdout is not None
                said = process.stdout.readline()  # what a learner_node would end with
            assert "far" in said
            assert "no sign of life" in said
            link.restore()
            end = read_version(versions).update + 200
            last = both.replace(training=both.training.replace(max_updates=end))
            with first(last) as process:
                _, said = process.communicate(timeout=120)
                assert process.returncode == 0, said[-3000:]
            other.terminate()
            assert other.wait(30) == 0, (tmp_path / "far.log").read_text()[-3000:]
        finally:
            other.kill()
            other.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_deployment_that_lists_another_host_goes_on_whoever_is_killed(
    tmp_path, start_process, ros_domain, meeting
):
    """As a user starts both; the other host is a run of its own, in a folder of its own."""

    def up(run: str, *words: str) -> DeploymentRun:
        folder = tmp_path / run
        command = ["user", "up", *words, "--runs", str(folder), "--run", "r", "--no-table"]
        return DeploymentRun(folder / "r", start_process(command, stdout=subprocess.DEVNULL))

    other = up("b", "learner_ranks", f"meeting:={meeting}", "host_name:=b")
    run = up(
        "a", "sim_single", "speed:=2.0", "algorithm:=rlpd_light", "learner_hosts:=[b]",
        f"meeting:={meeting}", f"policy_endpoint:={free_endpoint()}",
    )  # fmt: skip
    run.until(lambda: run.number("policy_version") >= 2, "both train")
    run.until(
        lambda: list((run.folder / "learner/checkpoints").glob("*.safetensors")), "a checkpoint"
    )

    def follower() -> psutil.Process:
        below = psutil.Process(other.process.pid).children(recursive=True)
        return next(p for p in below if "user_learner.ranks.follow" in p.cmdline())

    for victim in (lambda: follower().pid, lambda: run.pid("learner")):
        learner, update = run.pid("learner"), run.number("update")
        os.kill(victim(), signal.SIGKILL)
        run.until(
            lambda pid=learner: run.pid("learner") not in (0, pid), "the learner begins again"
        )
        run.until(
            lambda before=update: run.number("update") > before, "it has got further than it was"
        )
    log = (run.folder / "logs/learner.log").read_text()
    assert "rank 1, on b: ended by SIGKILL" in log
    for one in (run, other):
        one.process.send_signal(signal.SIGINT)
    for one in (run, other):
        assert one.process.wait(90) == 0
