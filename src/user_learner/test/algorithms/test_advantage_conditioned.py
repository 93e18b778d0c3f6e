"""Advantage-conditioned learning: promises, what counts as good, and that asking for the good helps."""

import numpy as np
import pytest

from user_core import plugins
from user_core.conformance import check_algorithm, check_policy
from user_core.errors import PluginError
from user_core.policies.generative.objectives import Guided
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch

ACTION = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0))
NUMBERS = RobotSpec("r", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ACTION)
EYES = RobotSpec(
    "r", {"x": NUMBERS.observation["x"], "image_front": ArraySpec((16, 16, 3), "uint8")}, ACTION
)
CHOICES = RobotSpec(
    "c", NUMBERS.observation, ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 2.0), categorical=(1,))
)
SMALL = {"rows": 2, "hidden": [16], "steps": 2, "embedding": 16, "layers": 1, "heads": 2}
SMALL |= {"image_channels": [8, 8]}


def flow(spec=NUMBERS, **params):
    return plugins.build("policies", "advantage_flow", {**SMALL, **params}, spec)


def learner(spec=NUMBERS, policy=None, **settings):
    settings = {"values": {"hidden": [16]}, **settings}
    return plugins.build(
        "algorithms", "advantage_conditioned", settings, spec, policy or flow(spec)
    )


@pytest.mark.parametrize("spec", [NUMBERS, EYES, CHOICES], ids=["numbers", "eyes", "choices"])
def test_the_promises_are_kept(spec):
    check_policy(flow(spec), spec).require()
    check_algorithm(learner(spec), learner(spec), flow(spec), spec, batch_size=4).require()


def chosen(rng, rows, side, x=None):
    """Chunks of two actions to one side, and what they bring: right is worth 1, left 0."""
    x = rng.uniform(-1, 1, (rows, 3)).astype(np.float32) if x is None else x
    action = np.stack([0.6 * side, np.full(rows, 2.0)], 1).astype(np.float32)
    action = np.repeat(action[:, None], 2, 1)
    reward = np.zeros((rows, 2), np.float32)
    reward[:, 1] = side > 0
    return {"x": x}, action, reward, np.tile(np.array([1, 0], np.float32), (rows, 1))


def test_good_is_what_had_the_largest_advantage_and_what_people_showed():
    algorithm, rng = learner(good_share=0.3), np.random.default_rng(0)
    shares = []
    for _ in range(200):
        side = np.where(rng.random(100) < 0.3, 1.0, -1.0)
        seen, action, reward, discount = chosen(rng, 100, side)
        shown = {"demonstration": np.zeros(100, bool)}
        shares.append(algorithm.update(Batch(seen, action, reward, discount, seen, shown))["good"])
    assert np.mean(shares[-50:]) == pytest.approx(0.3, abs=0.06)
    shown = {"demonstration": np.arange(100) < 50}
    seen, action, reward, discount = chosen(rng, 100, -np.ones(100))
    metrics = algorithm.update(Batch(seen, action, reward, discount, seen, shown))
    assert metrics["good"] >= 0.5


def test_asked_for_the_good_it_does_what_was_better_than_usual():
    """A quarter of the data go right, which pays. Cloned as it is, a policy would be right as seldom."""
    rng = np.random.default_rng(0)
    settings = {"learning_rate": 5e-3, "values": {"hidden": [16], "learning_rate": 5e-3}}
    policy = flow(hidden=[32, 32], steps=4)
    algorithm = learner(policy=policy, good_share=0.25, **settings)
    for _ in range(300):
        side = np.where(rng.random(96) < 0.25, 1.0, -1.0)
        seen, action, reward, discount = chosen(rng, 96, side)
        algorithm.update(Batch(seen, action, reward, discount, seen))
    trial = rng.uniform(-1, 1, (60, 3)).astype(np.float32)

    def right(weight):
        acting = flow(hidden=[32, 32], steps=4, advantage_weight=weight)
        acting.load(algorithm.policy_arrays())
        return np.mean([acting.act({"x": one})[0, 0] > 0.3 for one in trial])

    assert right(0.0) < 0.5
    assert right(1.5) > 0.85


def test_critics_judge_what_they_did_not_learn_from():
    """Few rows, drawn again and again: critics that see all of them know by heart what each brought, so that no action
    seems better than another. Those that are kept from a part say which were."""
    rng, rows = np.random.default_rng(0), 80
    side = np.where(np.arange(rows) % 4 == 0, 1.0, -1.0)
    seen, action, reward, discount = chosen(rng, rows, side)
    place = np.arange(rows) + np.where(np.arange(rows) < rows // 2, 0, 1000 * 256 + 256)

    def surely_good(extras):
        values = {"hidden": [64, 64], "learning_rate": 3e-3}
        algorithm = learner(good_share=0.25, values=values)
        found = []
        judge = algorithm._is_good
        algorithm._is_good = lambda a, shown: found.append(a.numpy().copy()) or judge(a, shown)
        for _ in range(300):
            algorithm.update(Batch(seen, action, reward, discount, seen, extras))
        last = found[-1]
        return last[side > 0].mean() - last[side < 0].mean()

    assert surely_good({}) < 0.2, "known by heart"
    assert surely_good({"row": place}) > 0.7
    assert surely_good({"row": np.arange(rows)}) < 0.2, (
        "all in one block: all critics learn from it"
    )


def test_with_torch_it_does_the_same_as_without():
    policy, rng = flow(), np.random.default_rng(1)
    arrays = policy.arrays()
    policy.load(
        {n: a + 0.2 * rng.standard_normal(a.shape).astype(np.float32) for n, a in arrays.items()}
    )
    network, seen = policy.network(), {"x": rng.uniform(-1, 1, 3).astype(np.float32)}
    inputs = network.inputs({name: array[None] for name, array in seen.items()})
    noise = policy.noise()
    code = policy.objective.sample(
        policy._torch_model(network, inputs), noise_of(noise), 2, network.bounds()
    )
    there = policy._to_robot(code[0].detach().numpy())
    np.testing.assert_allclose(policy.act_from(seen, noise), there, atol=1e-4)


def noise_of(noise):
    import torch

    return torch.from_numpy(noise)[None]


def test_a_plan_goes_on_under_guidance():
    policy, seen = flow(), {"x": np.zeros(3, np.float32)}
    plan = policy.act(seen)
    made = policy.continue_plan(seen, plan, 1)
    np.testing.assert_array_equal(made[0], plan[0])


def test_guidance_is_the_sum_that_it_says_and_so_is_its_gradient():
    class Linear:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, x, t, mask):
            return self.factor * x

        def with_gradient(self, x, t, cotangent):
            said = self.factor * x
            wanted = cotangent(said)
            return said, wanted, self.factor * wanted

    guided, x = Guided(Linear(3.0), Linear(1.0), 1.5), np.array([2.0])
    assert guided(x, 0.0, None) == 2.0 * (1 + 1.5 * 2)
    said, wanted, product = guided.with_gradient(x, 0.0, lambda said: said - 1)
    assert (said, wanted, product) == (8.0, 7.0, 28.0)


def test_another_policy_is_refused_in_words():
    plain = plugins.build("policies", "flow", {"rows": 2, "hidden": [16]}, NUMBERS)
    with pytest.raises(PluginError, match="FlowPolicy, whose network has no"):
        learner(policy=plain)
