"""The tanh-Gaussian policy: numpy and torch are the same function."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from user_core.conformance import check_policy
from user_core.errors import ConfigError, PolicyError, SpecError
from user_core.interfaces import Query
from user_core.plugins import build
from user_core.policies import differences_in_words, policy_config_hash, policy_made_for
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.policies.tanh_gaussian_network import TanhGaussian
from user_core.policies.torch_policy import Network, TorchPolicy, TorchPolicyConfig, in_precision
from user_core.specs import ArraySpec, RobotSpec
from user_testing.tensors import assert_close

STATE = {
    "joint_position": ArraySpec((3,), low=(-2.0, 0.0, -1.0), high=(2.0, 1.0, 1.0)),
    "wrench": ArraySpec((6,)),
    "contact": ArraySpec((2,), "bool"),
    "counter": ArraySpec((), "int64"),
}
PICTURES = {
    "image_front": ArraySpec((20, 24, 3), "uint8"),
    "image_wrist": ArraySpec((16, 16, 3), "uint8"),
}
GREY = {"image": ArraySpec((20, 24, 1), "uint8"), "stack": ArraySpec((16, 16, 12), "uint8")}
DEPTH = {
    "depth_front": ArraySpec((20, 24, 1), "float32", 0.0, 4.0, "m"),
    "depth_wrist": ArraySpec((16, 16, 1), "uint16", 0.0, 2000.0, "0.001 m"),
}
ACTION = ArraySpec((3,), low=(-1.0, -0.1, 0.0), high=(1.0, 0.1, 1.0))


def spec_of(observation):
    return RobotSpec("arm", observation, ACTION)


def make(observation=STATE, **settings):
    return TanhGaussianPolicy(
        TanhGaussianConfig(**{"hidden": (32, 16), **settings}), spec_of(observation)
    )


def trained(policy, seed=0):
    """Weights that are not near zero, so that mistakes show."""
    rng = np.random.default_rng(seed)
    return {
        name: array + 0.3 * rng.standard_normal(array.shape).astype(np.float32)
        for name, array in policy.arrays().items()
    }


def observations(spec, count, seed=1):
    rng = np.random.default_rng(seed)
    return [{k: v.sample(rng) for k, v in spec.observation.items()} for _ in range(count)]


def torch_means(policy, rows):
    """The squashed means of a batch, by the learner's network."""
    network = policy.network()
    batch = {name: np.stack([row[name] for row in rows]) for name in policy.spec.observation}
    with torch.no_grad():
        found = network.distribution(network.encode(network.inputs(batch)))
    return found.mode.numpy(), found.log_std.numpy()


class Plain(TorchPolicy):
    class Net(Network):
        def __init__(self, spec):
            super().__init__(spec)
            self.layer = torch.nn.Linear(3, 2 * spec.action.size)

        def encode(self, inputs):
            return inputs["joint_position"]

        def distribution(self, features):
            return TanhGaussian(*self.layer(features).chunk(2, 1))

    def make_network(self):
        return self.Net(self.spec)


def test_a_policy_in_torch_keeps_its_memory_when_it_loads_and_its_weights_when_it_cannot():
    policy = Plain(TorchPolicyConfig(), spec_of(STATE))
    trains = policy.network()
    layer, lies = policy._network.layer, policy._network.layer.weight.data_ptr()
    other = {name: array + 0.5 for name, array in policy.arrays().items()}
    policy.load(other)
    assert policy._network.layer is layer and layer.weight.data_ptr() == lies
    assert {n: a.tolist() for n, a in policy.arrays().items()} == {
        n: a.tolist() for n, a in other.items()
    }
    assert not torch.equal(trains.layer.weight, layer.weight), "who trains has its own"

    def fails(*_):
        raise RuntimeError("bias is bad")

    layer.register_load_state_dict_post_hook(fails)  # once all have been copied
    with pytest.raises(RuntimeError, match="bias is bad"):
        policy.load({name: array + 1 for name, array in other.items()})
    assert {n: a.tolist() for n, a in policy.arrays().items()} == {
        n: a.tolist() for n, a in other.items()
    }


def test_a_network_that_keeps_what_it_saw_while_it_acted_can_be_loaded():
    class Remembers(Plain):
        class Net(Plain.Net):
            def __init__(self, spec):
                super().__init__(spec)
                self.register_buffer("last", torch.zeros(1, 3))

            def encode(self, inputs):
                self.last = inputs["joint_position"] + 1
                return self.last

    spec = spec_of(STATE)
    policy = Remembers(TorchPolicyConfig(), spec)
    policy.act(observations(spec, 1)[0])
    assert policy._network.last.is_inference()
    policy.load({name: array * 0 for name, array in policy.arrays().items()})
    assert not any(array.any() for array in policy.arrays().values())


def test_policies_in_torch_act_in_bfloat16():
    spec = spec_of(STATE | PICTURES)
    small = {"rows": 2, "embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8]}
    policies = (
        Plain(TorchPolicyConfig(), spec), make(STATE | PICTURES), build("policies", "act", small, spec),
    )  # fmt: skip
    for policy in policies:
        (seen,) = observations(spec, 1)
        exact = policy.act(seen, deterministic=True)
        with in_precision("bfloat16", "cpu"):
            near = policy.act(seen, deterministic=True)
            together = policy.act_batch([Query(seen, True), Query(seen, True)])
        assert near.dtype == exact.dtype
        for action in (near, *together):
            np.testing.assert_allclose(action, exact, atol=0.05)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("observation", [STATE, STATE | PICTURES, PICTURES, GREY, STATE | DEPTH])
def test_actor_and_learner_compute_the_same(observation, layer_norm):
    policy = make(observation, layer_norm=layer_norm, image_channels=(4, 8), image_embedding=7)
    policy.load(trained(policy))
    rows = observations(policy.spec, 9)
    means, _ = torch_means(policy, rows)
    for row, mean in zip(rows, means, strict=True):
        action = policy.act(row, deterministic=True)[0]
        expected = policy.layout.action_middle + policy.layout.action_half * mean
        np.testing.assert_allclose(action, expected, rtol=2e-5, atol=2e-6)
    assert np.abs(np.diff(means, axis=0)).max() > 0.05  # it does look at the observation


def test_grey_and_stacked_images_are_images_and_small_tables_are_numbers():
    few = {"cells": ArraySpec((4, 5, 2), "uint8"), "floats": ArraySpec((20, 24, 1))}
    features = make({**GREY, **few}, image_channels=(4,)).layout.features
    assert features.image_names == ("image", "stack")
    assert features.state_names == ("cells", "floats")


def test_depth_goes_through_the_encoder_in_metres_with_its_holes() -> None:
    policy = make(DEPTH | STATE)
    features = policy.layout.features
    assert features.image_names == ("depth_front", "depth_wrist")
    assert features.depths == {"depth_front": (1.0, 4.0), "depth_wrist": (0.001, 2.0)}
    assert policy.layout.shapes["encoder.depth_front.conv0.weight"][1] == 2
    network = policy.network()
    row = observations(policy.spec, 1)[0]
    row["depth_front"] = np.full((20, 24, 1), 3.0, np.float32)
    row["depth_front"][:4, 0, 0] = 0.0, np.nan, np.inf, 4.5  # holes
    row["depth_wrist"] = np.full((16, 16, 1), 500, np.uint16)
    inputs = network.inputs({name: array[None] for name, array in row.items()})
    assert inputs["depth_wrist"].dtype == torch.float32
    assert_close(inputs["depth_wrist"], torch.full((1, 16, 16, 1), 0.5))
    seen = network._channels("depth_front", inputs["depth_front"])[0]
    assert_close(seen[:, 5, 5], torch.tensor([0.5, 1.0]))
    assert_close(seen[:, :4, 0], torch.tensor([[0.0] * 4, [-1.0] * 4]))
    assert np.isfinite(policy.act(row, deterministic=True)).all()


@pytest.mark.parametrize(
    "spec",
    [
        ArraySpec((20, 24, 1), "float32", 0.0, 4.0),  # of no unit
        ArraySpec((20, 24, 1), "float32", unit="m"),  # of no range
        ArraySpec((8, 8, 1), "float32", 0.0, 4.0, "m"),  # a table of heights
        ArraySpec((20, 24, 1), "float64", 0.0, 4.0, "m"),
        ArraySpec((20, 24, 1), "uint16", 0.0, 9.0, "some m"),
        ArraySpec((20, 24), "float32", 0.0, 4.0, "m"),
    ],
)
def test_what_is_no_depth_stays_numbers(spec: ArraySpec) -> None:
    assert make({"table": spec}).layout.features.image_names == ()


def test_samples_have_the_distribution_that_the_learner_thinks_they_have():
    policy = make(seed=3)
    arrays = trained(policy)
    arrays["head.weight"] *= 0.02  # keep away from where float32 tanh cannot be inverted
    arrays["head.bias"][:] = (0.5, -0.8, 0.0, -1.0, -0.5, 0.0)
    policy.load(arrays)
    row = observations(policy.spec, 1)[0]
    raw = []
    for _ in range(4000):
        action = policy.act(row)[0]
        unit = (action - policy.layout.action_middle) / policy.layout.action_half
        raw.append(np.arctanh(np.clip(unit, -0.999999, 0.999999)))
    means, log_std = torch_means(policy, [row])
    std = np.exp(log_std[0])
    np.testing.assert_allclose((np.mean(raw, 0) - np.arctanh(means[0])) / std, 0, atol=0.08)
    np.testing.assert_allclose(np.std(raw, 0) / std, 1, atol=0.06)


@pytest.mark.parametrize("observation", [STATE, STATE | PICTURES])
def test_it_keeps_the_promises_of_a_policy(observation):
    policy = make(observation, image_channels=(4,))
    check_policy(policy, policy.spec).require()


def test_features_that_are_no_tensor_break_one_promise(monkeypatch):
    policy = make()
    network = policy.network()
    network.encode = lambda inputs: inputs["state"].numpy()
    monkeypatch.setattr(policy, "network", lambda: network)
    broken = [c.promise for c in check_policy(policy, policy.spec).checks if c.passed is False]
    assert broken[-1] == "what encode trains lies in the submodule encoder"


def test_a_density_integrates_to_one_and_inverts():
    mean, log_std = torch.tensor([[0.4]]), torch.tensor([[-0.7]])
    grid = torch.linspace(-0.9995, 0.9995, 20001)[:, None]
    distribution = TanhGaussian(mean, log_std)
    density = distribution.log_prob(grid, margin=1e-5).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=2e-3)
    action, log_prob = distribution.transform(torch.tensor([[0.3]]))
    assert distribution.log_prob(action).item() == pytest.approx(log_prob.item(), abs=1e-4)


def test_a_density_far_out_stays_finite():
    zeros = torch.zeros(1, 2)
    action, log_prob = TanhGaussian(torch.full((1, 2), 80.0), zeros).transform(zeros)
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(TanhGaussian(zeros, zeros).log_prob(action)).all()


def test_numbers_within_bounds_reach_the_network_from_minus_one_to_one():
    layout = make().layout.features
    assert layout.state_names == ("contact", "counter", "joint_position", "wrench")
    low = {k: v.low_array if v.low is not None else v.zeros() for k, v in STATE.items()}
    scaled = (layout.vector(low) - layout.offset) * layout.scale
    np.testing.assert_allclose(scaled, [0 - 1, 0 - 1, 0, -1, -1, -1, 0, 0, 0, 0, 0, 0])
    huge = {"x": ArraySpec((2,), low=(-3.4e38, -1.0), high=(3.4e38, 3.0))}
    layout = make(huge).layout.features
    np.testing.assert_allclose(layout.scale, [1, 0.5])
    np.testing.assert_allclose(layout.offset, [0, 1])


def test_chosen_observations_are_the_only_ones_that_count():
    policy = make(observations=("wrench",))
    policy.load(trained(policy))
    row, other = observations(policy.spec, 2)
    mixed = {**other, "wrench": row["wrench"]}
    same = policy.act(row, deterministic=True), policy.act(mixed, deterministic=True)
    np.testing.assert_array_equal(*same)
    with pytest.raises(SpecError, match="joint_speed"):
        make(observations=("joint_speed",))


def test_ignored_observations_need_not_be_there():
    policy = make(ignored_observations=("joint_position", "contact", "joint_speed"))
    assert policy.layout.features.state_names == ("counter", "wrench")
    with pytest.raises(SpecError, match="something to look at"):
        make(ignored_observations=tuple(STATE))


def test_an_actor_without_pictures_never_imports_torch():
    program = (
        "import sys, numpy as np\n"
        "from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy\n"
        "from user_core.specs import ArraySpec, RobotSpec\n"
        "spec = RobotSpec('r', {'x': ArraySpec((2,))}, ArraySpec((1,), low=-1., high=1.))\n"
        "policy = TanhGaussianPolicy(TanhGaussianConfig(), spec)\n"
        "policy.load(policy.arrays())\n"
        "policy.act({'x': np.zeros(2, np.float32)})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_weights_that_are_not_finite_are_refused_whole():
    policy = make()
    before = policy.act(observations(policy.spec, 1)[0], deterministic=True)
    arrays = trained(policy)
    arrays["layer1.bias"][3] = np.nan
    with pytest.raises(PolicyError, match=r"layer1\.bias.*not finite"):
        policy.load(arrays)
    after = policy.act(observations(policy.spec, 1)[0], deterministic=True)
    np.testing.assert_array_equal(before, after)


def test_loaded_weights_are_its_own():
    policy = make()
    arrays, row = trained(policy), observations(policy.spec, 1)[0]
    policy.load(arrays)
    before = policy.act(row, deterministic=True)
    arrays["head.bias"] += 1
    np.testing.assert_array_equal(before, policy.act(row, deterministic=True))


@pytest.mark.parametrize(
    "action", [ArraySpec((1,), "int64", 0, 3), ArraySpec((2,)), ArraySpec((2,), low=-1.0)]
)
def test_actions_it_cannot_squash_are_refused(action):
    with pytest.raises(SpecError, match="finite bounds"):
        TanhGaussianPolicy(TanhGaussianConfig(), RobotSpec("r", STATE, action))


def test_the_configuration_hash_says_what_weights_fit():
    spec = spec_of(STATE)
    same = policy_config_hash("tanh_gaussian", TanhGaussianConfig(), spec)
    assert same == policy_config_hash("tanh_gaussian", TanhGaussianConfig(seed=9), spec)
    renamed = RobotSpec("other", STATE, ACTION, lockstep=True)
    assert same == policy_config_hash("tanh_gaussian", TanhGaussianConfig(), renamed)
    different = {
        policy_config_hash("tanh_gaussian", TanhGaussianConfig(layer_norm=True), spec),
        policy_config_hash("other", TanhGaussianConfig(), spec),
        policy_config_hash("tanh_gaussian", TanhGaussianConfig(), spec_of(STATE | PICTURES)),
        policy_config_hash(
            "tanh_gaussian", TanhGaussianConfig(), RobotSpec("arm", STATE, ACTION, period_s=0.05)
        ),
        same,
    }
    assert len(different) == 5


def test_plain_data_and_configuration_hash_alike():
    spec = spec_of(STATE)
    name = "user_core.policies.tanh_gaussian:TanhGaussianPolicy"
    assert policy_config_hash(name, {"hidden": [256, 256]}, spec) == policy_config_hash(
        name, TanhGaussianConfig(), spec
    )
    with pytest.raises(ConfigError, match="hiden"):
        policy_config_hash(name, {"hiden": [3]}, spec)


def test_a_difference_far_into_a_long_value_is_told():
    def made_for(last):
        action = ArraySpec((12,), low=(-1.0,) * 12, high=(1.234567,) * 11 + (last,))
        return policy_made_for("tanh_gaussian", {}, RobotSpec("r", STATE, action))

    (there,), (here,), of_the_robot = differences_in_words(made_for(2.5), made_for(3.5))
    assert of_the_robot and there != here and max(len(there), len(here)) < 130
    assert there.startswith("of the robot action.high ...") and there.endswith("2.5]")
    assert here.startswith("of the robot action.high ...") and here.endswith("3.5]")


def test_a_log_std_range_the_wrong_way_round_is_refused():
    with pytest.raises(ConfigError, match="log_std_min"):
        TanhGaussianConfig(log_std_min=1.0, log_std_max=0.0)
