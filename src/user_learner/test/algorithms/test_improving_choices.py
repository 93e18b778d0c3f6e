"""Choices beside continuous elements, as of a gripper, in residual, dsrl and cal_ql: promises, equations, what is
learned."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.codecs.weights import content_hash, encode_version
from user_core.conformance import check_algorithm, check_policy
from user_core.policies import policy_config_hash
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Batch, PolicyVersion
from user_learner.algorithms.common.choice_values import ChoiceValues
from user_testing.worlds.batches import random_batch

SEEN = {"x": ArraySpec((2,), low=-1.0, high=1.0)}
GRIPPER = RobotSpec("g", SEEN, ArraySpec((2,), low=(-2.0, 0.0), high=(2.0, 2.0), categorical=(1,)))
ONLY = RobotSpec("c", SEEN, ArraySpec((1,), "int64", 1, 3, categorical=(0,)), ActionKind.DISCRETE)
SPECS = pytest.mark.parametrize("spec", [GRIPPER, ONLY], ids=["gripper", "only"])
BASES = {
    "tanh_gaussian": {"hidden": [8]},
    "flow": {"rows": 3, "hidden": [16]},
    "diffusion": {"rows": 3, "hidden": [16]},
}
SMALL = {"critic_hidden": [16], "critics": 3, "critic_updates": 2}
FAST = {
    "critic_hidden": [64, 64], "critics": 2, "critic_updates": 1, "critic_only_updates": 100,
    "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3,
}  # fmt: skip


def on_base(folder, policy, base, spec, arrays=None, **params):
    """A policy on a base that was kept in a file; arrays of the base are changed at random unless they are given."""
    made, rng = plugins.build("policies", base, BASES[base], spec), np.random.default_rng(1)
    if arrays is None:
        arrays = {
            n: a
            + (0 if "scale" in n or "bias" in n else 0.8)
            * rng.standard_normal(a.shape).astype(a.dtype)
            for n, a in made.arrays().items()
        }
    version = PolicyVersion(1, arrays, policy_config_hash(base, BASES[base], spec), 0, 0, 0)
    path = folder / f"{base}.safetensors"
    path.write_bytes(encode_version(version))
    given = {"base": {"plugin": base, "params": BASES[base]}, "base_file": str(path)}
    given |= {"base_hash": content_hash(version), "hidden": [16], **params}
    return plugins.build("policies", policy, given, spec)


def cloned(base, spec, action, rng, updates=200):
    """Arrays of a base that does in every state what ``action(x)`` draws for it."""
    policy = plugins.build("policies", base, BASES[base], spec)
    cloning = plugins.build("algorithms", "bc", {"learning_rate": 5e-3}, spec, policy)
    for _ in range(updates):
        x = rng.uniform(-1, 1, (128, 2)).astype(np.float32)
        done, none = action(x), np.zeros(128, np.float32)
        if policy.rows > 1:
            done = np.repeat(done[:, None], policy.rows, 1)
            none = np.zeros((128, policy.rows), np.float32)
        cloning.update(Batch({"x": x}, done, none, none, {"x": x}))
    return cloning.policy_arrays()


@SPECS
@pytest.mark.parametrize("base", BASES)
def test_a_residual_keeps_the_promises(tmp_path, base, spec):
    check_policy(on_base(tmp_path, "residual", base, spec), spec).require()
    pair = [
        plugins.build(
            "algorithms", "residual", {**SMALL, "critic_only_updates": 3}, spec,
            on_base(tmp_path, "residual", base, spec),
        )
        for _ in range(2)
    ]  # fmt: skip
    check_algorithm(*pair, on_base(tmp_path, "residual", base, spec), spec, batch_size=4).require()


@SPECS
@pytest.mark.parametrize("base", ["flow", "diffusion"])
def test_steering_keeps_the_promises(tmp_path, base, spec):
    policy = on_base(tmp_path, "steered", base, spec, rows=2)
    check_policy(policy, spec).require()
    pair = [
        plugins.build("algorithms", "dsrl", {**SMALL, "critic_only_updates": 3}, spec,
                      on_base(tmp_path, "steered", base, spec, rows=2))
        for _ in range(2)
    ]  # fmt: skip
    check_algorithm(*pair, policy, spec, batch_size=4).require()


@SPECS
def test_cal_ql_keeps_the_promises(spec):
    def made():
        policy = plugins.build("policies", "tanh_gaussian", {"hidden": [16]}, spec)
        settings = {"critic_hidden": [16], "critics": 3, "critic_updates": 2}
        return plugins.build("algorithms", "cal_ql", settings, spec, policy)

    policy = plugins.build("policies", "tanh_gaussian", {"hidden": [16]}, spec)
    check_algorithm(made(), made(), policy, spec, batch_size=8).require()


def test_untaught_a_residual_keeps_the_bases_choice_as_often_as_it_says(tmp_path):
    policy = on_base(tmp_path, "residual", "tanh_gaussian", GRIPPER, kept_choices=0.8)
    zeros = {n: 0 * a if n.startswith("head") else a for n, a in policy.arrays().items()}
    policy.load(zeros)
    rng, network = np.random.default_rng(0), policy.network()
    x = rng.uniform(-1, 1, (20, 2)).astype(np.float32)
    base = policy.base.actions({"x": x})
    assert len(np.unique(base[:, 1])) > 1
    found = network.distribution(network.encode(network.inputs({"x": x})))
    probabilities = found.choice_log_probs[0].exp().detach().numpy()
    np.testing.assert_allclose(probabilities[np.arange(20), base[:, 1].astype(int)], 0.8, rtol=1e-5)
    kept = []
    for one, does in zip(x, base, strict=True):
        still = policy.act({"x": one}, deterministic=True)[0]
        np.testing.assert_allclose(still, does, atol=1e-4)
        drawn = np.stack([policy.act({"x": one})[0] for _ in range(50)])
        assert (np.abs(drawn[:, 0] - does[0]) <= 0.4001).all()  # a fifth of half the range
        kept.append((drawn[:, 1] == does[1]).mean())
    assert np.mean(kept) == pytest.approx(0.8, abs=0.05)


def reward_of(x, action):
    """How near the continuous element is to half of x, and 1 for the choice that the sign of x wants: 0 or 2."""
    wanted = np.where(x[:, 0] > 0, 2, 0)
    near = -np.square(action[:, 0] - 0.3 * np.sign(x[:, 1]))
    return (near + (action[:, 1] == wanted)).astype(np.float32)


def score(policy, rng):
    x = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    x = x[np.abs(x).min(1) > 0.15]
    acted = np.stack([policy.act({"x": one}, deterministic=True)[0] for one in x])
    wanted = np.where(x[:, 0] > 0, 2, 0)
    return (acted[:, 1] == wanted).mean(), np.abs(acted[:, 0] - 0.3 * np.sign(x[:, 1])).mean()


def test_a_residual_overturns_a_wrong_choice_and_corrects_what_moves(tmp_path):
    """The base always chooses 0 and stays at 0."""
    rng = np.random.default_rng(0)
    arrays = cloned("tanh_gaussian", GRIPPER, lambda x: np.zeros((128, 2), np.float32), rng)
    policy = on_base(tmp_path, "residual", "tanh_gaussian", GRIPPER, arrays, hidden=[32])
    right, off = score(policy, rng)
    assert right < 0.6 and off > 0.25
    algorithm = plugins.build("algorithms", "residual", FAST, GRIPPER, policy)
    network = algorithm.networks.policy
    for _ in range(300):
        x = rng.uniform(-1, 1, (128, 2)).astype(np.float32)
        with torch.no_grad():
            found = network.distribution(network.encode(network.inputs({"x": x})))
            unit = found.sample(algorithm.generator)[0].numpy()
        action, none = policy.layout.scale.to_robot(unit), np.zeros(128, np.float32)
        algorithm.update(Batch({"x": x}, action, reward_of(x, action), none, {"x": x}))
    policy.load(algorithm.policy_arrays())
    right, off = score(policy, rng)
    assert right > 0.95 and off < 0.12


def test_steering_chooses_among_the_choices_that_the_base_knows(tmp_path):
    """The base chooses 0 or 2, each as often, as its noise says."""
    rng = np.random.default_rng(0)

    def either(x):
        return np.stack([0 * x[:, 0], rng.choice([0.0, 2.0], 128)], 1).astype(np.float32)

    arrays = cloned("flow", GRIPPER, either, rng)
    policy = on_base(tmp_path, "steered", "flow", GRIPPER, arrays, hidden=[32])
    algorithm = plugins.build("algorithms", "dsrl", FAST, GRIPPER, policy)
    network, scale = algorithm.networks.policy, policy.base.policy.code.scale
    start, _ = score(policy, rng)
    for _ in range(250):
        x = rng.uniform(-1, 1, (128, 2)).astype(np.float32)
        with torch.no_grad():
            features = network.encode(network.inputs({"x": x}))
            noise = rng.uniform(-1, 1, (128, network.noise_size)).astype(np.float32)
            unit = network.steered(features, torch.from_numpy(noise)).numpy()
        action, none = scale.to_robot(unit), np.zeros(128, np.float32)
        assert set(action[:, 1]) <= {0.0, 1.0, 2.0}
        algorithm.update(Batch({"x": x}, action, reward_of(x, action), none, {"x": x}))
    policy.load(algorithm.policy_arrays())
    right, _ = score(policy, rng)
    assert start < 0.7
    assert right > 0.9


def test_the_pessimism_of_cal_ql_over_choices_by_hand():
    policy = plugins.build("policies", "tanh_gaussian", {"hidden": [16]}, ONLY)
    settings = {"critic_hidden": [16], "critics": 2, "critic_updates": 1}
    algorithm = plugins.build("algorithms", "cal_ql", settings, ONLY, policy)
    batch = random_batch(ONLY, 5, np.random.default_rng(0))
    (minibatch,) = algorithm._minibatcher.cut(batch, 1)
    features = algorithm.networks.features(minibatch.inputs, algorithm.generator)
    ahead = algorithm._look_ahead(minibatch.next_inputs)
    found = algorithm._elsewhere(features, ahead)
    networks, none = algorithm.networks, torch.zeros((5, 0))
    with torch.no_grad():
        values = networks.values(networks.critics.frozen, features, none)
        least = algorithm.reference(features)
    by_hand = np.log(np.exp(np.maximum(values.numpy(), least.numpy()[:, None])).sum(-1))
    assert found.shape == (2, 5, 1)
    np.testing.assert_allclose(found[..., 0].detach().numpy(), by_hand, rtol=1e-5)


def test_the_sum_over_many_choices_is_that_over_all_combinations():
    counts = [8, 9]  # 72 combinations: a value for each choice of each element
    many, values = ChoiceValues([0, 1], counts), torch.randn(3, 4, 17)
    each = values[..., :8, None] / 2 + values[..., None, 8:] / 2
    torch.testing.assert_close(many.log_sum_exp(values), each.flatten(-2).logsumexp(-1))
    few = torch.randn(3, 4, 6)
    torch.testing.assert_close(ChoiceValues([0], [6]).log_sum_exp(few), few.logsumexp(-1))


def test_a_choice_that_data_do_not_show_is_worth_less():
    """From one state: all choose 0, and get 1 when they do so; nobody ever chose 1 or 2."""

    def gap(weight):
        policy = plugins.build("policies", "tanh_gaussian", {"hidden": [16]}, GRIPPER)
        rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate"), 3e-3)
        settings = {
            "critic_hidden": [32], "critics": 2, "critic_updates": 1, "conservative_weight": weight,
            "reference": {"hidden": [16], "learning_rate": 1e-2}, **rates,
        }  # fmt: skip
        algorithm = plugins.build("algorithms", "cal_ql", settings, GRIPPER, policy)
        rng, here = np.random.default_rng(0), {"x": np.full((64, 2), 0.5, np.float32)}
        for _ in range(120):
            action = np.stack([rng.normal(0, 0.2, 64), np.zeros(64)], 1).astype(np.float32)
            one, none = np.ones(64, np.float32), np.zeros(64, np.float32)
            algorithm.update(Batch(here, action, one, none, here))
        networks = algorithm.networks
        with torch.no_grad():
            features = networks.policy.encode(networks.policy.inputs({"x": here["x"][:1]}))
            said = networks.values(networks.critics.frozen, features, torch.zeros((1, 1))).mean(0)[
                0
            ]
        return float(said[0] - said[1:].max())

    assert gap(1.0) > 0.3 + gap(0.0)
