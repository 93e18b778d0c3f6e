"""Policies of LeRobot that are told how good what they learn from was: in a number, or in words where they read."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm
from user_core.errors import SpecError
from user_core.interfaces import Query
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Task
from user_testing.small_vlm import make_small_vlm

pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((3,), low=-2.0, high=2.0, unit="rad"),
        "image_front": ArraySpec((64, 64, 3), "uint8"),
    },
    ArraySpec((3,), low=(-1.0, -1.0, 0.0), high=1.0),
)
ACT = {
    "chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return make_small_vlm(tmp_path_factory.mktemp("vlm"))


def told(kind, theirs, **params):
    inner = {"plugin": "lerobot", "params": {"type": kind, "config": theirs, **params}}
    return plugins.build("policies", "advantage", {"policy": inner}, SPEC)


def learner(policy):
    settings = {"values": {"hidden": [16]}}
    return plugins.build("algorithms", "advantage_conditioned", settings, SPEC, policy)


def batch_of(rows):
    rng = np.random.default_rng(0)
    return {n: np.stack([a.sample(rng) for _ in range(rows)]) for n, a in SPEC.observation.items()}


def test_one_that_does_not_read_is_told_in_its_state():
    policy = told("act", ACT)
    policy.reset(Task("reach"))
    network = policy.network()
    inputs = network.inputs(batch_of(3))
    assert inputs["observation.state"].shape == (3, 4)  # three joints, and how good it is
    assert network.seen(inputs).shape == (3, 3 + 8 * 8 * 3)  # what critics see
    good = network.with_advantage(inputs, torch.tensor([1.0, -1.0, 0.0]))
    assert good["observation.state"][:, 3].tolist() == [1, -1, 0]
    check_algorithm(learner(policy), learner(policy), policy, SPEC, batch_size=3).require()


def test_one_that_reads_is_told_in_words_behind_its_instruction(vlm):
    policy = told("smolvla", vlm, instruction="reach the target")
    network = policy.network()
    inputs = network.inputs(batch_of(3))
    assert inputs["observation.state"].shape == (3, 3)
    said = network.with_advantage(inputs, torch.tensor([1.0, -1.0, 0.0]))
    assert network.batch(said)["task"] == [
        "reach the target\nAdvantage: positive", "reach the target\nAdvantage: negative",
        "reach the target",
    ]  # fmt: skip
    check_algorithm(learner(policy), learner(policy), policy, SPEC, batch_size=2).require()
    seen = {name: array[0] for name, array in batch_of(1).items()}
    policy.reset(Task("reach"))
    made = policy.act(seen, deterministic=True)
    (answer,) = policy.act_batch([Query(seen, True, Task("reach"))])
    np.testing.assert_allclose(answer, made, atol=1e-4)
    plain = policy.policy
    plain.reset(Task("reach", "reach the target\nAdvantage: positive"))
    np.testing.assert_array_equal(plain.act(seen, deterministic=True), made)


def test_a_checkpoint_without_room_for_it_is_refused(tmp_path):
    plain = plugins.build("policies", "lerobot", {"type": "act", "config": ACT}, SPEC)
    plain.save(tmp_path)
    with pytest.raises(SpecError, match=r"observation.state.*4 numbers"):
        told("", {}, checkpoint=str(tmp_path), statistics="data")
