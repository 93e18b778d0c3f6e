"""On top of a frozen policy, residual and dsrl: promises, resume, a foreign base, and that they learn."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.codecs.weights import content_hash, encode_version
from user_core.conformance import check_algorithm, check_policy
from user_core.errors import ConfigError, PluginError, PolicyError
from user_core.policies import policy_config_hash
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch, PolicyVersion
from user_testing.worlds.batches import random_batch

ACTION = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0))
NUMBERS = RobotSpec("r", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ACTION)
EYES = RobotSpec(
    "r", {"x": NUMBERS.observation["x"], "image_front": ArraySpec((16, 16, 3), "uint8")}, ACTION
)
BASES = {
    "tanh_gaussian": {"hidden": [8], "image_channels": [2], "image_embedding": 3},
    "flow": {"rows": 4, "hidden": [8], "embedding": 16, "layers": 1, "heads": 2},
    "act": {"rows": 3, "embedding": 16, "layers": 1, "heads": 2},
    "user_core.fakes:LinearGaussianPolicy": {},
}
SMALL = {"hidden": [16], "image_channels": [2], "image_embedding": 3}


def stirred(policy, seed=1):
    """With weights that do something."""
    rng = np.random.default_rng(seed)
    arrays = policy.arrays()
    for name, array in arrays.items():
        if "offset" not in name and "scale" not in name:
            arrays[name] = (array + 0.2 * rng.standard_normal(array.shape)).astype(array.dtype)
    policy.load(arrays)
    return policy


def kept(folder, name="tanh_gaussian", spec=NUMBERS, params=None):
    """Parameters of a policy on a base whose file a learner kept."""
    params = BASES[name] if params is None else params
    base = stirred(plugins.build("policies", name, params, spec))
    return written(folder, name, spec, params, base.arrays())


def written(folder, name, spec, params, arrays):
    """Parameters of a policy on a base of these weights."""
    version = PolicyVersion(3, arrays, policy_config_hash(name, params, spec), 70, 50, 0)
    path = folder / "policy.safetensors"
    path.write_bytes(encode_version(version))
    return {
        "base": {"plugin": name, "params": params}, "base_file": str(path),
        "base_hash": content_hash(version),
    }  # fmt: skip


def build(given, spec=NUMBERS, **params):
    return plugins.build("policies", "residual", {**SMALL, **given, **params}, spec)


def learner(given, spec=NUMBERS, **settings):
    settings = {"critic_hidden": [16], "critics": 3, "critic_updates": 2, **settings}
    return plugins.build("algorithms", "residual", settings, spec, build(given, spec))


@pytest.mark.parametrize(
    ("name", "spec"),
    [(name, NUMBERS) for name in BASES] + [("tanh_gaussian", EYES), ("flow", EYES)],
)
def test_it_keeps_the_promises_of_a_policy_and_of_an_algorithm(tmp_path, name, spec):
    given = kept(tmp_path, name, spec)
    check_policy(build(given, spec), spec).require()
    check_algorithm(
        learner(given, spec, critic_only_updates=3), learner(given, spec, critic_only_updates=3),
        build(given, spec), spec, batch_size=4,
    ).require()  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_it_stays_near_the_base_and_a_batch_finds_what_the_base_does(tmp_path, name):
    policy, rng = build(kept(tmp_path, name), scale=0.1), np.random.default_rng(0)
    seen = [{"x": NUMBERS.observation["x"].sample(rng)} for _ in range(5)]
    at_once = policy.base.actions({"x": np.stack([one["x"] for one in seen])})
    for one, base in zip(seen, at_once, strict=True):
        np.testing.assert_allclose(policy.base.action(one), base, atol=1e-4)
        acted = [policy.act(one)[0] for _ in range(20)]
        assert (np.abs(acted - base) <= [0.1001, 0.2001]).all()  # a tenth of half of each range
        assert np.ptp(acted, axis=0).min() > 0.01
    untouched = policy.arrays()
    untouched |= {n: 0 * a for n, a in untouched.items() if n.startswith("head")}
    policy.load(untouched)
    np.testing.assert_allclose(policy.act(seen[0], deterministic=True)[0], at_once[0], atol=1e-4)


def test_versions_hold_the_correction_alone_and_the_base_is_not_trained(tmp_path):
    given = kept(tmp_path)
    algorithm, rng = learner(given, critic_only_updates=0), np.random.default_rng(0)
    base = algorithm.networks.policy._base.policy.arrays()
    before = algorithm.policy_arrays()
    for _ in range(3):
        algorithm.update(random_batch(NUMBERS, 16, rng))
    for name, array in algorithm.networks.policy._base.policy.arrays().items():
        np.testing.assert_array_equal(array, base[name])
    after = algorithm.policy_arrays()
    assert before["layer0.weight"].shape == (3 + 2, 16)  # x and what the base does
    assert (before["head.bias"] != after["head.bias"]).any()


def test_it_may_see_a_part_of_what_the_base_sees(tmp_path):
    given = kept(tmp_path, "flow", EYES)
    for chosen in ({"observations": ["x"]}, {"ignored_observations": ["image_front"]}):
        policy = build(given, EYES, **chosen)
        check_policy(policy, EYES).require()
        assert policy.arrays()["layer0.weight"].shape == (3 + 2, 16)


def test_a_restored_training_goes_on_bit_by_bit_over_the_end_of_the_critics_time_alone(tmp_path):
    given, rng = kept(tmp_path, "flow"), np.random.default_rng(0)
    one = learner(given, critic_only_updates=8)
    batches = [random_batch(NUMBERS, 12, rng) for _ in range(8)]
    first = one.policy_arrays()
    for batch in batches[:3]:
        one.update(batch)
    np.testing.assert_array_equal(one.policy_arrays()["head.bias"], first["head.bias"])
    other = learner(given, critic_only_updates=8)
    other.load_state(one.state())
    for batch in batches[3:]:
        assert one.update(batch) == other.update(batch)
    for name, array in one.policy_arrays().items():
        np.testing.assert_array_equal(array, other.policy_arrays()[name])
    assert (one.policy_arrays()["head.bias"] != first["head.bias"]).any()


def test_a_recorded_update_without_the_actor_is_forgotten_when_the_actor_begins(tmp_path):
    algorithm, rng = learner(kept(tmp_path), critic_only_updates=4), np.random.default_rng(0)
    forgotten = []
    algorithm._graphed.forget = lambda: forgotten.append(algorithm._updates)
    for _ in range(4):
        algorithm.update(random_batch(NUMBERS, 12, rng))
    assert forgotten == [4]  # the third call is the first in which it learns


def test_a_correction_of_the_base_is_learned(tmp_path):
    """One step; the reward says how near an action is to the base, moved by what x says."""
    given = kept(tmp_path)
    policy, rng = build(given, scale=0.3, hidden=[32]), np.random.default_rng(0)
    settings = {
        "critic_hidden": [64, 64], "critics": 2, "critic_updates": 1, "critic_only_updates": 100,
        "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3,
    }  # fmt: skip
    algorithm = plugins.build("algorithms", "residual", settings, NUMBERS, policy)
    network, half = algorithm.networks.policy, np.array([1.0, 2.0], np.float32)

    def wanted(x):
        move = 0.2 * np.sign(x[:, :2]).astype(np.float32) * half
        return policy.base.actions({"x": x}) + move

    def regret(x):
        policy.load(algorithm.policy_arrays())
        acted = np.stack([policy.act({"x": one}, deterministic=True)[0] for one in x])
        return np.abs((acted - wanted(x)) / half).mean()

    trial = rng.uniform(-1, 1, (100, 3)).astype(np.float32)
    start = regret(trial)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        x = rng.uniform(-1, 1, (128, 3)).astype(np.float32)
        with torch.no_grad():
            unit = network.distribution(network.encode(network.inputs({"x": x}))).sample(generator)
        action = policy.layout.scale.to_robot(unit[0].numpy())
        reward = -10 * np.square((action - wanted(x)) / half).sum(1).astype(np.float32)
        batch = Batch({"x": x}, action, reward, np.zeros(128, np.float32), {"x": x})
        algorithm.update(batch)
    assert start > 0.15
    assert regret(trial) < 0.4 * start


def test_a_foreign_base_is_refused_in_words(tmp_path):
    given = kept(tmp_path)
    with pytest.raises(ConfigError, match="base_file.*policy.safetensors"):
        build({**given, "base_file": ""})
    with pytest.raises(ConfigError, match="No such file"):
        build({**given, "base_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=f"say base_hash: {given['base_hash']}"):
        build({**given, "base_hash": ""})
    with pytest.raises(PolicyError, match="another file, or another version"):
        build({**given, "base_hash": "0" * 64})
    other = {"plugin": "tanh_gaussian", "params": {"hidden": [9]}}
    with pytest.raises(PolicyError, match=r"base\.params as they were in its training"):
        build({**given, "base": other})
    wider = RobotSpec("w", {"x": ArraySpec((4,), low=-2.0, high=2.0)}, ACTION)
    with pytest.raises(PolicyError, match="same observations"):
        build(given, wider)
    choices = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0), categorical=(1,))
    with pytest.raises(PolicyError, match="same observations"):
        build(given, RobotSpec("c", NUMBERS.observation, choices))
    plain = plugins.build("policies", "tanh_gaussian", {"hidden": [8]}, NUMBERS)
    with pytest.raises(PluginError, match="frozen base"):
        plugins.build("algorithms", "residual", {}, NUMBERS, plain)


def test_the_hash_of_versions_names_the_base_and_not_where_it_lies(tmp_path):
    given = {**SMALL, **kept(tmp_path)}

    def hashed(**changes):
        return policy_config_hash("residual", given | changes, NUMBERS)

    assert hashed() == hashed(base_file="elsewhere") != hashed(base_hash="0" * 64)


# --------------------------------------------------------------------------------------------------
# Noise that is chosen
# --------------------------------------------------------------------------------------------------


def steered(given, spec=NUMBERS, **params):
    return plugins.build("policies", "steered", {**SMALL, **given, **params}, spec)


def steering(policy, spec=NUMBERS, **settings):
    settings = {"critic_hidden": [16], "critics": 3, "critic_updates": 2, **settings}
    return plugins.build("algorithms", "dsrl", settings, spec, policy)


def kept_flow(folder, name="flow", spec=NUMBERS):
    return kept(folder, name, spec, {"rows": 4, "hidden": [8]})


@pytest.mark.parametrize("name", ["flow", "diffusion"])
@pytest.mark.parametrize("shared", [False, True])
def test_steering_keeps_the_promises_of_a_policy_and_of_an_algorithm(tmp_path, name, shared):
    given = {**kept_flow(tmp_path, name), "shared_noise": shared, "normalization": "data"}
    policy = steered(given)
    assert policy.acts_without_torch
    assert policy.arrays()["head.bias"].shape == (2 * (2 if shared else 8),)
    check_policy(policy, NUMBERS).require()
    pair = [steering(steered(given), critic_only_updates=3) for _ in range(2)]
    check_algorithm(*pair, policy, NUMBERS, batch_size=4).require()


@pytest.mark.parametrize("seen", [{}, {"ignored_observations": ["image_front"]}])
@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_a_base_that_looks_at_images_is_steered_too(tmp_path, name, seen):
    """Also by a network that looks at none, which is then all that learns from numbers."""
    params = {**BASES["flow"], "image_channels": [8, 8]}
    given = {**kept(tmp_path, name, EYES, params), **seen, "rows": 2}
    policy = stirred(steered(given, EYES))
    assert not policy.acts_without_torch
    check_policy(policy, EYES).require()
    pair = [steering(steered(given, EYES), EYES, critic_only_updates=3) for _ in range(2)]
    check_algorithm(*pair, policy, EYES, batch_size=4).require()
    rng = np.random.default_rng(0)
    shown = {n: np.stack([a.sample(rng) for _ in range(4)]) for n, a in EYES.observation.items()}
    network = policy.network()
    features = network.encode(network.inputs(shown))
    unit = network.steered(features, network.noise(features).mode).numpy().reshape(4, 2, 2)
    acted = [policy.act({n: a[i] for n, a in shown.items()}, deterministic=True) for i in range(4)]
    there = policy.base.policy.code.scale.to_robot(unit)
    np.testing.assert_allclose(np.stack(acted), there, atol=1e-4)


def kept_flow_of_two_ways(folder, rows, rng):
    """It goes left or right, with all rows, as its noise says."""
    params = {"rows": rows, "hidden": [32, 32], "steps": 4}
    base = plugins.build("policies", "flow", params, NUMBERS)
    cloning = plugins.build("algorithms", "bc", {"learning_rate": 5e-3}, NUMBERS, base)
    for _ in range(300):
        x = rng.uniform(-1, 1, (128, 3)).astype(np.float32)
        action = np.full((128, rows, 2), 2.0, np.float32)
        action[..., 0] = rng.choice([-0.6, 0.6], (128, 1))
        none = np.zeros((128, rows), np.float32)
        cloning.update(Batch({"x": x}, action, none, none, {"x": x}))
    return written(folder, "flow", NUMBERS, params, cloning.policy_arrays())


def steering_of_two_ways(policy):
    return steering(
        policy, critic_hidden=[64, 64], critics=2, critic_updates=1, critic_only_updates=50,
        actor_learning_rate=3e-3, critic_learning_rate=3e-3,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3])
def test_the_actor_does_what_the_learner_thinks_it_does(tmp_path, rows):
    policy = stirred(steered({**kept_flow(tmp_path), "rows": rows}))
    rng = np.random.default_rng(0)
    network, x = policy.network(), rng.uniform(-2, 2, (6, 3)).astype(np.float32)
    features = network.encode(network.inputs({"x": x}))
    unit = network.steered(features, network.noise(features).mode)
    acted = np.stack([policy.act({"x": one}, deterministic=True) for one in x])
    there = policy.base.policy.code.scale.to_robot(unit.numpy().reshape(6, rows, 2))
    np.testing.assert_allclose(acted, there, atol=1e-4)
    assert np.ptp(acted, axis=0).min() > 0.01


def test_whole_chunks_are_steered_and_judged_as_one_decision(tmp_path):
    """Of a base that goes left or right with all rows, what only the last row is paid for is chosen."""
    rng = np.random.default_rng(0)
    policy = steered(kept_flow_of_two_ways(tmp_path, 3, rng), hidden=[32], rows=3)
    algorithm = steering_of_two_ways(policy)
    network, scale = algorithm.networks.policy, policy.base.policy.code.scale
    for _ in range(300):
        x = rng.uniform(-1, 1, (128, 3)).astype(np.float32)
        with torch.no_grad():
            features = network.encode(network.inputs({"x": x}))
            noise = torch.from_numpy(rng.uniform(-1, 1, (128, 6)).astype(np.float32))
            unit = network.steered(features, noise).numpy().reshape(128, 3, 2)
        action, reward = scale.to_robot(unit), np.zeros((128, 3), np.float32)
        reward[:, 2] = action[:, 2, 0] * np.sign(x[:, 0])
        discount = np.tile(np.float32([0.97, 0.97, 0]), (128, 1))
        algorithm.update(Batch({"x": x}, action, reward, discount, {"x": x}))
    policy.load(algorithm.policy_arrays())
    trial = rng.uniform(-1, 1, (100, 3)).astype(np.float32)
    trial = trial[np.abs(trial[:, 0]) > 0.2]
    acted = np.stack([policy.act({"x": one}, deterministic=True)[:, 0] for one in trial])
    assert acted.shape == (len(trial), 3)
    assert (acted * np.sign(trial[:, :1]) > 0.3).mean() > 0.9


def test_a_restored_steering_goes_on_bit_by_bit(tmp_path):
    """Also while the scale of inputs follows the data, which all critics must feel alike."""
    settling = {"normalization": "data", "normalization_calls": 1}
    given, rng = {**kept_flow(tmp_path), **settling}, np.random.default_rng(0)
    one, other = (steering(steered(given), critic_only_updates=6) for _ in range(2))
    first = one.policy_arrays()
    x = 0.05 * rng.uniform(-1, 1, (12, 3)).astype(np.float32)
    one.update(random_batch(NUMBERS, 12, rng, observation={"x": x}, next_observation={"x": x}))
    weights = one.state()["noise_critics"]["layer0.weight"]
    one.update(random_batch(NUMBERS, 12, rng))
    assert (weights != one.state()["noise_critics"]["layer0.weight"])[:, :3].all()  # scaled anew
    np.testing.assert_array_equal(one.policy_arrays()["head.bias"], first["head.bias"])
    other.load_state(one.state())
    for _ in range(4):
        batch = random_batch(NUMBERS, 12, rng)
        assert one.update(batch) == other.update(batch)
    assert (one.policy_arrays()["head.bias"] != first["head.bias"]).any()
    for name, array in one.state()["noise_critics"].items():
        np.testing.assert_array_equal(array, other.state()["noise_critics"][name])


def test_of_two_ways_that_the_base_knows_the_better_one_is_chosen(tmp_path):
    """The base goes left or right, as its noise says; the reward wants left where x is below 0."""
    rng = np.random.default_rng(0)
    policy = steered(kept_flow_of_two_ways(tmp_path, 2, rng), hidden=[32])
    algorithm = steering_of_two_ways(policy)
    trial = rng.uniform(-1, 1, (100, 3)).astype(np.float32)
    trial = trial[np.abs(trial[:, 0]) > 0.2]

    def right(deterministic):
        policy.load(algorithm.policy_arrays())
        acted = [policy.act({"x": one}, deterministic=deterministic)[0, 0] for one in trial]
        return np.mean(np.array(acted) * np.sign(trial[:, 0]) > 0.3)

    start, network = right(False), algorithm.networks.policy
    for _ in range(300):
        x = rng.uniform(-1, 1, (128, 3)).astype(np.float32)
        with torch.no_grad():
            features = network.encode(network.inputs({"x": x}))
            noise = torch.from_numpy(rng.uniform(-1, 1, (128, 4)).astype(np.float32))
            unit = network.steered(features, noise).numpy()
        action = policy.base.policy.code.scale.to_robot(unit)
        reward = action[:, 0] * np.sign(x[:, 0])
        algorithm.update(Batch({"x": x}, action, reward, np.zeros(128, np.float32), {"x": x}))
    assert start < 0.7
    assert right(True) > 0.9


def test_a_base_that_cannot_be_steered_is_refused_in_words(tmp_path):
    with pytest.raises(PolicyError, match="makes nothing from noise"):
        steered(kept(tmp_path))
    told = {**BASES["flow"], "language": {"tasks": {"a": "do a", "b": "do b"}}}
    with pytest.raises(PolicyError, match="takes several tasks"):
        steered(kept(tmp_path, "flow", NUMBERS, told))
    with pytest.raises(ConfigError, match="at most 4, those that the base plans"):
        steered({**kept_flow(tmp_path), "rows": 5})
    with pytest.raises(PolicyError, match="another file"):
        steered({**kept_flow(tmp_path), "base_hash": "0" * 64})
    with pytest.raises(PluginError, match="the policy steered, on a frozen base"):
        plugins.build("algorithms", "dsrl", {}, NUMBERS, build(kept(tmp_path)))
    with pytest.raises(PluginError, match=r"noise|distribution"):
        plugins.build("algorithms", "rlpd", {}, NUMBERS, steered(kept_flow(tmp_path)))
