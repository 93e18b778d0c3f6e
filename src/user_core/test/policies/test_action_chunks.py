"""A policy that plans several actions at once."""

import numpy as np
import pytest

from user_core.conformance import check_policy
from user_core.errors import PolicyError
from user_core.policies import policy_config_hash
from user_core.policies.action_chunks import ActionChunksConfig, ActionChunksPolicy
from user_core.specs import ActionKind, ArraySpec, RobotSpec

SPEC = RobotSpec(
    "r",
    {"x": ArraySpec((3,), low=-2.0, high=2.0)},
    ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0), names=("dx", "gripper")),
    ActionKind.EE_DELTA,
)
SEEN = {"x": np.array([0.3, -1.0, 2.0], np.float32)}


def policy(rows=5, **settings):
    return ActionChunksPolicy(ActionChunksConfig(hidden=(16,), rows=rows, **settings), SPEC)


def test_promises_are_kept():
    check_policy(policy(), SPEC).require()


def test_each_row_is_an_action_of_the_robot():
    one = policy(log_std_min=1.0)
    rows = np.concatenate([one.act(SEEN) for _ in range(50)])
    assert rows.shape == (250, 2) and rows.dtype == np.float32
    assert (rows >= [-1, 0]).all() and (rows <= [1, 4]).all()
    assert rows[:, 1].max() > 2  # the second element's own bounds, in every row
    assert (one.act(SEEN, deterministic=True) == one.act(SEEN, deterministic=True)).all()


def test_weights_go_from_one_to_another_of_the_same_length_only():
    first, second = policy(seed=1), policy(seed=2)
    second.load(first.arrays())
    assert (first.act(SEEN, deterministic=True) == second.act(SEEN, deterministic=True)).all()
    with pytest.raises(PolicyError, match="head"):
        policy(rows=6).load(first.arrays())


def test_versions_for_another_length_are_foreign():
    hashes = {policy_config_hash("action_chunks", {"rows": n}, SPEC) for n in (4, 8)}
    assert len(hashes) == 2
