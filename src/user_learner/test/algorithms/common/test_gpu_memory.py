"""A batch that a GPU's memory does not hold is split, or refused with what would fit. Needs a GPU."""

import gc

import numpy as np
import pytest
import torch

from user_core.errors import ConfigError
from user_core.policies.generative.flow import FlowConfig, FlowPolicy
from user_core.reasons import BATCH_SPLIT
from user_core.specs import ArraySpec, RobotSpec
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_testing.worlds.batches import random_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SPEC = RobotSpec("arm", {"x": ArraySpec((16,))}, ArraySpec((7,), low=-1.0, high=1.0))
#: 85 M parameters: 1.7 GB of weights, gradients, Adam and average; a batch of 256 takes several more.
CONFIG = FlowConfig(rows=16, backbone="transformer", embedding=1024, layers=7, heads=8)
BATCH = 1024


@pytest.fixture
def memory():
    """Lets a test have so many GB of the GPU in all."""

    def limit(gb):
        gc.collect()
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gb * 1e9 / whole)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()


def make(**params):
    return BC(BCConfig(device="cuda", seed=3, **params), SPEC, FlowPolicy(CONFIG, SPEC))


def drawn(rows):
    rng = np.random.default_rng(0)
    return random_batch(SPEC, rows, rng, window=CONFIG.rows)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_batch_that_does_not_fit_is_computed_in_parts_that_do(graphs, memory):
    batch = drawn(BATCH)
    whole = make(cuda_graphs=False)
    torch.cuda.reset_peak_memory_stats()
    expected = [whole.update(batch)["loss"] for _ in range(8)]
    needed_gb = torch.cuda.max_memory_allocated() / 1e9
    assert not whole.warnings()
    del whole
    memory(0.6 * needed_gb)
    split = make(cuda_graphs=graphs)
    found = [split.update(batch)["loss"] for _ in range(8)]
    (warning,) = [reason for reason in split.warnings() if reason.code == BATCH_SPLIT]
    assert "parts only" in str(warning)
    assert found[-1] < found[0], "it learns"
    # Noise is drawn part by part: losses are alike and not the same.
    np.testing.assert_allclose(found, expected, rtol=0.15)


def test_a_policy_of_which_no_row_fits_is_refused_with_the_memory_there_is(memory):
    algorithm = make(cuda_graphs=False)
    gc.collect()
    memory(torch.cuda.memory_allocated() / 1e9 + 0.05)
    with pytest.raises(ConfigError, match="single row") as caught:
        algorithm.update(drawn(4))
    assert "GiB" in str(caught.value)
