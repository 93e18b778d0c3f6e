"""Buffers of a network in a checkpoint, of whatever type."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from user_core.errors import StoreError
from user_core.policies.generative.flow import FlowConfig, FlowPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.batches import buffers_state, load_buffers
from user_learner.algorithms.imitation.bc import BC, BCConfig

SPEC = RobotSpec("r", {"x": ArraySpec((3,))}, ArraySpec((2,), low=-1.0, high=1.0))


def network(seed):
    made = nn.Linear(2, 2)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5, generator=generator)
    made.register_buffer("low", values.to(torch.bfloat16))
    made.register_buffer("one", values[0].to(torch.bfloat16))
    made.register_buffer("count", torch.tensor(seed))
    made.register_buffer("seen", values > 0)
    made.register_buffer("wide", values.double())
    return made


def test_they_come_back_exactly_bfloat16_too():
    first, second = network(1), network(2)
    load_buffers(second, buffers_state(first), "the test")
    for name, buffer in first.named_buffers():
        other = second.get_buffer(name)
        assert other.dtype == buffer.dtype
        torch.testing.assert_close(other, buffer, rtol=0, atol=0)


def test_they_are_copies_and_others_are_refused():
    made = network(1)
    state = buffers_state(made)
    made.wide.zero_()
    assert abs(state["wide"]).sum() > 0
    del state["low"]
    with pytest.raises(StoreError, match="low"):
        load_buffers(made, state, "the test")


class Reads(TorchDispatchMode):
    """Counts what a GPU would be waited for: numbers that are looked at, and rows that are chosen by what is in
    them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, chosen = str(function), args[1] if len(args) > 1 else None
        masked = isinstance(chosen, list | tuple) and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in chosen
        )
        read = "_local_scalar_dense" in name or "aten.equal" in name or "nonzero" in name
        self.count += read or ("aten.index" in name and masked)
        return function(*args, **(kwargs or {}))


def cloning():
    config = FlowConfig(rows=4, hidden=(8,), normalization_calls=3)
    return BC(BCConfig(seed=1), SPEC, FlowPolicy(config, SPEC))


def batch(rng):
    zeros, mask = np.zeros((8, 4), np.float32), np.ones((8, 4), bool)
    x = {"x": rng.standard_normal((8, 3)).astype(np.float32)}
    action = rng.uniform(-1, 1, (8, 4, 2)).astype(np.float32)
    return Batch(x, action, zeros, zeros, x, {"mask": mask})


def test_scales_that_have_settled_are_not_asked_for_again():
    """Each such question waits for all that a GPU has still to compute."""
    rng, algorithm = np.random.default_rng(0), cloning()
    inputs, action = torch.zeros(8, 3), torch.zeros(8, 8)
    network, weight = algorithm.network, torch.ones(8, 8)
    for settling in (True, True, True, True, False):
        with Reads() as reads:
            network.observe({"state": inputs})
            network.observe_actions(action, weight)
        assert (reads.count > 0) == settling
    before = network.input_offset.clone()
    algorithm.update(batch(rng))
    assert torch.equal(network.input_offset, before)


def test_scales_of_an_earlier_checkpoint_settle_on_as_they_would_have():
    straight, back = cloning(), cloning()
    batches = [batch(np.random.default_rng(number)) for number in range(6)]
    for one in batches[:2]:
        straight.update(one)
    state = straight.state()
    for one in batches[2:]:
        straight.update(one)
    for one in batches:
        back.update(one)
    back.load_state(state)
    for one in batches[2:]:
        back.update(one)
    assert int(back.network.statistics_calls[0]) == 3
    for (name, one), (_, other) in zip(
        straight.network.state_dict().items(), back.network.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
