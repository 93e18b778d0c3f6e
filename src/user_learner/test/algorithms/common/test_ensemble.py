"""The batched ensemble computes what a loop over modules computes, and its gradients too."""

import numpy as np
import pytest
import torch

from user_learner.algorithms.common.torch_tools import ensemble_arrays, evaluate
from user_testing.tensors import assert_close

MEMBERS, INPUTS, HIDDEN, ROWS = 3, 5, (7, 6), 11


def parameters(dtype=torch.float32, **options):
    arrays = ensemble_arrays(MEMBERS, INPUTS, HIDDEN, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    return {
        name: torch.tensor(a + 0.3 * rng.standard_normal(a.shape), dtype=dtype, **options)
        for name, a in arrays.items()
    }


def one_by_one(weights, x, layer_norm):
    """The same by plain modules, member by member, differentiated by autograd."""
    outputs = []
    for member in range(MEMBERS):
        h = x
        for i in range(len(HIDDEN)):
            h = h @ weights[f"layer{i}.weight"][member]
            if layer_norm:
                h = torch.nn.functional.layer_norm(h, h.shape[-1:])
            h = torch.relu(h + weights[f"layer{i}.bias"][member])
        last = f"layer{len(HIDDEN)}"
        outputs.append(
            (h @ weights[f"{last}.weight"][member] + weights[f"{last}.bias"][member])[:, 0]
        )
    return torch.stack(outputs)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_values_and_all_gradients_are_those_of_single_modules(layer_norm):
    x = torch.randn(ROWS, INPUTS, requires_grad=True)
    weights = parameters(requires_grad=True)
    target = torch.randn(MEMBERS, ROWS)
    leaves = [x, *weights.values()]
    ours = evaluate(weights, x, layer_norm)
    theirs = one_by_one(weights, x, layer_norm)
    assert_close(ours, theirs)
    mine = torch.autograd.grad((ours - target).square().sum(), leaves)
    reference = torch.autograd.grad((theirs - target).square().sum(), leaves)
    for gradient, expected in zip(mine, reference, strict=True):
        assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_only_the_input_gradient_is_made_when_only_that_is_asked(layer_norm):
    x = torch.randn(ROWS, INPUTS, requires_grad=True)
    weights = parameters()
    evaluate(weights, x, layer_norm).mean(0).sum().backward()
    expected = torch.autograd.grad(one_by_one(weights, x, layer_norm).mean(0).sum(), x)[0]
    assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)
    assert all(weight.grad is None for weight in weights.values())


def test_members_are_chosen_by_index():
    x, weights = torch.randn(ROWS, INPUTS), parameters()
    some = evaluate(weights, x, True, torch.tensor([2, 0]))
    assert_close(some, evaluate(weights, x, True)[[2, 0]])


def test_half_precision_comes_close_and_returns_full():
    x, weights = torch.randn(ROWS, INPUTS), parameters()
    half = evaluate(weights, x, True, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    assert_close(half, evaluate(weights, x, True), rtol=0.1, atol=0.1)


def test_members_start_apart():
    torch.manual_seed(0)
    outputs = evaluate(parameters(), torch.randn(ROWS, INPUTS), True)
    assert (outputs.std(0) > 0.05).all()
