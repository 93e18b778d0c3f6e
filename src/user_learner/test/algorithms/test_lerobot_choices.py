"""Robots with choices (a gripper of three, a discrete action) and policies of LeRobot: a number for each that can be
chosen."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm, check_policy
from user_core.errors import SpecError
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.lerobot.inputs import Feature, InputMap
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Batch

SEEN = {name: ArraySpec((2,), low=-2.0, high=2.0) for name in ("joint_position", "place")}
#: A gripper of three ways between two motions.
GRIPPER = RobotSpec(
    "g", SEEN,
    ArraySpec((3,), low=(-2.0, 0.0, 0.0), high=(2.0, 2.0, 1.0), categorical=(1,)),
)  # fmt: skip
ONLY = RobotSpec("c", SEEN, ArraySpec((1,), "int64", 1, 3, categorical=(0,)), ActionKind.DISCRETE)
ACT = {
    "chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "use_vae": False,
    "n_encoder_layers": 1, "pretrained_backbone_weights": None, "dropout": 0.0,
}  # fmt: skip


def test_a_policy_of_another_number_of_actions_is_told_which_there_are():
    features = [Feature("observation.state", False, (4,))]
    with pytest.raises(SpecError, match=r"got 3 numbers, expected 5.*one for each way to choose"):
        InputMap(features, 3, GRIPPER, LeRobotConfig(type="act"))
    low, high = InputMap(features, 5, GRIPPER, LeRobotConfig(type="act")).bounds("action")
    assert low.tolist() == [-2, 0, -1, -1, -1] and high.tolist() == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("spec", [GRIPPER, ONLY], ids=["gripper", "only"])
def test_act_learns_which_choice_is_made(spec):
    pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")
    params = {
        "type": "act", "config": ACT, "statistics_calls": 1,
        "mapping": {"observation.state": "joint_position", "observation.environment_state": "place"},
    }  # fmt: skip
    policy = plugins.build("policies", "lerobot", params, spec)
    check_policy(policy, spec).require()
    settings = {"learning_rate": 1e-3, "average": 0.0}
    learners = [plugins.build("algorithms", "bc", settings, spec, policy) for _ in range(2)]
    check_algorithm(*learners, policy, spec, batch_size=4).require()
    learner = plugins.build("algorithms", "bc", settings, spec, policy)
    rng = np.random.default_rng(0)
    rows = 16
    side = np.where(np.arange(rows) % 2, 1.0, -1.0).astype(np.float32)

    def seen():
        other = rng.uniform(-1, 1, rows).astype(np.float32)
        return {"joint_position": np.stack([other, other], 1), "place": np.stack([side, other], 1)}

    element = spec.action.categorical[0]
    first = int(spec.action.low_array[element])
    chosen = first + np.where(side > 0, 2, 0)  # never the one between
    action = np.full((rows, 4, spec.action.size), 0.5, spec.action.dtype)
    action[:, :, element] = chosen[:, None]
    for _ in range(150):
        observation = seen()
        reward = np.zeros((rows, 4), np.float32)
        learner.update(Batch(observation, action, reward, reward + 1, observation))
    policy.load(learner.policy_arrays())
    for row in (0, 1):
        observation = {name: array[row] for name, array in seen().items()}
        plan = policy.act(observation, deterministic=True)
        assert plan.dtype == spec.action.dtype and set(plan[:, element]) == {chosen[row]}
        for other in set(range(spec.action.size)) - {element}:
            np.testing.assert_allclose(plan[:, other], 0.5, atol=0.2)
    chunk = torch.from_numpy(policy._scale.unit(action[:2])).flatten(1)
    network = policy.network()
    np.testing.assert_allclose(network.ours(network.theirs(chunk)).flatten(1), chunk, atol=1e-6)
