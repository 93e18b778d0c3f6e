"""Buffers of a network in a checkpoint, of whatever type."""

import pytest
import torch
from torch import nn

from user_core.errors import StoreError
from user_learner.algorithms.common.batches import buffers_state, load_buffers


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
