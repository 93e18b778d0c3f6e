"""Gradients of a large network on a GPU are taken as autograd made them; what is learned stays the same."""

import pytest
import torch
from torch import nn

from user_core.errors import ConfigError
from user_learner.algorithms.common import flat_parameters, torch_tools
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters


def learned(lets_go, monkeypatch, parts=1, updates=3, half=False, norm=0.5):
    monkeypatch.setattr(FlatParameters, "_lets_go", lambda self: lets_go or half)
    monkeypatch.setattr(flat_parameters, "_PIECE", 10 if lets_go else 1 << 25)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    network.unused = nn.Parameter(torch.ones(3))
    if half:
        network[0].to(torch.bfloat16)
        network[1].forward = lambda x: x.float().relu()
    flat = FlatParameters(dict(network.named_parameters()), torch.device("cpu"), keep_half=half)
    adam = FlatAdam(flat, 1e-2, norm, {"0.weight": 1e-3})
    for _ in range(updates):
        flat.zero_grad()
        x = torch.randn(8, 5)
        for part in (x.bfloat16() if half else x).chunk(parts):
            network(part).square().mean().backward()
        adam.step()
    return flat, adam, network


@pytest.mark.parametrize("norm", [0.0, 1e-3, 100.0])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_as_autograd_made_them_teach_what_added_ones_do(parts, norm, monkeypatch):
    plain, adam, network = learned(False, monkeypatch, parts, norm=norm)
    grads = plain.split(plain.grad)
    assert all(p.grad.data_ptr() == grads[n].data_ptr() for n, p in plain.named.items())
    loose, other, network = learned(True, monkeypatch, parts, norm=norm)
    torch.testing.assert_close(loose.flat, plain.flat, rtol=1e-5, atol=1e-7)
    for name, array in adam.state().items():
        torch.testing.assert_close(other.state()[name], array, rtol=1e-4, atol=1e-9)
    assert torch.equal(network.unused, torch.ones(3)), "a parameter that nothing depends on stays"
    assert all(p.grad is None for p in loose.named.values()) and loose._grad is None


def test_weights_in_bfloat16_are_rounded_from_what_learns_in_float32(monkeypatch):
    flat, adam, network = learned(False, monkeypatch, updates=40, half=True)
    weight, exact = network[0].weight, flat.frozen["0.weight"]
    assert weight.dtype == torch.bfloat16 and exact.dtype == torch.float32
    assert torch.equal(weight, exact.bfloat16()) and not torch.equal(weight.float(), exact)
    before = exact.clone()
    flat.load({n: a + 1 for n, a in flat.arrays().items()}, "here")
    assert torch.equal(weight, (before + 1).bfloat16())
    spoilt = flat.flat.clone()
    flat.zero_grad()
    network(torch.full((1, 5), float("nan"), dtype=torch.bfloat16)).sum().backward()
    adam.step()
    assert torch.equal(flat.flat, spoilt) and torch.equal(weight, exact.bfloat16())


def test_steps_too_small_for_bfloat16_add_up():
    """A step of a thousandth of what rounding would take is lost where weights are all there is."""
    layer = nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    flat = FlatParameters(dict(layer.named_parameters()), torch.device("cpu"), keep_half=True)
    adam = FlatAdam(flat, 1e-5)
    for _ in range(1000):
        flat.zero_grad()
        layer(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
        adam.step()
    torch.testing.assert_close(flat.flat, torch.full((4,), 0.99), atol=1e-4, rtol=0)
    assert layer.weight.max() < 1


def test_gradients_of_an_update_that_broke_off_are_forgotten(monkeypatch):
    monkeypatch.setattr(FlatParameters, "_lets_go", lambda self: True)
    layer = nn.Linear(3, 1)
    flat = FlatParameters(dict(layer.named_parameters()), torch.device("cpu"))
    flat.zero_grad()
    layer(torch.full((2, 3), 1e6)).sum().backward()
    flat.zero_grad()  # memory was short: it begins again, in smaller parts
    layer(torch.zeros(1, 3)).sum().backward()
    flat.collect()
    assert flat.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_on_a_cpu_gradients_are_added_where_they_stay():
    layer = nn.Linear(3, 1)
    flat = FlatParameters(dict(layer.named_parameters()), torch.device("cpu"))
    flat.zero_grad()
    layer(torch.ones(1, 3)).sum().backward()
    assert flat.grad.tolist() == [1.0] * 4
    assert torch_tools.use_tensor_cores("cpu") is None
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_device_that_this_machine_lacks_is_named():
    assert torch_tools.training_device("cpu") == torch.device("cpu")
    with pytest.raises(
        ConfigError, match=r"got cuda:99, expected (cpu: torch .* finds no GPU|.*cuda:0)"
    ):
        torch_tools.training_device("cuda:99")
