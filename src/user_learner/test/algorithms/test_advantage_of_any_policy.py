"""The policy ``advantage``: any other, told how good what it learns from was, and asked for the good."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm, check_policy
from user_core.errors import ConfigError, SpecError
from user_core.interfaces import Query, answers_in_batches
from user_core.policies import policy_config_hash
from user_core.policies.generative.flow import FlowPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch, Task

ACTION = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0))
NUMBERS = RobotSpec("r", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ACTION)
EYES = RobotSpec(
    "r", {"x": NUMBERS.observation["x"], "image_front": ArraySpec((16, 16, 3), "uint8")}, ACTION
)
CHOICES = RobotSpec(
    "c", NUMBERS.observation, ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 2.0), categorical=(1,))
)
SMALL = {"embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8]}
GAUSSIAN = {"hidden": [16], "image_channels": [4], "image_embedding": 4}
POLICIES = {
    "flow": {"rows": 2, "hidden": [32], "steps": 3, **SMALL},
    "diffusion": {"rows": 2, "hidden": [32], "steps": 5, **SMALL},
    "act": {"rows": 2, **SMALL},
    "action_chunks": {"rows": 2, **GAUSSIAN},
    "tanh_gaussian": GAUSSIAN,
}
SPECS = {"numbers": NUMBERS, "eyes": EYES, "choices": CHOICES}
#: action_chunks knows no choices where it plans several.
PAIRS = [
    (name, spec)
    for name in POLICIES
    for spec in SPECS
    if not (name == "action_chunks" and spec == "choices")
]


def told(name, spec=NUMBERS, **params):
    inner = {"plugin": name, "params": {**POLICIES[name], **params}}
    return plugins.build("policies", "advantage", {"policy": inner}, spec)


def learner(policy, spec=NUMBERS, **settings):
    settings = {"values": {"hidden": [16]}, **settings}
    return plugins.build("algorithms", "advantage_conditioned", settings, spec, policy)


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_the_promises_are_kept(name, spec):
    spec = SPECS[spec]
    policy = told(name, spec)
    check_policy(policy, spec).require()
    pair = [learner(told(name, spec), spec) for _ in range(2)]
    check_algorithm(*pair, policy, spec, batch_size=6).require()


def test_more_than_one_observation_at_once():
    policy = told("diffusion", observation_history=3)
    assert policy.observation_history == 3
    check_policy(policy, NUMBERS).require()
    pair = [learner(told("diffusion", observation_history=3)) for _ in range(2)]
    check_algorithm(*pair, policy, NUMBERS, batch_size=6).require()
    config = policy.config
    assert type(policy).history_of(config, NUMBERS) == 3


def test_what_is_said_stands_where_the_network_sees_it_and_nowhere_else():
    network = told("tanh_gaussian", EYES, normalization="data").network()
    rng = np.random.default_rng(0)
    seen = {n: np.stack([a.sample(rng) for _ in range(6)]) for n, a in EYES.observation.items()}
    inputs = network.inputs(seen)
    network.observe(inputs)  # also where a scale settles from data
    good, bad = (network.with_advantage(inputs, said) for said in (1.0, -1.0))
    torch.testing.assert_close(good["image_front"], bad["image_front"])
    differs = good["state"] != bad["state"]
    assert differs.sum(1).tolist() == [1] * 6 and differs.any(0).sum() == 1
    encoded = network.encode(good) - network.encode(bad)
    assert 1.5 < float(encoded.abs().max()) < 4  # neither unseen nor out of all proportion


def chosen(rng, rows, side, planned):
    """What goes to one side, and what that brings: right is worth 1, left 0."""
    x = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    action = np.stack([0.6 * side, np.full(rows, 2.0)], 1).astype(np.float32)
    reward, discount = (side > 0).astype(np.float32), np.zeros(rows, np.float32)
    if planned:
        action = np.repeat(action[:, None], 2, 1)
        reward, discount = np.stack([0 * reward, reward], 1), np.tile(np.float32([1, 0]), (rows, 1))
    return Batch({"x": x}, action, reward, discount, {"x": x})


@pytest.mark.parametrize("name", ["diffusion", "act", "action_chunks", "tanh_gaussian"])
def test_asked_for_the_good_it_does_what_was_better_than_usual(name):
    """A quarter of the data go right, which pays. Cloned as it is, a policy goes left, or in between."""
    rng, planned = np.random.default_rng(0), name != "tanh_gaussian"
    values = {"hidden": [16], "learning_rate": 5e-3}
    rate = 1e-3 if name == "act" else 5e-3
    policy = told(name)
    algorithm = learner(policy, good_share=0.25, learning_rate=rate, values=values, average=0.9)
    for _ in range(200):
        side = np.where(rng.random(96) < 0.25, 1.0, -1.0)
        algorithm.update(chosen(rng, 96, side, planned))
    policy.load(algorithm.policy_arrays())
    trial = rng.uniform(-1, 1, (40, 3)).astype(np.float32)

    def right(act):
        return np.mean([act({"x": one})[0, 0] > 0.3 for one in trial])

    def usual(seen):
        return policy.policy.act({**seen, "advantage": np.zeros(1, np.float32)}, deterministic=True)

    assert right(lambda seen: policy.act(seen, deterministic=True)) > 0.85
    assert right(usual) < 0.5


def test_a_policy_that_reads_is_told_in_words():
    """As pi*0.6: behind the instruction. LeRobot's policies are tried where LeRobot is."""
    from user_core.policies.language.config import with_advantage_in_words

    assert with_advantage_in_words("lift the cube", 1) == "lift the cube\nAdvantage: positive"
    assert with_advantage_in_words("lift the cube", -1) == "lift the cube\nAdvantage: negative"
    assert with_advantage_in_words("lift the cube", 0) == "lift the cube"


def test_queries_and_plans_that_go_on_are_asked_alike():
    policy, seen = told("flow"), {"x": np.zeros(3, np.float32)}
    plan = policy.act(seen, deterministic=True)
    np.testing.assert_array_equal(policy.continue_plan(seen, plan, 1)[0], plan[0])
    (made,) = policy.act_batch([Query(seen, True, Task("t"))])
    np.testing.assert_allclose(made, plan, atol=1e-5)
    assert not hasattr(told("tanh_gaussian"), "continue_plan")


class Remembers(FlowPolicy):
    """Answers one robot, in a way of its own: the first action of an episode is another one."""

    first = True

    def reset(self, task):
        super().reset(task)
        self.first = True

    def act(self, observation, *, deterministic=False):
        found = super().act(observation, deterministic=deterministic)
        self.first, share = False, 0.0 if self.first else 1.0
        return share * found


def test_one_that_remembers_is_not_asked_for_several_robots():
    inner = {"plugin": f"{__name__}:Remembers", "params": POLICIES["flow"]}
    policy = plugins.build("policies", "advantage", {"policy": inner}, NUMBERS)
    assert not answers_in_batches(policy) and answers_in_batches(told("flow"))
    seen = {"x": np.ones(3, np.float32)}
    policy.reset(Task("t"))
    assert not policy.act(seen).any() and policy.act(seen).any()


def test_what_it_cannot_be_told_is_refused_in_words():
    with pytest.raises(SpecError, match="another name"):
        told("flow", RobotSpec("r", {"advantage": ArraySpec((1,))}, ACTION))
    blind = told("flow", ignored_observations=["advantage"])
    with pytest.raises(ConfigError, match="add advantage"):
        blind.network()
    assert told("flow", observations=["x"]).network() is not None  # is added by itself


def test_weights_fit_policies_that_differ_in_what_does_not_count():
    def hashed(**params):
        inner = {"plugin": "flow", "params": {**POLICIES["flow"], **params}}
        return policy_config_hash("advantage", {"policy": inner}, NUMBERS)

    assert hashed() == hashed(seed=7) == hashed(device="cpu") != hashed(rows=3)
