"""Checkpoints: exact, atomic, verified, and set aside with a reason when they cannot be used."""

import os
import subprocess
import sys

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, StoreCorrupt, StoreError
from user_core.policies.tanh_gaussian import TanhGaussianConfig
from user_core.runtime.files import write_atomically
from user_core.specs import ArraySpec, RobotSpec
from user_learner.algorithms.off_policy.sac import SACConfig
from user_learner.training.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    CheckpointStore,
    flatten,
    identity_of,
    unflatten,
)
from user_learner.training.publishing import VersionCounter

IDENTITY = {"algorithm": "sac", "config": {"critics": 2, "hidden": (64, 64)}}


def checkpoint(update, seed=0):
    rng = np.random.default_rng(seed)
    state = {
        "weights": {"a/b": rng.standard_normal((4, 3)).astype(np.float32), "empty": np.zeros(0)},
        "rng": rng.bit_generator.state,  # integers of 128 bits
        "list": [1, 2.5, None, True, "text", np.arange(3)],
        "number": np.float64(0.1),
    }
    return Checkpoint(CheckpointInfo(update, 10 * update, update // 2, 123), state)


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(one, other)


def test_a_state_comes_back_exactly(tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY)
    store.write(checkpoint(7))
    found = CheckpointStore(tmp_path, IDENTITY).newest()
    assert found.info == CheckpointInfo(7, 70, 3, 123)
    assert_equal(checkpoint(7).state, found.state)
    reference, restored = np.random.default_rng(0), np.random.default_rng(5)
    reference.standard_normal((4, 3))
    restored.bit_generator.state = found.state["rng"]
    np.testing.assert_array_equal(restored.standard_normal(5), reference.standard_normal(5))


def test_the_newest_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY, keep=2)
    for update in (1, 5, 20, 100):
        store.write(checkpoint(update))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "checkpoint-000000000020.safetensors",
        "checkpoint-000000000100.safetensors",
    ]
    assert store.newest().info.update == 100


def damage(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0, 3, 20, 300, -1, -60])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(tmp_path, place, caplog):
    store = CheckpointStore(tmp_path, IDENTITY)
    store.write(checkpoint(1))
    damage(store.write(checkpoint(2)), place)
    assert store.newest().info.update == 1
    (aside,) = (tmp_path / "refused").glob("*.safetensors")
    reason = aside.with_name(aside.name + ".reason.txt").read_text().strip()
    assert reason == store.refused[0]
    assert "000000000002" in reason or "checkpoint" in reason
    assert "set aside" in caplog.text
    assert store.newest().info.update == 1  # and is not looked at again
    assert len(store.refused) == 1


@pytest.mark.parametrize("size", [0, 7, 100, 1500])
def test_a_cut_one_is_set_aside(tmp_path, size):
    store = CheckpointStore(tmp_path, IDENTITY)
    path = store.write(checkpoint(3))
    os.truncate(path, size)
    assert store.newest() is None
    assert len(store.refused) == 1


def test_a_foreign_one_is_set_aside_and_the_difference_spelled_out(tmp_path):
    CheckpointStore(tmp_path, IDENTITY).write(checkpoint(9))
    other = {"algorithm": "sac", "config": {"critics": 10, "hidden": (64, 64)}}
    store = CheckpointStore(tmp_path, other)
    store.write(checkpoint(4))
    assert store.newest().info.update == 4
    assert "config.critics: 10 configured now, 2 in the checkpoint" in store.refused[0]
    with pytest.raises(ConfigError, match="another configuration"):
        store.read(next((tmp_path / "refused").glob("*.safetensors")))


def test_other_safetensors_files_are_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY)
    from user_core.codecs.weights import pack

    (tmp_path / "checkpoint-000000000001.safetensors").write_bytes(b"".join(pack({}, {})))
    with pytest.raises(StoreCorrupt, match="content"):
        store.read(tmp_path / "checkpoint-000000000001.safetensors")


def test_code_cannot_get_into_a_state():
    with pytest.raises(StoreError, match="a/x.*function"):
        flatten({"a": {"x": test_code_cannot_get_into_a_state}})
    with pytest.raises(StoreError, match="keys"):
        flatten({"a": {1: 2}})
    with pytest.raises(StoreError, match="one of the file"):
        unflatten({}, {"a": {"$array": "b"}})


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, [b"old"])

    def pieces():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, pieces())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_killed_at_any_moment_a_whole_checkpoint_is_left(tmp_path):
    """A process writes checkpoints as fast as it can and is killed, again and again."""
    program = (
        "import sys, pathlib, numpy as np\n"
        "from user_learner.training.checkpoint import *\n"
        "store = CheckpointStore(pathlib.Path(sys.argv[1]), {}, keep=2)\n"
        "found = store.newest()\n"
        "update = found.info.update if found else 0\n"
        "if found: assert (found.state['a'] == update).all()\n"
        "assert not store.refused\n"
        "print(update, flush=True)\n"
        "while True:\n"
        "    update += 1\n"
        "    state = {'a': np.full(300_000, update, np.float32)}\n"
        "    store.write(Checkpoint(CheckpointInfo(update, 0, 0, 0), state))\n"
        "    print(update, flush=True)\n"
    )
    newest = 0
    for kill_after in (1, 2, 5, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert int(process.stdout.readline()) >= newest
            for _ in range(kill_after):
                newest = int(process.stdout.readline())
        finally:
            process.kill()
            process.communicate()
    store = CheckpointStore(tmp_path, {})
    assert store.newest().info.update >= newest
    assert store.refused == []
    assert not list(tmp_path.glob(".*"))


def test_numbers_go_up_whatever_is_lost(tmp_path):
    path = tmp_path / "policy_version"
    counter = VersionCounter(path)
    assert [counter.take(), counter.take()] == [1, 2]
    again = VersionCounter(path)
    again.raise_to(1)  # an old checkpoint
    assert again.take() == 3
    again.raise_to(40)  # the counter's file was lost, the checkpoint knows more
    assert again.take() == 41
    assert VersionCounter(path).last == 41
    path.write_text("seven")
    with pytest.raises(StoreError, match="seven"):
        VersionCounter(path)


def test_learning_rates_and_seeds_do_not_make_a_checkpoint_foreign():
    spec = RobotSpec("r", {"x": ArraySpec((1,))}, ArraySpec((1,), low=-1.0, high=1.0))

    def identity(**settings):
        config = from_mapping(SACConfig, settings)
        return identity_of("sac", config, "tanh_gaussian", TanhGaussianConfig(), spec)

    assert identity() == identity(critic_learning_rate=1e-3, seed=7, device="cuda")
    assert identity() != identity(critics=4)
