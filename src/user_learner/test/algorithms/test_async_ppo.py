"""Asynchronous PPO: which actions count, by how much, and that it learns from policies that are old."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_testing.worlds.batches import random_batch

NUMBERS = RobotSpec(
    "r", {"x": ArraySpec((3,), low=-2.0, high=2.0)},
    ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0)),
)  # fmt: skip
CHOICES = RobotSpec(
    "c", NUMBERS.observation, ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 2.0), categorical=(1,))
)


def policy_for(spec=NUMBERS, **params):
    return plugins.build("policies", "tanh_gaussian", {"hidden": [16], **params}, spec)


def make(spec=NUMBERS, policy=None, **settings):
    settings = {"values": {"hidden": [16]}, **settings}
    return plugins.build(
        "algorithms",
        "async_ppo",
        settings,
        spec,
        policy or policy_for(spec),
    )


def batch_of(versions, seed=0, spec=NUMBERS, **changes):
    versions = np.asarray(versions)
    extras = {"policy_version": versions}
    return random_batch(spec, len(versions), np.random.default_rng(seed), extras=extras, **changes)


@pytest.mark.parametrize("spec", [NUMBERS, CHOICES], ids=["numbers", "choices"])
def test_the_promises_are_kept(spec):
    check_algorithm(make(spec), make(spec), policy_for(spec), spec, batch_size=8).require()


def test_chunks_are_learned_too():
    def policy():
        return plugins.build("policies", "action_chunks", {"rows": 3, "hidden": [16]}, NUMBERS)

    pair = [make(policy=policy()) for _ in range(2)]
    check_algorithm(*pair, policy(), NUMBERS, batch_size=8).require()


def test_what_unknown_versions_did_counts_for_nothing():
    results = []
    for reward in (1.0, 50.0):
        algorithm = make()
        algorithm.published(3, algorithm.policy_arrays())
        rewards = np.where(np.arange(8) < 4, 1.0, reward).astype(np.float32)
        metrics = algorithm.update(batch_of([3] * 4 + [0, 1, 2, 9], reward=rewards))
        assert metrics["usable"] == 0.5
        results.append(algorithm.policy_arrays())
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])
    before = results[0]
    assert algorithm.update(batch_of([7] * 8)) == {"usable": 0.0}
    assert all((a == before[n]).all() for n, a in algorithm.policy_arrays().items() if "layer" in n)


def test_the_newest_versions_are_kept():
    algorithm = make(versions_kept=2)
    for number in (1, 2, 5):
        algorithm.published(number, algorithm.policy_arrays())
    assert algorithm.update(batch_of([1, 2, 5, 5]))["usable"] == 0.75


def test_actions_are_weighted_for_the_policy_that_acted():
    """The version that acted is another: weights are what the two densities say, up to the bound."""
    policy, other = policy_for(), policy_for(seed=7)
    rng, arrays = np.random.default_rng(3), other.arrays()
    arrays["head.bias"] = arrays["head.bias"] + rng.normal(0, 0.5, arrays["head.bias"].shape)
    arrays["head.bias"] = arrays["head.bias"].astype(np.float32)
    other.load(arrays)
    batch = batch_of([4] * 64)
    unit = torch.from_numpy((batch.action - np.array([0, 2])) / np.array([1, 2])).float()

    def density(network):
        seen = network.encode(network.inputs(batch.observation))
        return network.distribution(seen).log_prob(unit.clamp(-1, 1))

    with torch.no_grad():
        weights = (density(policy.network()) - density(other.network())).exp()
    for bound in (1.5, 1e9):
        algorithm = make(policy=policy_for(), importance_bound=bound)
        algorithm.published(4, other.arrays())
        found = algorithm.update(batch)["importance"]
        assert found == pytest.approx(float(weights.clamp(max=bound).mean()), rel=1e-3)


def test_a_restored_training_goes_on_bit_by_bit_and_knows_the_versions():
    one, other = make(), make(policy=policy_for(seed=5), seed=9)
    one.published(1, one.policy_arrays())
    for seed in range(3):
        one.update(batch_of([1] * 12, seed))
    one.published(2, one.policy_arrays())
    other.load_state(one.state())
    for seed in range(3, 7):
        batch = batch_of([1, 2, 3] * 4, seed)
        assert one.update(batch) == other.update(batch)
    for name, array in one.policy_arrays().items():
        np.testing.assert_array_equal(array, other.policy_arrays()[name])


@pytest.mark.parametrize("spec", [NUMBERS, CHOICES], ids=["numbers", "choices"])
def test_it_learns_from_policies_that_are_old(spec):
    """One step; the action that pays depends on what is seen. Versions come late and seldom."""
    actor, rng = policy_for(spec, hidden=[32], seed=1), np.random.default_rng(0)
    algorithm = make(
        spec, policy_for(spec, hidden=[32]), learning_rate=5e-3, entropy_weight=0.0,
        values={"hidden": [32], "learning_rate": 5e-3},
    )  # fmt: skip

    def regret(x, action):
        wanted = 0.5 * np.sign(x[:, 0])
        off = np.abs(action[:, 0] - wanted)
        if spec is CHOICES:
            off = off + (action[:, 1] != np.where(x[:, 1] > 0, 2, 0))
        return off

    steps = []
    for version in range(1, 31):
        algorithm.published(version, arrays := algorithm.policy_arrays())
        actor.load(arrays)
        x = rng.uniform(-1, 1, (96, 3)).astype(np.float32)
        action = np.stack([actor.act({"x": one})[0] for one in x])
        steps = [*steps, (x, action, np.full(96, version))][-4:]  # up to three versions old
        seen, done, by = (np.concatenate(part) for part in zip(*steps, strict=True))
        reward, none = -regret(seen, done).astype(np.float32), np.zeros(len(seen), np.float32)
        for _ in range(12):
            rows = rng.integers(0, len(seen), 128)
            now = {"x": seen[rows]}
            extras = {"policy_version": by[rows]}
            algorithm.update(Batch(now, done[rows], reward[rows], none[rows], now, extras))
    first, last = policy_for(spec, hidden=[32]), actor
    x = rng.uniform(-1, 1, (100, 3)).astype(np.float32)
    start, end = (
        regret(x, np.stack([p.act({"x": one}, deterministic=True)[0] for one in x])).mean()
        for p in (first, last)
    )
    assert end < 0.5 * start
