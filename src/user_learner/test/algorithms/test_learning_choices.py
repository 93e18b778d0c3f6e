"""SAC, RLPD and BC on actions with choices: equations by hand, optima that are known, promises."""

import math

import numpy as np
import pytest
import torch

from user_core.config import from_mapping
from user_core.conformance import check_algorithm
from user_core.errors import PluginError
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.choice_values import (
    JOINT_CHOICES,
    ChoiceValues,
    entropy,
    share_at,
)
from user_learner.algorithms.imitation.bc import BC
from user_learner.algorithms.off_policy.rlpd import RLPD
from user_learner.algorithms.off_policy.sac import SAC

STATE = {"x": ArraySpec((2,), low=-1.0, high=1.0)}
ONE = RobotSpec("r", STATE, ArraySpec((1,), "int64", 1, 2, categorical=(0,)), ActionKind.DISCRETE)
TWO = RobotSpec("r", STATE, ArraySpec((2,), "int8", 0, 1, categorical=(0, 1)), ActionKind.DISCRETE)
MANY = RobotSpec(
    "r", STATE, ArraySpec((7,), "int64", 0, 2, categorical=tuple(range(7))), ActionKind.DISCRETE
)
HYBRID = RobotSpec("r", STATE, ArraySpec((2,), low=(-2.0, 0.0), high=(2.0, 2.0), categorical=(1,)))
IMAGES = RobotSpec("r", {"image": ArraySpec((16, 16, 3), "uint8")}, HYBRID.action)
SPECS = {"one": ONE, "two": TWO, "many": MANY, "hybrid": HYBRID, "images": IMAGES}
SMALL = {"critic_hidden": [16]}


def policy_for(spec, **settings):
    settings = {"hidden": (16,), "image_channels": (4,), "image_embedding": 4, **settings}
    return TanhGaussianPolicy(TanhGaussianConfig(**settings), spec)


def make(cls, spec, **settings):
    settings = settings if cls is BC else {**SMALL, **settings}
    return cls(from_mapping(cls.Config, settings), spec, policy_for(spec))


def batch_of(x, action, reward, discount=0.0, next_x=None):
    rows = len(x)
    return Batch(
        {"x": np.asarray(x, np.float32)},
        np.asarray(action),
        np.asarray(reward, np.float32),
        np.broadcast_to(np.asarray(discount, np.float32), (rows,)),
        {"x": np.asarray(x if next_x is None else next_x, np.float32)},
    )


def values(algorithm, x, action=None):
    """Of the critics, (E, B, N)."""
    x = torch.tensor(x, dtype=torch.float32)
    action = torch.zeros((len(x), 0)) if action is None else torch.tensor(action).float()
    networks = algorithm.networks
    with torch.no_grad():
        return networks.values(networks.critics.frozen, x, action)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize(
    ("cls", "settings"), [(SAC, {}), (RLPD, {"critics": 3, "critic_updates": 2}), (BC, {})]
)
def test_promises_are_kept(cls, settings, spec):
    report = check_algorithm(
        make(cls, spec, **settings), make(cls, spec, **settings), policy_for(spec), spec,
        batch_size=8,
    )  # fmt: skip
    assert not [check for check in report.checks if not check.passed], str(report)


# --- values of choices ---


def test_few_combinations_have_a_value_each_and_many_elements_one_for_each_choice():
    assert ChoiceValues([0, 1], [2, 3]).size == 6
    assert math.prod([3] * 7) > JOINT_CHOICES and ChoiceValues(range(7), [3] * 7).size == 21


def test_the_mean_over_choices_and_the_value_of_what_was_chosen_by_hand():
    together = ChoiceValues([0, 2], [2, 3])
    q = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])  # (0,0) (0,1) (0,2) (1,0) (1,1) (1,2)
    first, second = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.2, 0.3]]).log()
    by_hand = 0.25 * (0.5 * 1 + 0.2 * 2 + 0.3 * 3) + 0.75 * (0.5 * 4 + 0.2 * 5 + 0.3 * 6)
    assert together.expected(q, (first, second)).item() == pytest.approx(by_hand)
    assert together.taken(q, torch.tensor([[1.0, -0.3, 1.0]])).item() == 5.0
    apart = ChoiceValues([0, 1], [8, 9])  # 72 combinations
    q = torch.arange(17.0)[None, None]
    even = [torch.full((1, n), -math.log(n)) for n in (8, 9)]
    assert apart.expected(q, even).item() == pytest.approx((3.5 + 12) / 2)
    assert apart.taken(q, torch.tensor([[3.0, 2.0]])).item() == (3 + 10) / 2
    assert entropy(even).item() == pytest.approx(math.log(72))


def test_a_target_is_reward_and_the_soft_value_of_all_choices_by_hand():
    algorithm = make(SAC, ONE, initial_temperature=0.3)
    x, reward = [[0.3, -0.2], [0.5, 0.9]], [1.0, -1.0]
    batch = batch_of(x, [[1], [2]], reward, 0.9)
    (minibatch,) = algorithm._minibatcher.cut(batch, 1)
    assert minibatch.action.tolist() == [[0.0], [1.0]]  # from 0, however the robot counts
    ahead = algorithm._look_ahead(minibatch.next_inputs)
    target = algorithm._target(minibatch, ahead, torch.tensor([0.3]))
    q = values(algorithm, x).numpy()  # of the critics, which target critics are at the start
    log_pi = ahead.drawn.choices[0].numpy()
    value = (np.exp(log_pi) * (q.min(0) - 0.3 * log_pi)).sum(1)
    np.testing.assert_allclose(target, np.array(reward) + 0.9 * value, rtol=1e-5)
    mean = make(SAC, ONE, initial_temperature=0.3, target_reduction="mean")
    target = mean._target(minibatch, ahead, torch.tensor([0.3]))
    value = (np.exp(log_pi) * (q.mean(0) - 0.3 * log_pi)).sum(1)
    np.testing.assert_allclose(target, np.array(reward) + 0.9 * value, rtol=1e-5)


def test_the_actor_climbs_its_expected_value_and_entropy_by_hand():
    algorithm = make(SAC, ONE)
    x = [[0.3, -0.2], [0.5, 0.9]]
    inputs = algorithm.networks.policy.inputs({"x": np.array(x, np.float32)})
    features = algorithm.networks.features(inputs, algorithm.generator)
    log_pi = algorithm._act(features).choices[0].detach().numpy()
    q = values(algorithm, x).numpy().min(0)
    (minibatch,) = algorithm._minibatcher.cut(batch_of(x, [[1], [2]], [0.0, 0.0]), 1)
    metrics = algorithm._update_actor(features, minibatch, torch.tensor([0.7]))
    loss = (np.exp(log_pi) * (0.7 * log_pi - q)).sum(1).mean()
    assert float(metrics["actor_loss"]) == pytest.approx(loss, rel=1e-4)


def test_the_entropy_that_is_aimed_at_goes_from_the_first_share_to_the_last():
    assert [share_at(n, 0.8, 0.2, 100) for n in (0, 50, 100, 999)] == pytest.approx(
        [0.8, 0.5, 0.2, 0.2]
    )
    assert share_at(7, 0.8, None, 100) == 0.8
    algorithm = make(SAC, HYBRID, choice_entropy=0.5, target_entropy_per_action=-1.0)
    wanted = algorithm._target_entropies(torch.zeros(2)).tolist()
    assert wanted == pytest.approx([-1.0, 0.5 * math.log(3)])


# --- optima that are known ---


def test_two_states_are_valued_as_soft_value_iteration_does():
    """State A: choice 0 stays for 1, choice 1 goes to B for 0. B: 0 goes back for 2, 1 ends for 0.5."""
    gamma, temperature = 0.5, 0.5
    a, b = [1.0, 0.0], [0.0, 1.0]
    batch = batch_of(
        [a, a, b, b], [[1], [2], [1], [2]], [1, 0, 2, 0.5], [gamma, gamma, gamma, 0], [a, b, a, b]
    )
    q = np.zeros((2, 2))
    for _ in range(100):
        v = temperature * np.log(np.exp(q / temperature).sum(1))
        q = np.array([[1 + gamma * v[0], gamma * v[1]], [2 + gamma * v[0], 0.5]])
    algorithm = make(
        SAC, ONE, initial_temperature=temperature, temperature_learning_rate=0,
        critic_learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.2,
    )  # fmt: skip
    for _ in range(400):
        algorithm.update(batch)
    np.testing.assert_allclose(values(algorithm, [a, b]).mean(0), q, atol=0.1)
    policy = policy_for(ONE)
    policy.load(algorithm.policy_arrays())
    network = policy.network()
    found = network.distribution(
        network.encode(network.inputs({"x": np.array([a, b], np.float32)}))
    )
    soft = np.exp(q / temperature) / np.exp(q / temperature).sum(1, keepdims=True)
    np.testing.assert_allclose(found.choice_log_probs[0].exp().detach(), soft, atol=0.05)


def test_what_only_a_combination_brings_is_valued():
    every = [[0, 0], [0, 1], [1, 0], [1, 1]]
    algorithm = make(SAC, TWO, critic_learning_rate=1e-2)
    batch = batch_of([[0.5, 0.5]] * 4, np.array(every, np.int8), [0, 1, 1, 0])
    for _ in range(150):
        algorithm.update(batch)
    np.testing.assert_allclose(values(algorithm, [[0.5, 0.5]]).mean(0)[0], [0, 1, 1, 0], atol=0.1)


def test_a_choice_and_the_number_that_goes_with_it_are_learned_together():
    """Choice 2 is right, and with it 1 of -2 to 2 is the best number."""
    rng = np.random.default_rng(0)
    algorithm = make(
        SAC, HYBRID, initial_temperature=0.02, temperature_learning_rate=0,
        critic_learning_rate=1e-2, actor_learning_rate=1e-2, critic_hidden=[32],
    )  # fmt: skip
    for _ in range(250):
        number, choice = rng.uniform(-2, 2, 64), rng.integers(0, 3, 64)
        reward = np.where(choice == 2, 1 - (number - 1) ** 2, 0)
        action = np.stack([number, choice], 1).astype(np.float32)
        metrics = algorithm.update(batch_of([[0.5, 0.5]] * 64, action, reward))
    assert {"entropy", "choice_entropy", "temperature", "choice_temperature"} <= metrics.keys()
    policy = policy_for(HYBRID)
    policy.load(algorithm.policy_arrays())
    number, choice = policy.act({"x": np.full(2, 0.5, np.float32)}, deterministic=True)[0]
    assert choice == 2.0 and number == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("loss", ["likelihood", "squared_error"])
def test_cloning_gives_choices_as_often_as_the_data_have_them(loss):
    algorithm = make(BC, HYBRID, loss=loss, learning_rate=1e-2)
    choice = np.array([0] * 6 + [2] * 2)
    action = np.stack([np.full(8, 0.5), choice], 1).astype(np.float32)
    for _ in range(200):
        metrics = algorithm.update(batch_of([[0.5, 0.5]] * 8, action, [0] * 8))
    assert metrics["choices_right"] == pytest.approx(0.75)
    network = algorithm.network
    seen = network.inputs({"x": np.full((1, 2), 0.5, np.float32)})
    shares = network.distribution(network.encode(seen)).choice_log_probs[0].exp()[0]
    np.testing.assert_allclose(shares.detach(), [0.75, 0, 0.25], atol=0.05)


def test_a_policy_without_choices_is_refused_in_words():
    numbers = policy_for(RobotSpec("r", STATE, ArraySpec((1,), low=0.0, high=1.0)))
    spec = RobotSpec("r", STATE, ArraySpec((1,), low=0.0, high=1.0, categorical=(0,)))
    for cls in (SAC, RLPD, BC):
        with pytest.raises(
            PluginError, match=f"policy of {cls.__name__} for 'r'.*choice_log_probs"
        ):
            cls(cls.Config(), spec, numbers)
