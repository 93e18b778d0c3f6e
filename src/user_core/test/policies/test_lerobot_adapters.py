"""Adapters on a checkpoint of LeRobot: only they are trained and sent, and a robot with another base refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from user_core.errors import ConfigError, PolicyError
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.lerobot.policy import LeRobotPolicy
from user_core.specs import ArraySpec, RobotSpec

pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")
pytest.importorskip("peft", reason="peft is not installed: USER_EXTRA=lerobot make setup")

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((3,), low=-2.0, high=2.0, unit="rad"),
        "image_front": ArraySpec((64, 64, 3), "uint8"),
    },
    ArraySpec((3,), low=-1.0, high=1.0),
)
ACT = {
    "chunk_size": 4, "n_action_steps": 4, "dim_model": 64, "n_heads": 2, "dim_feedforward": 256,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip
ADAPTER = {"rank": 2, "whole": ["model.action_head"]}


def make(**params: Any) -> LeRobotPolicy:
    return LeRobotPolicy(LeRobotConfig(config=ACT, **params), SPEC)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint as LeRobot writes it."""
    make(type="act", seed=1).save(tmp_path / "base")
    return tmp_path / "base"


def seen() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "joint_position": rng.uniform(-1, 1, 3).astype(np.float32),
        "image_front": rng.integers(0, 255, (64, 64, 3), np.uint8),
    }


def trained(policy: LeRobotPolicy) -> dict[str, np.ndarray]:
    """Arrays after a few steps of gradient descent."""
    network = policy.network()
    rng = np.random.default_rng(0)
    batch = {k: np.stack([v] * 4) for k, v in seen().items()}
    inputs = network.inputs(batch)
    action = torch.from_numpy(rng.uniform(-1, 1, (4, 12)).astype(np.float32))
    parameters = [p for _, p in network.named_parameters()]
    descent = torch.optim.Adam(parameters, 1e-2)
    for _ in range(3):
        descent.zero_grad()
        network.loss(inputs, action, None, torch.Generator().manual_seed(0)).backward()
        assert all(p.grad is not None for p in parameters)
        descent.step()
    return network.arrays()


def test_what_is_sent_is_what_was_trained(base: Path) -> None:
    full, policy = make(checkpoint=str(base)), make(checkpoint=str(base), adapter=ADAPTER)
    before, sizes = policy.arrays(), {}
    for name, one in (("full", full), ("adapter", policy)):
        sizes[name] = sum(a.nbytes for a in one.arrays().values())
    assert sizes["adapter"] < 0.1 * sizes["full"]
    np.testing.assert_allclose(  # untrained adapters change nothing
        policy.act(seen(), deterministic=True), full.act(seen(), deterministic=True), atol=1e-5
    )
    after = trained(policy)
    assert after.keys() == before.keys()
    changed = {n for n in after if not np.array_equal(after[n], before[n])}
    assert any("lora_B" in name for name in changed)
    assert any("action_head" in name for name in changed)
    robot = make(
        checkpoint=str(base), adapter=ADAPTER, seed=5
    )  # what it began with does not matter
    robot.load(after)
    learner = make(checkpoint=str(base), adapter=ADAPTER)
    learner.load(after)
    acts = robot.act(seen(), deterministic=True)
    np.testing.assert_allclose(acts, learner.act(seen(), deterministic=True), atol=1e-6)
    assert not np.allclose(acts, full.act(seen(), deterministic=True), atol=1e-4)


def test_a_robot_with_another_base_refuses_them(base: Path, tmp_path: Path) -> None:
    make(type="act", seed=2).save(tmp_path / "other")
    arrays = make(checkpoint=str(base), adapter=ADAPTER).arrays()
    robot = make(checkpoint=str(tmp_path / "other"), adapter=ADAPTER)
    before = robot.act(seen(), deterministic=True)
    with pytest.raises(PolicyError, match="base of a policy version"):
        robot.load(arrays)
    np.testing.assert_array_equal(robot.act(seen(), deterministic=True), before)


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        (
            {"rank": 2, "targets": ["q_projection"]},
            r"targets: got q_projection, expected .*linear1",
        ),
        ({"rank": 2, "whole": ["model.head"]}, r"whole: got model.head, expected .*model"),
    ],
)
def test_layers_that_it_does_not_have_are_named(base: Path, adapter: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(checkpoint=str(base), adapter=adapter)


def test_a_policy_without_a_base_has_no_adapters() -> None:
    with pytest.raises(ConfigError, match="checkpoint: the base"):
        make(type="act", adapter=ADAPTER)


def test_adapters_of_several_robots_have_their_base_in_common(base: Path) -> None:
    one, other = (make(checkpoint=str(base), adapter=ADAPTER, seed=seed) for seed in (1, 2))
    before = other.act(seen(), deterministic=True)
    frozen = {n: p for n, p in one._network.policy.named_parameters() if not p.requires_grad}
    theirs = dict(other._network.policy.named_parameters())
    common = sum(p.numel() for n, p in frozen.items() if theirs[n] is p)
    assert common > 0.95 * sum(p.numel() for p in frozen.values())
    one.load(trained(one))
    assert not np.allclose(one.act(seen(), deterministic=True), before, atol=1e-4)
    np.testing.assert_array_equal(other.act(seen(), deterministic=True), before)
    network = one.network()  # what is trained shares nothing
    assert not {id(p) for p in network.policy.parameters()} & {id(p) for p in theirs.values()}
