"""What LeRobot makes in bfloat16 stays so in the network and learns in float32: averages, versions and checkpoints
agree."""

import numpy as np
import pytest
import torch

from user_core.plugins import build
from user_core.specs import ArraySpec, RobotSpec
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_testing.small_vlm import make_small_vlm
from user_testing.worlds.batches import random_batch

pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")

SPEC = RobotSpec(
    "r",
    {"camera": ArraySpec((64, 64, 3), "uint8"), "x": ArraySpec((3,), low=-1.0, high=1.0)},
    ArraySpec((2,), low=-1.0, high=1.0),
)


@pytest.fixture
def policy(tmp_path):
    params = {"type": "smolvla", "instruction": "reach", "config": make_small_vlm(tmp_path)}
    made = build("policies", "lerobot", params, SPEC)
    made._network.policy.model.vlm_with_expert.lm_expert.to(torch.bfloat16)
    return made


def require_rounded(algorithm):
    for name, parameter in algorithm.network.named_parameters():
        exact = algorithm.parameters.frozen[name]
        assert torch.equal(parameter, exact.to(parameter.dtype)), name


def test_averages_versions_and_checkpoints(policy):
    first = BC(BCConfig(average=0.9), SPEC, policy)
    assert {p.dtype for p in first.network.parameters()} == {torch.bfloat16, torch.float32}
    rng = np.random.default_rng(0)
    batches = [random_batch(SPEC, 4, rng, window=policy.rows) for _ in range(5)]
    for batch in batches[:3]:
        first.update(batch)
    state, version = first.state(), first.policy_arrays()
    require_rounded(first)
    for batch in batches[3:]:
        first.update(batch)
    second = BC(BCConfig(average=0.9), SPEC, policy)
    second.load_state(state)
    again = second.policy_arrays()
    assert all(np.array_equal(again[name], array) for name, array in version.items())
    for batch in batches[3:]:
        second.update(batch)
    assert torch.equal(second.parameters.flat, first.parameters.flat)
    require_rounded(second)
    with second.averaged():
        average = second._average.average[0]
        for name, parameter in second.network.named_parameters():
            if parameter.dtype == torch.bfloat16:
                newest = second.parameters.split(second.parameters.flat)[name]
                assert torch.equal(parameter, newest.bfloat16())
    assert not torch.equal(average, second.parameters.flat)
    policy.load(version)
