"""What an algorithm may ask of a policy, and that learners of before go on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from user_core.conformance import check_policy
from user_core.errors import PluginError, StoreError
from user_core.policies.action_chunks import ActionChunksConfig, ActionChunksPolicy
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.policies.torch_policy import Network, TorchPolicy, TorchPolicyConfig
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.imitation.bc import BC
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from user_learner.algorithms.off_policy.sac import SAC
from user_learner.cli import check
from user_learner.training.checkpoint import CheckpointStore

SPEC = RobotSpec(
    "r",
    {"x": ArraySpec((3,), low=-2.0, high=2.0), "image_front": ArraySpec((8, 8, 3), "uint8")},
    ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0)),
)
NUMBERS = RobotSpec("r", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, SPEC.action)
SMALL = {
    "hidden": (4,), "image_channels": (2,), "image_embedding": 3,
    "normalization": "data", "normalization_calls": 3,
}  # fmt: skip


def batch(rows, seed, window=0, spec=SPEC):
    rng, shape = np.random.default_rng(seed), (rows, window) if window else (rows,)

    def observation():
        x = rng.uniform(-2, 2, (rows, 3)).astype(np.float32)
        image = rng.integers(0, 256, (rows, 8, 8, 3), np.uint8)
        return {"x": x, "image_front": image} if spec is SPEC else {"x": x}

    return Batch(
        observation(),
        rng.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        rng.standard_normal(shape).astype(np.float32),
        np.full(shape, 0.9, np.float32),
        observation(),
    )


class Echo(TorchPolicy):
    """Its network has a loss and nothing else; it acts by what the loss taught it."""

    class Net(Network):
        def __init__(self, spec):
            super().__init__(spec)
            self.layer = nn.Linear(3, spec.action.size)

        def loss(self, inputs, action, weight, generator):
            noisy = inputs["x"] + 0.01 * torch.randn(inputs["x"].shape, generator=generator)
            return (self.layer(noisy).tanh() - action).square().mean()

    def make_network(self):
        return self.Net(self.spec)

    def act(self, observation, *, deterministic=False):
        x = torch.from_numpy(observation["x"])[None]
        with torch.inference_mode():
            return self._scale.to_robot(self._network.layer(x).tanh().numpy())


def test_cloning_trains_a_policy_by_a_loss_of_its_own():
    policy = Echo(TorchPolicyConfig(), NUMBERS)
    check_policy(policy, NUMBERS).require()
    algorithm, rng = BC(BC.Config(learning_rate=1e-2), NUMBERS, policy), np.random.default_rng(0)
    for _ in range(300):
        x = rng.uniform(-1, 1, (64, 3)).astype(np.float32)
        action = np.stack([np.tanh(x[:, 0]), 2 + 2 * np.tanh(x[:, 1])], 1)
        none = np.zeros(64, np.float32)
        metrics = algorithm.update(Batch({"x": x}, action, none, none, {"x": x}))
    assert metrics["loss"] < 0.01
    policy.load(algorithm.policy_arrays())
    acted = policy.act({"x": np.array([0.5, -0.5, 0.3], np.float32)})
    np.testing.assert_allclose(acted[0], [np.tanh(0.5), 2 - 2 * np.tanh(0.5)], atol=0.1)


def test_weights_that_are_copied_within_a_gpu_are_those_that_are_published():
    config = BC.Config(learning_rate=1e-2, average=0.5)
    algorithm, rng = (
        BC(config, NUMBERS, Echo(TorchPolicyConfig(), NUMBERS)),
        np.random.default_rng(0),
    )
    for _ in range(3):
        x, none = rng.uniform(-1, 1, (8, 3)).astype(np.float32), np.zeros(8, np.float32)
        algorithm.update(Batch({"x": x}, x[:, :2], none, none, {"x": x}))
    published = algorithm.policy_arrays()
    with algorithm.policy_tensors() as tensors:
        there = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    trained = algorithm.network.arrays()
    assert there.keys() == published.keys()
    for name, array in published.items():
        np.testing.assert_array_equal(there[name], array)
        assert (trained[name] != array).any()  # these are averages
    cloning = BC(BC.Config(), NUMBERS, TanhGaussianPolicy(TanhGaussianConfig(), NUMBERS))
    with cloning.policy_tensors() as tensors:
        assert tensors is None  # its arrays have other names than its parameters


def test_who_lacks_what_an_algorithm_needs_is_told_what():
    with pytest.raises(PluginError, match=r"no distribution, encode.*DistributionNetwork"):
        SAC(SAC.Config(), NUMBERS, Echo(TorchPolicyConfig(), NUMBERS))


class Astray(TanhGaussianPolicy):
    """Its features are trained, and not in a submodule called encoder."""

    def network(self):
        network = super().network()
        encode = network.encode
        network.encode = lambda inputs: encode(inputs) * network.layer0.bias.sum().exp()
        return network


def test_the_check_finds_what_would_never_be_trained():
    report = check_policy(Astray(TanhGaussianConfig(hidden=(4,)), NUMBERS), NUMBERS)
    broken = [one for one in report.checks if one.passed is False]
    assert "encoder" in broken[0].promise and "layer0.bias" in broken[0].detail


@pytest.mark.parametrize(
    ("command", "words", "status", "says"),
    [
        (check.policy, ["tanh_gaussian", "hidden:=[8]", "--algorithm", "sac"], 0, "sac can train"),
        (check.policy, ["linear_gaussian"], 0, "only acts"),
        (check.policy, ["linear_gaussian", "--algorithm", "bc"], 1, "add_a_policy"),
        (check.policy, ["tanh_gaussian", "hiden:=[8]"], 2, "hidden"),
        (check.policy, ["action_chunks", "rows:=3", "robot.image_size:=8"], 0, "T=3"),
        (check.algorithm, ["bc", "--policy", "action_chunks", "policy.rows:=3"], 0, "goes on"),
        (check.algorithm, ["sac", "critic_hidden:=[8]"], 0, "goes on"),
        (check.algorithm, ["scs"], 2, "did you mean"),
        (check.algorithm, ["sac", "critics"], 2, "name:=value"),
    ],
)
def test_the_commands_say_what_is_kept_and_what_is_not(command, words, status, says, capsys):
    assert command(words, Console(width=200)) == status
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rlpd", "bc_chunks"])
def test_a_checkpoint_from_before_networks_were_modules_goes_on(name, tmp_path):
    """The files, and the numbers, are of the last commit before."""
    shutil.copy(
        Path(__file__).parent.parent / f"data/{name}.checkpoint", tmp_path / "old.safetensors"
    )
    store = CheckpointStore(tmp_path, {"for": name})
    state = store.read(tmp_path / "old.safetensors").state
    if name == "rlpd":
        config = RLPDConfig(critic_hidden=(4,), critics=3, critic_updates=2)
        algorithm = RLPD(config, SPEC, TanhGaussianPolicy(TanhGaussianConfig(**SMALL), SPEC))
        # The mean over both minibatches of a call. That of the second was 4.99686289, then 1.28159738.
        window, key, expected = 0, "critic_loss", [5.00103569, 1.14416784]
        size = 45.2215516
    else:
        policy = ActionChunksPolicy(ActionChunksConfig(rows=3, **SMALL), SPEC)
        algorithm = BC(BC.Config(), SPEC, policy)
        window, key, expected = 3, "squared_error", [0.59469396, 0.55106765]
        size = 43.6782198
    algorithm.load_state(state)
    metrics = [algorithm.update(batch(8, 2 + i, window))[key] for i in range(2)]
    np.testing.assert_allclose(metrics, expected, rtol=1e-4)
    arrays = algorithm.policy_arrays()
    trained = [array for name, array in arrays.items() if not name.startswith("input.")]
    assert sum(np.abs(array).sum() for array in trained) == pytest.approx(size, rel=1e-4)


def test_buffers_of_another_network_are_refused():
    policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(4,)), NUMBERS)
    algorithm = BC(BC.Config(), NUMBERS, policy)
    state = algorithm.state()
    with pytest.raises(StoreError, match="buffers of BC"):
        algorithm.load_state(state | {"inputs": {"other": np.zeros(3)}})
