"""A run begins with what another training has learned, once, and is refused where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from user_core.codecs.weights import read_version
from user_core.config import from_mapping
from user_core.errors import ConfigError, PolicyError
from user_core.fakes import PolicyMailbox
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import TrajectorySchema
from user_learner.learner import LearnerConfig, open_learner
from user_learner.replay import StoreWriter
from user_learner.training.starting import started_from
from user_testing.worlds.replay import QUICK

SPEC = RobotSpec(
    "r", {"x": ArraySpec((2,), low=-1.0, high=1.0)}, ArraySpec((1,), low=-1.0, high=1.0)
)
SAC = {"plugin": "sac", "params": {"critic_hidden": [8]}}


def config(folder: Path, algorithm: Any = None, hidden: int = 8, **more: Any) -> LearnerConfig:
    return from_mapping(
        LearnerConfig,
        {
            "directory": str(folder / "learner"),
            "store": str(folder / "replay"),
            "algorithm": algorithm or SAC,
            "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [hidden]}},
            "sampler": {"prefetch": 0},
            "training": {"max_updates": 0},
            "tensorboard": False,
            **more,
        },
    )


def run_of(folder: Path, **changes: Any) -> Any:
    """Open the learner of a run, let it publish, and return its loop and what was published."""
    if not (folder / "replay").exists():
        StoreWriter(folder / "replay", TrajectorySchema.of(SPEC), QUICK).close()
    box = PolicyMailbox()
    with open_learner(config(folder, **changes), SPEC, box) as loop:
        loop.run()
    return loop, box.newest(after=0)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run of 50 updates on 2000 steps that robots collected."""
    folder = tmp_path / "trained"
    StoreWriter(folder / "replay", TrajectorySchema.of(SPEC), QUICK).close()
    with open_learner(config(folder), SPEC, PolicyMailbox()) as loop:
        loop._update, loop._steps = 50, 2000
        loop.run()
    return folder


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in {*one, *other})


@pytest.mark.parametrize("place", ["", "learner"])
def test_with_the_same_algorithm_all_of_it_goes_on_and_its_updates_are_no_debt(
    trained: Path, tmp_path: Path, place: str
) -> None:
    loop, version = run_of(tmp_path / "new", start_from=str(trained / place))
    before = read_version(trained / "learner/policy.safetensors")
    assert same(version.arrays, before.arrays)
    assert (version.number, version.update, version.environment_steps) == (1, 50, 0)
    assert started_from(tmp_path / "new/learner").whole
    limiter = loop.limiter
    limiter.observe(loop.config.utd.learning_starts + 10, 50)
    assert limiter.permits(50, 1), "robots need not catch up with what was learned offline"
    assert not limiter.permits(50 + 100, 1)
    again, _ = run_of(tmp_path / "new", start_from=str(trained))
    assert again.config.utd.initial_updates == 50, "also after a restart"
    assert list((trained / "learner/checkpoints").glob("refused")) == []


def test_another_algorithm_begins_with_the_policy(trained: Path, tmp_path: Path) -> None:
    bc = {"plugin": "bc", "params": {}}
    loop, version = run_of(tmp_path / "new", algorithm=bc, start_from=str(trained))
    before = read_version(trained / "learner/policy.safetensors")
    assert same(version.arrays, before.arrays)
    assert version.update == 0 and not started_from(tmp_path / "new/learner").whole
    assert loop.config.utd.initial_updates == 0
    for file in (tmp_path / "new/learner/checkpoints").glob("*.safetensors"):
        file.unlink()  # killed before the first checkpoint
    _, version = run_of(tmp_path / "new", algorithm=bc, start_from=str(trained))
    assert same(version.arrays, before.arrays)


def test_a_policy_file_is_enough(trained: Path, tmp_path: Path) -> None:
    file = trained / "learner/policy.safetensors"
    _, version = run_of(tmp_path / "new", start_from=str(file))
    assert same(version.arrays, read_version(file).arrays)


def test_a_policy_of_other_parameters_is_refused_and_nothing_is_begun(
    trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match=r"policy_config\.hidden: \[8\] became \[16\]"):
        run_of(tmp_path / "new", hidden=16, start_from=str(trained))
    copied = tmp_path / "policy.safetensors"
    copied.write_bytes((trained / "learner/policy.safetensors").read_bytes())
    with pytest.raises(PolicyError, match="another robot, another plugin or other parameters"):
        run_of(tmp_path / "new", hidden=16, start_from=str(copied))
    assert not (tmp_path / "new/learner/policy.safetensors").exists()
    with pytest.raises(ConfigError, match="start_from"):
        run_of(tmp_path / "new", start_from=str(tmp_path / "nowhere"))


def test_a_distilled_flow_begins_with_its_teacher_or_not_at_all(tmp_path: Path) -> None:
    flow = {"rows": 2, "hidden": [8], "distill": True}
    same_policy = {"policy": {"plugin": "flow", "params": flow}, "algorithm": {"plugin": "bc"}}
    trained, new = tmp_path / "trained", tmp_path / "new"
    run_of(trained, **same_policy)
    with pytest.raises(PolicyError, match="without the teacher of a distilled flow"):
        run_of(new, start_from=str(trained / "learner/policy.safetensors"), **same_policy)
    assert started_from(new / "learner") is None
    run_of(new, start_from=str(trained), **same_policy)
    assert started_from(new / "learner").whole


def test_a_run_that_has_learned_something_goes_on_with_its_own(
    trained: Path, tmp_path: Path
) -> None:
    _, version = run_of(trained, start_from=str(tmp_path / "nowhere"))
    assert version.update == 50
