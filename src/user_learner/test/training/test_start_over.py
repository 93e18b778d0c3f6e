"""A run is not resumed with other networks, and what it has published is never lost by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from user_core.codecs.weights import read_version
from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.fakes import PolicyMailbox
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import TrajectorySchema
from user_learner.learner import LearnerConfig, open_learner
from user_learner.replay import StoreWriter
from user_testing.worlds.replay import QUICK

SPEC = RobotSpec(
    "r", {"x": ArraySpec((2,), low=-1.0, high=1.0)}, ArraySpec((1,), low=-1.0, high=1.0)
)


def config(folder: Path, critics: int = 8, policy: int = 8, **more: Any) -> LearnerConfig:
    return from_mapping(
        LearnerConfig,
        {
            "directory": str(folder / "learner"),
            "store": str(folder / "replay"),
            "algorithm": {"plugin": "sac", "params": {"critic_hidden": [critics]}},
            "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [policy]}},
            "sampler": {"prefetch": 0},
            "training": {"max_updates": 0},
            "tensorboard": False,
            **more,
        },
    )


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run whose newest policy and checkpoint are of 50 updates."""
    StoreWriter(tmp_path / "replay", TrajectorySchema.of(SPEC), QUICK).close()
    with open_learner(config(tmp_path), SPEC, PolicyMailbox()) as loop:
        loop._update = loop._steps = 50
        loop.run()
    assert read_version(tmp_path / "learner/policy.safetensors").update == 50
    return tmp_path


def resumed(run: Path, **changes: Any) -> Any:
    """What is published first by a learner that takes the run up."""
    box = PolicyMailbox()
    with open_learner(config(run, **changes), SPEC, box) as loop:
        loop.run()
    return box.newest(after=0)


def test_a_run_goes_on_where_it_was(trained: Path) -> None:
    assert resumed(trained).update == 50


@pytest.mark.parametrize("change", [{"critics": 16}, {"policy": 16}])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_with_other_networks_it_is_refused_and_left_as_it_is(
    trained: Path, change: dict[str, int], checkpoints: bool
) -> None:
    if not checkpoints:
        if "critics" in change:
            return  # then the policy is of this configuration, and goes on being served
        for file in (trained / "learner/checkpoints").glob("*"):
            file.unlink()
    before = {file: file.read_bytes() for file in trained.rglob("*.safetensors")}
    for _ in range(2):
        with pytest.raises(ConfigError, match="start_over"):
            resumed(trained, **change)
    assert {file: file.read_bytes() for file in trained.rglob("*.safetensors")} == before
    newest = resumed(trained, **change, start_over=True)
    assert newest.update == 0
    kept = list((trained / "learner").glob("policy.v*.safetensors"))
    assert [read_version(file).update for file in kept] == [50]


def test_without_checkpoints_the_trained_policy_is_served_until_training_has_passed_it(
    trained: Path,
) -> None:
    for file in (trained / "learner/checkpoints").glob("*"):
        file.unlink()
    newest = resumed(trained)
    assert newest.update == 50
    assert read_version(trained / "learner/policy.safetensors").update == 50
