"""What keeps chunk policies good that are cloned for long: weights that decay, and an average of them that is
published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from user_core.policies.generative.act import ActConfig, ActPolicy
from user_core.policies.generative.flow import FlowConfig, FlowPolicy
from user_core.policies.generative.policy import DiffusionPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common import averaging
from user_learner.algorithms.common.averaging import MovingAverage, share_after
from user_learner.algorithms.common.batches import Minibatcher
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_testing.worlds.batches import random_batch

SPEC = RobotSpec("r", {"x": ArraySpec((3,))}, ArraySpec((2,), low=-1.0, high=1.0))
SMALL: dict[str, Any] = {"rows": 2, "normalization_calls": 2}


def flow(**settings: Any) -> FlowPolicy:
    return FlowPolicy(FlowConfig(**{**SMALL, "hidden": (16,), **settings}), SPEC)


def bc(policy: Any = None, **settings: Any) -> BC:
    return BC(BCConfig(**settings), SPEC, policy or flow())


def batches(count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [random_batch(SPEC, 8, rng, window=2) for _ in range(count)]


def test_the_average_is_that_of_chi_et_al() -> None:
    """Decay 1 - (1 + n)^-3/4, up to the largest; computed anew here by hand."""
    weight = torch.zeros(1)
    average = MovingAverage(lambda: [weight])
    expected = 0.0
    for n in range(50):
        weight.fill_(float(n))
        average.follow(share_after(n, 0.9))
        decay = min(0.9, 1 - (1 + n) ** -0.75)
        expected = decay * expected + (1 - decay) * n
        assert float(average.average[0]) == pytest.approx(expected, rel=1e-5)
    assert float(average.average[0]) < 45  # it is behind, by about 1 / (1 - 0.9) updates


def test_averages_stand_in_place_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "_PIECE", 3)
    weights = [torch.arange(8.0).reshape(2, 4), torch.tensor(1.0), torch.zeros(0, 2)]
    average = MovingAverage(lambda: weights)
    for weight in weights:
        weight.add_(1)
    newest, averages = ([w.clone() for w in some] for some in (weights, average.average))
    with average.in_place():
        assert all(map(torch.equal, weights, averages))
    assert all(map(torch.equal, weights, newest))
    assert all(map(torch.equal, average.average, averages))


@pytest.mark.parametrize("policy", ["flow", "diffusion", "act"])
def test_versions_are_the_average_and_training_goes_on_from_the_newest(policy: str) -> None:
    made = {
        "flow": flow,
        "diffusion": lambda: DiffusionPolicy(DiffusionPolicy.Config(**SMALL, hidden=(16,)), SPEC),
        "act": lambda: ActPolicy(ActConfig(**SMALL, embedding=16, layers=1), SPEC),
    }[policy]
    averaged, newest = bc(made(), average=0.9), bc(made(), average=0.0)
    name = next(iter(averaged.parameters.shapes))
    seen: list[Any] = []
    for batch in batches(30):
        assert averaged.update(batch) == newest.update(batch)  # publishing changes nothing
        averaged.policy_arrays()
        seen.append(newest.policy_arrays()[name])
    expected = np.zeros_like(seen[0])
    for n, weights in enumerate(seen):
        share = max(0.1, (1 + n) ** -0.75)
        expected += share * (weights - expected)
    published = averaged.policy_arrays()
    np.testing.assert_allclose(published[name], expected, atol=1e-5)
    assert not np.allclose(published[name], seen[-1], atol=1e-5)
    np.testing.assert_array_equal(averaged.parameters.arrays()[name], seen[-1])
    for scale in ("input_scale", "action_scale"):  # is no weight, and not averaged
        np.testing.assert_array_equal(published[scale], newest.policy_arrays()[scale])
    made().load(published)


def test_a_restored_average_goes_on_bit_by_bit() -> None:
    one, other = bc(), bc()
    for batch in batches(5):
        one.update(batch)
    other.load_state(one.state())
    for batch in batches(3):
        assert one.update(batch) == other.update(batch)
    for name, array in one.policy_arrays().items():
        np.testing.assert_array_equal(array, other.policy_arrays()[name])


def test_a_checkpoint_without_an_average_opens() -> None:
    """Of before there were any, or of a training that had none: it begins with the weights."""
    before, now = bc(average=0.0), bc()
    for batch in batches(5):
        before.update(batch)
    old = before.state()
    assert not old.pop("average")
    now.load_state(old)
    for name, array in before.policy_arrays().items():
        np.testing.assert_array_equal(array, now.policy_arrays()[name])
    last = batches(1)[0]
    assert now.update(last) == before.update(last)
    with_one = bc()
    with_one.update(last)
    before.load_state(with_one.state())  # and the other way round
    for name, array in with_one.parameters.arrays().items():
        np.testing.assert_array_equal(array, before.parameters.arrays()[name])


def test_decay_is_that_of_adamw() -> None:
    """Of the named parameters, beside torch's own; and none where gradients are not finite."""
    first = {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    flat = FlatParameters(first, torch.device("cpu"))
    own = FlatAdam(flat, 0.1, decay={"a": 0.1 * 0.5})
    beside = {name: torch.nn.Parameter(torch.from_numpy(a.copy())) for name, a in first.items()}
    torchs = torch.optim.AdamW(
        [
            {"params": [beside["a"]], "weight_decay": 0.5},
            {"params": [beside["b"]], "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        for name, array in first.items():
            gradient = torch.from_numpy(rng.standard_normal(array.shape).astype(np.float32))
            flat.named[name].grad.copy_(gradient)
            beside[name].grad = gradient.clone()
        own.step()
        torchs.step()
    for name, array in flat.arrays().items():
        np.testing.assert_allclose(array, beside[name].detach().numpy(), rtol=1e-4)
    before = flat.arrays()
    flat.named["a"].grad.fill_(float("nan"))
    own.step()
    np.testing.assert_array_equal(flat.arrays()["a"], before["a"])


def test_matrices_of_perceptrons_decay_and_no_biases() -> None:
    algorithm = bc(weight_decay=2.0, learning_rate=0.01)
    assert algorithm._decay() == {"denoiser.layer0.weight": 0.02, "denoiser.head.weight": 0.02}
    assert not bc(weight_decay=0.0)._decay()
    both = flow(distill=True).network().decaying()
    assert {"denoiser.head.weight", "student.head.weight"} <= set(both)
    transformer = flow(backbone="transformer", embedding=16, layers=1).network()
    assert not transformer.decaying()
    assert not bc(ActPolicy(ActConfig(**SMALL, embedding=16, layers=1), SPEC))._decay()


def test_shaking_is_not_learned_by_heart() -> None:
    """Few noisy demonstrations, some hundred passes: what others would do is foretold as well as after the best of
    them."""
    rng = np.random.default_rng(3)

    def shown(count: int) -> Batch:
        x = rng.standard_normal((count, 3)).astype(np.float32)
        right = np.stack([np.sin(x[:, 0]), 0.5 * x[:, 1]], 1)[:, None].repeat(2, 1)
        did = np.clip(0.5 * right + 0.2 * rng.standard_normal(right.shape), -1, 1)
        zeros, mask = np.zeros((count, 2), np.float32), np.ones((count, 2), bool)
        seen = {"x": x}
        return Batch(seen, did.astype(np.float32), zeros, zeros, seen, {"mask": mask})

    few, others = shown(24), shown(256)

    def losses(**settings: Any) -> list[float]:
        """Of what is published, about those that it never saw, after 100 and 500 updates."""
        found, algorithm = [], bc(flow(hidden=(64, 64)), learning_rate=0.01, **settings)
        for update in range(1, 501):
            algorithm.update(few)
            if update in (100, 500):
                judged = flow(hidden=(64, 64))
                judged.load(algorithm.policy_arrays())
                network = judged.network()
                (rows,) = Minibatcher(network, SPEC, torch.device("cpu"), False).cut(others, 1)
                noise = torch.Generator().manual_seed(0)
                with torch.no_grad():
                    found.append(float(network.loss(rows.inputs, rows.action, rows.weight, noise)))
        return found

    early, late = losses(average=0.99)
    assert late < 1.15 * early
    early, late = losses(average=0.0, weight_decay=0.0)
    assert late > 1.5 * early  # or this test would show nothing
