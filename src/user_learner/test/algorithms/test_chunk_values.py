"""Critics of whole chunks: SAC and RLPD of policies that plan, and Q-chunking with the best of several."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm, check_policy
from user_core.errors import PluginError
from user_core.policies.critics import ensemble_arrays, values_of
from user_core.policies.language import sentence
from user_core.policies.language.config import INSTRUCTION_SIZE, TASK
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch, Task
from user_learner.algorithms.common.batches import Minibatcher
from user_learner.algorithms.common.torch_tools import evaluate
from user_testing.worlds.batches import random_batch

NUMBERS = RobotSpec(
    "r", {"x": ArraySpec((3,), low=-2.0, high=2.0)},
    ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0)),
)  # fmt: skip
EYES = RobotSpec(
    "r", {"x": NUMBERS.observation["x"], "image_front": ArraySpec((16, 16, 3), "uint8")},
    NUMBERS.action,
)  # fmt: skip
CHOICES = RobotSpec(
    "c", NUMBERS.observation, ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 2.0), categorical=(1,))
)
SMALL = {"rows": 3, "hidden": [16], "steps": 2, "candidates": 4, "critic_hidden": [16]}
SMALL |= {"embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8]}


def best_of(spec=NUMBERS, **params):
    return plugins.build("policies", "best_of", {**SMALL, **params}, spec)


def learner(spec=NUMBERS, policy=None, **settings):
    policy = policy or best_of(spec)
    return plugins.build(
        "algorithms", "q_chunking", {"target_candidates": 3, **settings}, spec, policy
    )


def windows(rng, rows, spec=NUMBERS, length=3, **changes):
    return random_batch(spec, rows, rng, length, **changes)


@pytest.mark.parametrize("spec", [NUMBERS, EYES, CHOICES], ids=["numbers", "eyes", "choices"])
def test_the_promises_are_kept(spec):
    check_policy(best_of(spec), spec).require()
    check_algorithm(learner(spec), learner(spec), best_of(spec), spec, batch_size=4).require()


@pytest.mark.parametrize("spec", [NUMBERS, CHOICES], ids=["numbers", "choices"])
@pytest.mark.parametrize("name", ["sac", "rlpd"])
def test_policies_that_plan_are_trained_by_actor_critic_algorithms_too(name, spec):
    def policy():
        return plugins.build("policies", "action_chunks", {"rows": 3, "hidden": [16]}, spec)

    settings = {"critic_hidden": [16], "critics": 2, "critic_updates": 2}
    made = [plugins.build("algorithms", name, settings, spec, policy()) for _ in range(2)]
    check_algorithm(*made, policy(), spec, batch_size=4).require()


def test_without_torch_critics_say_the_same():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 5)).astype(np.float32)
    for norm in (False, True):
        arrays = ensemble_arrays(3, 5, (8, 6), rng)
        arrays |= {
            n: rng.standard_normal(a.shape).astype(np.float32)
            for n, a in arrays.items() if n.endswith("bias")
        }  # fmt: skip
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        said = evaluate(tensors, torch.from_numpy(x), norm).numpy()
        np.testing.assert_allclose(values_of(arrays, x, norm), said, rtol=1e-4, atol=1e-5)


def test_a_chunk_is_worth_its_rewards_and_what_is_left_behind_it():
    rng, network = np.random.default_rng(0), best_of().network()
    reward = np.array([[1, 2, 4], [1, 2, 0], [1, 0, 0]], np.float32)
    discount = np.array([[0.5, 0.5, 0.5], [0.5, 0, 1], [0.5, 1, 1]], np.float32)
    mask = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
    batch = windows(rng, 3, reward=reward, discount=discount, extras={"mask": mask})
    (part,) = Minibatcher(network, NUMBERS, torch.device("cpu")).cut(batch, 1)
    assert part.reward.tolist() == [3, 2, 1]
    assert part.discount.tolist() == [0.125, 0, 0.5]
    # the third was cut short by a time limit: what its other actions would bring, nobody knows
    assert part.judged.tolist() == [1, 1, 0]
    over = part.over_the_end(torch.Generator().manual_seed(0)).reshape(3, 3, 2)
    there = torch.from_numpy(mask)
    assert torch.equal(over[there], part.action.reshape(3, 3, 2)[there])
    assert not torch.equal(over[~there], part.action.reshape(3, 3, 2)[~there])
    assert (over.abs() <= 1).all()


def test_choices_behind_the_end_of_an_episode_are_all_of_them_evenly():
    counts = (2, 5)
    action = ArraySpec((3,), low=(-1.0, 0.0, 3.0), high=(1.0, 1.0, 7.0), categorical=(1, 2))
    spec = replace(CHOICES, action=action)
    rng, network = np.random.default_rng(0), best_of(spec).network()
    mask = np.tile(np.array([True, False, False]), (2000, 1))
    batch = windows(rng, 2000, spec, extras={"mask": mask})
    (part,) = Minibatcher(network, spec, torch.device("cpu")).cut(batch, 1)
    over = part.over_the_end(torch.Generator().manual_seed(0)).reshape(-1, 3, 3)
    there = torch.from_numpy(mask)
    assert torch.equal(over[there], part.action.reshape(-1, 3, 3)[there])
    moved, *chosen = over[~there].T
    assert moved.min() < -0.99 and moved.max() > 0.99
    for found, count in zip(chosen, counts, strict=True):
        shares = torch.bincount(found.long(), minlength=count) / len(found)
        assert torch.equal(found, found.round()) and len(shares) == count
        assert ((shares - 1 / count).abs() < 0.04).all()


@pytest.mark.parametrize("mask", [[True, True, False], [False, True, True]])
def test_what_a_time_limit_cut_short_or_a_person_ended_teaches_no_critic(mask):
    """Of a window that begins before he took over, what the policy did does not count, and others were put there."""
    values = []
    for reward in (0.0, 100.0):
        algorithm, rng = learner(), np.random.default_rng(0)
        reward = np.full((4, 3), reward, np.float32)
        extras = {"mask": np.tile(np.array(mask), (4, 1))}
        algorithm.update(windows(rng, 4, reward=reward, extras=extras))
        values.append(algorithm.state()["critics"]["layer0.weight"])
    np.testing.assert_array_equal(*values)


def test_a_restored_training_goes_on_bit_by_bit():
    rng = np.random.default_rng(0)
    one, other = learner(), learner(policy=best_of(seed=5), seed=9)
    batches = [windows(rng, 8) for _ in range(6)]
    for batch in batches[:3]:
        one.update(batch)
    other.load_state(one.state())
    for batch in batches[3:]:
        assert one.update(batch) == other.update(batch)
    for name, array in one.policy_arrays().items():
        np.testing.assert_array_equal(array, other.policy_arrays()[name])


def test_of_two_ways_in_the_data_the_better_one_is_taken():
    """Chunks go left or right, evenly; what x says is paid. Cloning alone is right half of the time."""
    rng = np.random.default_rng(0)
    policy = best_of(rows=2, hidden=[32, 32], steps=4, critic_hidden=[32, 32], candidates=8)
    algorithm = learner(policy=policy, learning_rate=5e-3, critic_learning_rate=3e-3)
    for _ in range(250):
        x = rng.uniform(-1, 1, (64, 3)).astype(np.float32)
        side = rng.choice([-1.0, 1.0], (64, 1, 1))
        action = np.concatenate([0.6 * side, 2 + 0 * side], 2).repeat(2, 1).astype(np.float32)
        reward = np.zeros((64, 2), np.float32)
        reward[:, 1] = side[:, 0, 0] * np.sign(x[:, 0])  # it comes with the second action
        discount = np.tile(np.array([1, 0], np.float32), (64, 1))
        algorithm.update(Batch({"x": x}, action, reward, discount, {"x": x}))
    policy.load(algorithm.policy_arrays())
    trial = rng.uniform(-1, 1, (100, 3)).astype(np.float32)
    trial = trial[np.abs(trial[:, 0]) > 0.2]
    for deterministic in (False, True):
        acted = [policy.act({"x": one}, deterministic=deterministic)[0, 0] for one in trial]
        assert np.mean(np.array(acted) * np.sign(trial[:, 0]) > 0.3) > 0.9


def test_another_policy_is_refused_in_words():
    flow = plugins.build("policies", "flow", {"rows": 3, "hidden": [16]}, NUMBERS)
    with pytest.raises(PluginError, match="FlowPolicy, whose network has no critics, .*propose"):
        learner(policy=flow)


@pytest.mark.parametrize("spec", [NUMBERS, EYES], ids=["numbers", "eyes"])
@pytest.mark.parametrize(
    ("algorithm", "name"), [("q_chunking", "best_of"), ("advantage_conditioned", "advantage_flow")]
)
def test_they_may_see_several_observations_and_be_told_the_task(monkeypatch, spec, algorithm, name):
    def embeddings(sentences, weights=""):
        return np.ones((len(sentences), INSTRUCTION_SIZE), np.float32)

    monkeypatch.setattr(sentence, "embeddings", embeddings)
    tasks = {"a": "go"}
    flow = {n: v for n, v in SMALL.items() if n not in ("candidates", "critic_hidden")}
    params = {**flow, "observation_history": 2, "language": {"tasks": tasks}}

    def policy():
        return plugins.build("policies", name, params, spec)

    learning, rng = (
        plugins.build("algorithms", algorithm, {}, spec, policy()),
        np.random.default_rng(0),
    )
    batch = windows(rng, 6, spec)

    def twice(seen):
        both = {n: np.stack([a, a], 1) for n, a in seen.items()}
        return {**both, TASK: np.zeros(6, np.int64)}

    before, after = twice(batch.observation), twice(batch.next_observation)
    metrics = learning.update(replace(batch, observation=before, next_observation=after))
    assert np.isfinite(list(metrics.values())).all()
    actor = policy()
    actor.load(learning.policy_arrays())
    actor.reset(Task("a", "go"))
    assert actor.act({n: a[0] for n, a in before.items() if n != TASK}).shape == (3, 2)
