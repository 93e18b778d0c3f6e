"""A network that is spread over processes (FSDP2) learns as a whole one does, and so do its checkpoints."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from user_core.config import from_mapping, to_mapping
from user_core.errors import ConfigError
from user_core.fakes import PolicyMailbox
from user_learner.algorithms.common import distributed
from user_learner.algorithms.common import sharded as sharded_parameters
from user_learner.learner import LearnerConfig, _identity, open_learner
from user_learner.ranks import Ranks
from user_learner.training.checkpoint import CHECKPOINTS, SHARDS_ENDING, CheckpointStore
from user_learner.training.loop import TrainingDiverged, TrainingLoop
from user_testing.programs.whole_noise import WholeBC
from user_testing.waiting import wait_until
from user_testing.worlds.together import (
    SPEC,
    argument_files,
    assert_alike,
    last_weights,
    learner_config,
    little_store,
    train,
)

ROOT = Path(__file__).parents[1]
FLOW = {
    "policy": {
        "plugin": "flow",
        "params": {
            "rows": 4, "backbone": "transformer", "embedding": 16, "layers": 2, "heads": 2,
            "ignored_observations": ["image"],
        },
    },
    "sampler": {"window": 4, "pad_windows": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_store(tmp_path_factory.mktemp("store"))


def config(
    folder: Path, store: Path, ranks: int, updates: int = 30, **params: Any
) -> LearnerConfig:
    plugin = "user_testing.programs.whole_noise:WholeBC"
    more = {"algorithm": {"plugin": plugin, "params": params}, **FLOW, "ranks": ranks}
    training = {"max_updates": updates, "checkpoint_period_s": 1e6}
    return learner_config(folder, store, training=training, **more)


def policy_of(settings: LearnerConfig) -> dict[str, np.ndarray]:
    """The weights of the last version, after a training to its end."""
    train(settings)
    return last_weights(settings)


def same(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Bit by bit."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


def checkpoints_of(settings: LearnerConfig) -> CheckpointStore:
    identity = _identity(settings, SPEC)
    return CheckpointStore(settings.directory / CHECKPOINTS, identity)


def test_two_ranks_with_half_of_a_network_each_train_as_one_with_all(tmp_path, store):
    one = policy_of(config(tmp_path / "one", store, 1))
    assert_alike(one, policy_of(config(tmp_path / "blocks", store, 2, shard="blocks")))
    spared = config(tmp_path / "layers", store, 2, shard="layers", activation_checkpointing=True)
    assert_alike(one, policy_of(spared))


@pytest.mark.parametrize(
    ("precision", "gathered"), [("float32", "kept"), ("bfloat16", "anew"), ("bfloat16", "kept")]
)
def test_parts_of_a_batch_and_precision_are_those_of_a_whole_network(
    tmp_path, store, precision, gathered, monkeypatch
):
    """Also where what was gathered on the way forward is kept for the way back, as it is on a GPU with room for it."""
    memory = 1e12 if gathered == "kept" else 0.0
    monkeypatch.setattr(sharded_parameters, "_memory_of", lambda device: memory)

    def learned(folder: str, **more: Any) -> dict[str, Any]:
        settings = config(tmp_path / folder, store, 1, accumulate=3, precision=precision, **more)
        return policy_of(settings.replace(algorithm=settings.algorithm.replace(plugin="bc")))

    whole, sharded = learned("whole"), learned("sharded", shard="blocks")
    small = (
        precision == "bfloat16"
    )  # gradients are rounded, and Adam takes steps of one size at first
    assert_alike(whole, sharded, *((0.1, 0.01) if small else ()))


def test_checkpoints_go_on_bit_by_bit_and_with_another_number_of_ranks(tmp_path, store):
    straight = policy_of(config(tmp_path / "straight", store, 2, shard="blocks"))
    half = config(tmp_path / "half", store, 2, updates=20, shard="blocks")
    policy_of(half)
    *_, folder = sorted((half.directory / CHECKPOINTS).glob(f"*{SHARDS_ENDING}"))
    assert len(list(folder.glob("*.safetensors"))) == 2
    for name in ("again", "alone"):
        shutil.copytree(half.directory, tmp_path / name)
    same(straight, policy_of(config(tmp_path / "again", store, 2, shard="blocks")))
    assert_alike(straight, policy_of(config(tmp_path / "alone", store, 1, shard="blocks")))


def test_weights_of_a_perceptron_decay_in_parts_as_whole(tmp_path, store):
    def learned(folder: str, **params: Any) -> dict[str, Any]:
        settings = config(tmp_path / folder, store, 1, 10, learning_rate=1e-3, **params)
        policy = {"rows": 4, "hidden": [16], "ignored_observations": ["image"]}
        return policy_of(
            settings.replace(
                algorithm=settings.algorithm.replace(plugin="bc"),
                policy=settings.policy.replace(params=policy),
            )
        )

    decayed, kept = learned("decayed", weight_decay=30.0), learned("kept", weight_decay=0.0)
    assert_alike(decayed, learned("sharded", weight_decay=30.0, shard="blocks"))
    name = "denoiser.layer0.weight"
    assert np.abs(decayed[name]).sum() < 0.9 * np.abs(kept[name]).sum()
    with pytest.raises(
        ConfigError, match=r"shard: layers: got .* by itself, expected shard: blocks"
    ):
        learned("layers", shard="layers")


def test_a_checkpoint_without_averages_opens(tmp_path, store):
    """As those of before averages were published: what is averaged begins with the weights."""
    before = policy_of(config(tmp_path, store, 1, updates=4, shard="blocks", average=0.0))
    after = policy_of(config(tmp_path, store, 1, updates=4, shard="blocks", average=0.9))
    same(before, after)
    later = policy_of(config(tmp_path, store, 1, updates=6, shard="blocks", average=0.9))
    assert any((later[name] != array).any() for name, array in before.items())


def test_corrections_are_learned_by_two_ranks_with_half_of_a_network_each(tmp_path, store):
    """hg_dagger as it is configured, with a transformer: demonstrations and corrections from strata of their own."""
    recipe = yaml.safe_load((ROOT / "config/algorithms/hg_dagger.yaml").read_text())
    policy = {**FLOW["policy"]["params"], **recipe["policy"]["params"]}
    recipe["policy"]["params"] = policy

    def learned(name: str, ranks: int, **params: Any) -> dict[str, Any]:
        algorithm = {
            "plugin": "user_testing.programs.whole_noise:WholeBC",
            "params": {**recipe["algorithm"]["params"], **params},
        }
        more = {"policy": recipe["policy"], "sampler": recipe["sampler"], "algorithm": algorithm}
        return policy_of(learner_config(tmp_path / name, store, ranks=ranks, **more))

    assert recipe["algorithm"]["plugin"] == "bc"
    assert_alike(learned("one", 1), learned("two", 2, shard="blocks"))


def test_a_damaged_shard_refuses_its_checkpoint_and_the_one_before_is_used(tmp_path, store):
    settings = config(tmp_path, store, 1, updates=10, shard="blocks")
    policy_of(settings)
    policy_of(settings.replace(training=settings.training.replace(max_updates=12)))
    *_, newest = sorted((tmp_path / CHECKPOINTS).glob(f"*{SHARDS_ENDING}"))
    (shard,) = newest.iterdir()
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    kept = checkpoints_of(settings)
    found = kept.newest()
    assert found is not None
    assert found.info.update == 10
    assert "shard" in kept.refused[0]
    assert sorted(p.suffix for p in (tmp_path / CHECKPOINTS / "refused").iterdir()) == [
        ".safetensors", ".shards", ".txt",
    ]  # fmt: skip


@pytest.mark.parametrize("killed", [pytest.param("first", marks=pytest.mark.slow), "other"])
def test_a_rank_that_is_killed_while_it_writes_leaves_the_last_whole_checkpoint(
    tmp_path, store, killed
):
    settings = config(tmp_path / "run", store, 2, updates=10_000, shard="blocks")
    often = settings.training.replace(checkpoint_period_s=0.0)
    files = argument_files(tmp_path, settings.replace(training=often))
    words = [sys.executable, "-m", "user_testing.programs.ranks", *files]
    first = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = settings.directory / CHECKPOINTS
    try:
        wait_until(lambda: list(folder.glob("*.safetensors")), "a checkpoint")
        (other,) = [p for p in psutil.Process(first.pid).children() if is_rank(p)]
        wait_until(
            lambda: list(folder.glob(f".*{SHARDS_ENDING}.tmp")),
            "one on its way",
            30,
            period_s=0.001,
        )
        os.kill(first.pid if killed == "first" else other.pid, signal.SIGKILL)
        first.wait(60)
        other.wait(60)
    finally:
        first.kill()
        first.wait()
    kept = checkpoints_of(settings)
    found = kept.newest()
    assert found is not None
    assert not kept.refused
    end = found.info.update + 5
    goes_on = settings.replace(training=settings.training.replace(max_updates=end), ranks=1)
    policy_of(goes_on)
    assert not list(folder.glob(".*"))
    assert len(list(folder.glob(f"*{SHARDS_ENDING}"))) == len(list(folder.glob("*.safetensors")))


def is_rank(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "user_learner.ranks.follow" in process.cmdline()
    return False


def test_a_rank_that_does_not_see_the_folder_sends_and_is_sent_its_shards(tmp_path):
    script = [sys.executable, "-m", "user_testing.programs.shards_apart", str(tmp_path)]
    ranks = [subprocess.Popen([*script, str(rank)], stderr=subprocess.PIPE) for rank in (0, 1)]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in ranks:
            process.kill()
            process.wait()


class Noted(Mapping[str, float]):
    """Metrics that say when they are looked at."""

    def __init__(self, number: int, found: Mapping[str, float], said: list[str]) -> None:
        self.number, self.found, self.said = number, found, said

    def __getitem__(self, name: str) -> float:
        if f"read {self.number}" not in self.said:
            self.said.append(f"read {self.number}")
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens in a training in this process, in its order."""
    said: list[str] = []
    update, publish = WholeBC.update, TrainingLoop._publish
    exchanged, agreed, averaged = (
        getattr(distributed, name) for name in ("exchanged", "agreed_each", "averaged")
    )

    def noted_update(self: WholeBC, batch: Any) -> Mapping[str, float]:
        found = update(self, batch)
        said.append(f"update {self._updates}")
        return Noted(self._updates, found, said)

    def noted_publish(self: TrainingLoop) -> None:
        said.append(f"publish {self._update}")
        publish(self)

    def note(function: Any) -> Any:
        def noted(*given: Any) -> Any:
            if len(given) == 1:  # not of the thread that writes shards, by a group of its own
                said.append("exchange")
            return function(*given)

        return noted

    monkeypatch.setattr(WholeBC, "update", noted_update)
    monkeypatch.setattr(TrainingLoop, "_publish", noted_publish)
    for name, function in (("exchanged", exchanged), ("agreed_each", agreed), ("averaged", averaged)):  # fmt: skip
        monkeypatch.setattr(distributed, name, note(function))
    return said


def test_metrics_are_read_behind_the_next_update_and_before_what_is_published(
    tmp_path, store, said
):
    """By one exchange an update: a GPU that is asked for a number waits until it has computed all that was launched."""
    settings = config(tmp_path, store, 1, updates=9, shard="blocks")
    rarely = {
        "publish_period_s": 0.0, "publish_every_updates": 4, "checkpoint_every_updates": 1000,
    }  # fmt: skip
    policy_of(settings.replace(training=settings.training.replace(**rarely)))
    words = [word for word in said if word != "exchange"]
    assert words[words.index("update 1") :] == [
        "update 1", "read 1",  # there is nothing to wait for yet, and nothing else says how long it took
        "update 2", "update 3", "read 2", "update 4", "read 3", "read 4", "publish 4",
        "update 5", "update 6", "read 5", "update 7", "read 6", "update 8", "read 7", "read 8", "publish 8",
        "update 9", "read 9", "publish 9",
    ]  # fmt: skip
    begin, end = said.index("update 5"), said.index("update 7")
    assert said[begin:end].count("exchange") == 2, "one before each update"


def test_batches_are_there_until_the_metrics_of_their_update_were_read(
    tmp_path, store, monkeypatch
):
    """Batches take memory in turns: a GPU may fetch from it until then, and what diverged is explained by what is in
    it."""
    update, judge = WholeBC.update, TrainingLoop._judge
    drawn, there = {}, []

    def noted_update(self: WholeBC, batch: Any) -> Mapping[str, float]:
        drawn[self._updates + 1] = np.array(batch.action)
        return update(self, batch)

    def noted_judge(self: TrainingLoop, made: Any, metrics: Mapping[str, float]) -> bool:
        there.append(np.array_equal(made.batch.action, drawn[made.update]))
        return judge(self, made, metrics)

    monkeypatch.setattr(WholeBC, "update", noted_update)
    monkeypatch.setattr(TrainingLoop, "_judge", noted_judge)
    policy_of(config(tmp_path, store, 1, updates=9, shard="blocks"))
    assert there == [True] * 9


def test_a_loss_that_is_no_number_at_one_rank_is_skipped_by_all(tmp_path, store):
    settings = config(tmp_path, store, 2, updates=10, shard="blocks")
    plugin = "user_testing.programs.whole_noise:SpoiltBC"
    settings = settings.replace(algorithm=settings.algorithm.replace(plugin=plugin))
    ranks = Ranks(settings, SPEC, lambda error: None)
    with ranks, open_learner(ranks.config, SPEC, PolicyMailbox()) as loop:
        loop.run()
        assert loop.skipped_updates == 1
        texts = [reason.text for reason in loop.progress().warnings]
    assert any(text.startswith("update 7 was skipped") for text in texts), texts
    assert all(np.isfinite(array).all() for array in last_weights(settings).values())


def test_what_diverged_is_never_published_though_it_is_found_out_later(tmp_path, store, said):
    settings = config(tmp_path, store, 1, updates=20, shard="blocks")
    plugin = "user_testing.programs.whole_noise:SpoiltBC"
    settings = settings.replace(
        algorithm=settings.algorithm.replace(plugin=plugin),
        training=settings.training.replace(
            skipped_updates=0, publish_period_s=0.0, publish_every_updates=7, checkpoint_every_updates=3,
            checkpoint_period_s=0.0,
        ),
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match="update 7"):
        train(settings)
    published = {int(word.split()[1]) for word in said if word.startswith("publish")}
    assert published.isdisjoint({7, 8}), said


def test_what_cannot_be_sharded_is_refused(tmp_path, store):
    def refused(**more: Any) -> str:
        settings = config(tmp_path, store, 1, shard="blocks")
        with pytest.raises(ConfigError) as caught:
            policy_of(from_mapping(LearnerConfig, {**to_mapping(settings), **more}))
        return str(caught.value)

    assert "TanhGaussianNetwork" in refused(
        policy={"plugin": "tanh_gaussian"}, sampler={"n_step": 1}
    )
    why = refused(algorithm={"plugin": "rlpd", "params": {"shard": "blocks"}})
    assert "several losses" in why and "hg_dagger" in why
    value = {"plugin": "advantage_conditioned", "params": {"shard": "blocks"}}
    assert "AdvantageConditioned" in refused(
        algorithm=value, policy={"plugin": "advantage_flow", "params": {"rows": 4}}
    )
    settings = config(tmp_path, store, 1, shard="blocks")
    with (
        pytest.raises(ConfigError, match="process group"),
        open_learner(settings, SPEC, PolicyMailbox()),
    ):
        pass


_NOTHING_IS_UNPICKLED = """
import torch.distributed.distributed_c10d as c10d

def never(*arguments):
    raise RuntimeError("a collective of objects")

c10d._object_to_tensor = c10d._tensor_to_object = never
"""


def test_nothing_that_processes_tell_each_other_is_a_pickle(tmp_path, store):
    """In all processes torch's way to send objects raises: while they meet, train, publish, keep and go on."""
    (tmp_path / "sitecustomize.py").write_text(_NOTHING_IS_UNPICKLED)
    python_path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for updates in (4, 8):
        settings = config(tmp_path / "run", store, 2, updates=updates, shard="blocks")
        files = argument_files(tmp_path, settings)
        subprocess.run(
            [sys.executable, "-m", "user_testing.programs.ranks", *files],
            check=True, timeout=120, env={**os.environ, "PYTHONPATH": python_path},
        )  # fmt: skip
    found = checkpoints_of(settings).newest()
    assert found is not None
    assert found.info.update == 8
