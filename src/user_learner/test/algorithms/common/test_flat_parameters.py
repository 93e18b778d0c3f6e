"""Gradients of a large network on a GPU are taken as autograd made them; what is learned stays the same."""

import pytest
import torch
from torch import nn

from user_core.errors import ConfigError
from user_learner.algorithms.common import torch_tools
from user_learner.algorithms.common.torch_tools import FlatAdam, FlatParameters


def learned(lets_go, monkeypatch, parts=1, updates=3):
    monkeypatch.setattr(FlatParameters, "_lets_go", lambda self: lets_go)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    network.unused = nn.Parameter(torch.ones(3))
    flat = FlatParameters(dict(network.named_parameters()), torch.device("cpu"))
    adam = FlatAdam(flat, 1e-2, max_grad_norm=0.5)
    norms = []
    for _ in range(updates):
        flat.zero_grad()
        for part in torch.randn(8, 5).chunk(parts):
            network(part).square().mean().backward()
        adam.step()
        norms.append(flat.grad.norm())
    assert all(
        p.grad.data_ptr() == flat.split(flat.grad)[n].data_ptr() for n, p in flat.named.items()
    )
    return flat.flat.clone(), torch.stack(norms), network


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_that_are_collected_teach_what_added_ones_do(parts, monkeypatch):
    plain, norms, _ = learned(False, monkeypatch, parts)
    loose, loose_norms, network = learned(True, monkeypatch, parts)
    assert torch.equal(plain, loose)
    assert torch.equal(norms, loose_norms)
    assert torch.equal(network.unused, torch.ones(3)), "a parameter that nothing depends on stays"


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
    with pytest.raises(ConfigError, match="cuda:99.*cuda, cuda:1"):
        torch_tools.training_device("cuda:99")
