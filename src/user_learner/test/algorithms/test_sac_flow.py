"""SAC of flow policies: promises, refusals, resume, and that rewards choose among what was cloned, and go beyond it."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm, check_policy
from user_core.errors import PluginError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_testing.worlds.batches import random_batch

NUMBERS = RobotSpec(
    "arm", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0)),
    period_s=0.1,
)  # fmt: skip
EYES = RobotSpec(
    "arm", {**NUMBERS.observation, "eye": ArraySpec((16, 16, 3), "uint8", low=0, high=255)},
    NUMBERS.action, period_s=0.1,
)  # fmt: skip
CHOICES = RobotSpec(
    "arm", NUMBERS.observation,
    ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 2.0), categorical=(1,)), period_s=0.1,
)  # fmt: skip
SEEING = {"image_channels": [8], "embedding": 8, "heads": 2, "layers": 1}
ONLINE = {"rows": 3, "hidden": [16, 16], "steps": 3, "velocity": "gated", "path_noise": 0.5}


def flow(spec=NUMBERS, **params):
    return plugins.build("policies", "flow", {**ONLINE, **params}, spec)


def learner(policy, spec=NUMBERS, **params):
    small = {"critic_hidden": [16], "critics": 3, "critic_updates": 2, "critic_only_updates": 4}
    return plugins.build("algorithms", "sac_flow", {**small, **params}, spec, policy)


def windows(rng, rows, spec=NUMBERS):
    one = random_batch(spec, rows, rng)
    reward = rng.standard_normal((rows, 3)).astype(np.float32)
    discount = np.full((rows, 3), 0.97, np.float32)
    mask = np.arange(3) < rng.integers(1, 4, (rows, 1))
    return Batch(
        one.observation, np.repeat(one.action[:, None], 3, 1), np.where(mask, reward, 0),
        np.where(mask, discount, 1).astype(np.float32), one.next_observation, {"mask": mask},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "params"),
    [
        (NUMBERS, {}),
        (NUMBERS, {"velocity": "plain"}),
        (NUMBERS, {"backbone": "transformer", "embedding": 16, "layers": 1, "heads": 2}),
        (EYES, SEEING),
        (CHOICES, {}),
    ],
)
def test_it_keeps_the_promises_of_an_algorithm(spec, params):
    pair = [learner(flow(spec, **params), spec) for _ in range(2)]
    check_algorithm(*pair, flow(spec, **params), spec, batch_size=4).require()
    check_policy(flow(spec, **params), spec).require()


def test_it_makes_one_network():
    policy = flow()
    made, count = policy.network, []
    policy.network = lambda: count.append(0) or made()
    learner(policy)
    assert count == [0]


def test_a_restored_training_goes_on_bit_by_bit():
    """From before the actor follows the critics until after."""
    rng = np.random.default_rng(0)
    one, other = learner(flow()), learner(flow())
    one.update(windows(rng, 8))
    other.load_state(one.state())
    for _ in range(4):
        batch = windows(rng, 8)
        assert one.update(batch) == other.update(batch)
    for name, array in one.policy_arrays().items():
        np.testing.assert_array_equal(array, other.policy_arrays()[name])


def test_while_critics_learn_alone_the_flow_clones():
    rng = np.random.default_rng(0)
    cloning, waiting = learner(flow()), learner(flow(), cloning_weight=0.0)
    first = flow().arrays()["denoiser.layer0.weight"]
    for _ in range(2):
        batch = windows(rng, 8)
        assert cloning.update(batch)["cloning_loss"] > 0
        assert "cloning_loss" not in waiting.update(batch)
    moved = "denoiser.head.weight"
    assert (cloning.policy_arrays()[moved] != flow().arrays()[moved]).any()
    np.testing.assert_array_equal(waiting.policy_arrays()["denoiser.layer0.weight"], first)
    waiting.update(windows(rng, 8))
    assert (waiting.policy_arrays()[moved] != flow().arrays()[moved]).any()


def trained(begin, updates, rng, reward):
    """A flow that goes left or right, whose further steps are paid by ``reward``; what it does where x is given."""
    policy = flow(hidden=[32, 32], action_normalization="bounds")
    algorithm = learner(
        policy, critic_hidden=[64, 64], critics=2, critic_updates=1, critic_only_updates=begin,
        actor_learning_rate=2e-3, critic_learning_rate=3e-3, cloning_weight=0.1,
    )  # fmt: skip
    actor = flow(hidden=[32, 32], action_normalization="bounds")
    for update in range(begin + updates):
        x = rng.uniform(-1, 1, (128, 3)).astype(np.float32)
        action = np.full((128, 3, 2), 2.0, np.float32)
        action[..., 0] = rng.choice([-0.5, 0.5], (128, 1)) + rng.uniform(-0.3, 0.3, (128, 1))
        paid = np.zeros((128, 3), np.float32)
        paid[:, 2] = reward(x, action)
        none = np.tile(np.float32([1, 1, 0]), (128, 1))
        algorithm.update(Batch({"x": x}, action, paid, none, {"x": x}))
        if update == begin - 1:
            actor.load(algorithm.policy_arrays())
            before = acted(actor)
    actor.load(algorithm.policy_arrays())
    return before, acted(actor)


TRIAL = np.random.default_rng(5).uniform(-1, 1, (100, 3)).astype(np.float32)
TRIAL = TRIAL[np.abs(TRIAL[:, 0]) > 0.2]


def acted(actor):
    return np.stack([actor.act({"x": one})[:, 0] for one in TRIAL])


def test_rewards_choose_among_the_ways_that_were_cloned():
    side = np.sign(TRIAL[:, 0])
    before, after = trained(
        200,
        300,
        np.random.default_rng(0),
        lambda x, action: action[:, :, 0].mean(1) * np.sign(x[:, 0]),
    )
    assert 0.2 < (before.mean(1) * side > 0).mean() < 0.8
    assert (after.mean(1) * side > 0).mean() > 0.9
    assert (after.mean(1) * side > 0.2).mean() > 0.8


def rewarded(spec, policy, begin, updates, reward, seen):
    """A flow that cloned actions which do not depend on what is seen, then was paid for them; what it does then."""
    algorithm = learner(
        policy, spec, critic_hidden=[64, 64], critics=2, critic_updates=1, critic_only_updates=begin,
        actor_learning_rate=2e-3, critic_learning_rate=3e-3, cloning_weight=0.1,
    )  # fmt: skip
    rng, low, high = np.random.default_rng(0), spec.action.low_array, spec.action.high_array
    for _ in range(begin + updates):
        observation = seen(rng, 64)
        action = rng.uniform(low, high, (64, policy.rows, len(low))).astype(np.float32)
        for element, count in zip(spec.action.categorical, spec.action.counts, strict=True):
            action[..., element] = rng.integers(0, count, action.shape[:2])
        paid = np.zeros(action.shape[:2], np.float32)
        paid[:, -1] = reward(observation, action)
        over = np.ones_like(paid)
        over[:, -1] = 0
        if policy.rows == 1:
            action, paid, over = action[:, 0], paid[:, 0], over[:, 0]
        algorithm.update(Batch(observation, action, paid, over, observation))
    policy.load(algorithm.policy_arrays())
    trials = seen(rng, 60)
    rows = [{name: array[i] for name, array in trials.items()} for i in range(60)]
    return trials, np.stack([policy.act(row, deterministic=True) for row in rows])


def test_rewards_teach_what_images_alone_show():
    def seen(rng, count):
        light, red = np.zeros((count, 16, 16, 3), np.uint8), rng.random(count) < 0.5
        light[red, ..., 0] = light[~red, ..., 2] = 200
        return {"x": np.zeros((count, 3), np.float32), "eye": light}

    def side(observation):
        return np.where(observation["eye"][:, 0, 0, 0] > 0, -1.0, 1.0)

    policy = flow(
        EYES, **{**SEEING, "embedding": 16, "image_channels": [8, 8]}, rows=1, steps=2,
        action_normalization="bounds",
    )  # fmt: skip
    trials, made = rewarded(EYES, policy, 60, 120, lambda o, a: a[:, :, 0].mean(1) * side(o), seen)
    assert (made[:, 0, 0] * side(trials) > 0.2).mean() > 0.9


def test_rewards_teach_choices():
    def seen(rng, count):
        return {"x": rng.uniform(-1, 1, (count, 3)).astype(np.float32)}

    def wanted(observation):
        return np.where(observation["x"][:, 0] > 0, 2.0, 0.0)

    policy = flow(CHOICES, hidden=[32, 32], action_normalization="bounds")
    trials, made = rewarded(
        CHOICES, policy, 100, 200, lambda o, a: (a[:, :, 1] == wanted(o)[:, None]).mean(1), seen
    )
    clear = np.abs(trials["x"][:, 0]) > 0.2
    assert (made[clear, :, 1] == wanted(trials)[clear, None]).mean() > 0.8


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_what_sees_images_learns_by_cloning_until_rewards_lead(weight):
    rng = np.random.default_rng(0)
    algorithm = learner(flow(EYES, **SEEING), EYES, cloning_weight=weight)
    weights = [algorithm.policy_arrays()]
    for _ in range(2):  # critics learn alone within these calls
        algorithm.update(windows(rng, 8, EYES))
    weights.append(algorithm.policy_arrays())
    eyes = [n for n in weights[0] if n.startswith("denoiser.encoder.")]
    moved = [n for n in eyes if (weights[0][n] != weights[1][n]).any()]
    assert eyes and bool(moved) is (weight > 0)
    for _ in range(60):  # until the optimiser has forgotten
        algorithm.update(windows(rng, 8, EYES))
    weights.append(algorithm.policy_arrays())
    algorithm.update(windows(rng, 8, EYES))
    weights.append(algorithm.policy_arrays())
    for name in eyes:
        np.testing.assert_allclose(weights[3][name], weights[2][name], atol=1e-6, err_msg=name)
    assert (weights[3]["denoiser.leave.weight"] != weights[2]["denoiser.leave.weight"]).any()


def test_critics_see_the_action_that_a_code_becomes():
    """Choices settle to one of them, with the gradients of a softmax."""
    network = flow(CHOICES, rows=1).network()
    code = torch.tensor([[[1.5, 0.2, 0.4, -3.0]]], requires_grad=True)
    settled = network.code.settle_batch(code)
    assert settled.tolist() == [[[1.0, -1.0, 1.0, -1.0]]]
    torch.testing.assert_close(
        network.codes(network.code.decode_batch(code)), settled.flatten(1).detach()
    )
    settled[..., 2].sum().backward()
    of_continuous, first, second, third = code.grad[0, 0].tolist()
    assert of_continuous == 0 and second > 0 > first
    assert third < 0 and abs(first + second + third) < 1e-6


def test_a_flow_that_has_no_density_is_refused_in_words():
    with pytest.raises(PluginError, match="path_noise is 0") as told:
        learner(flow(path_noise=0.0))
    assert "path_noise above 0" in str(told.value)


def test_so_is_another_policy():
    with pytest.raises(PluginError, match="whose network has no"):
        learner(plugins.build("policies", "diffusion", {"rows": 3, "hidden": [8]}, NUMBERS))
