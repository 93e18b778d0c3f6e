"""A batch that is computed in parts gives the update of the whole, also where memory says how many."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from user_core.errors import ConfigError
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Algorithm
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common import distributed
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_learner.training import TrainingConfig, TrainingLoop, UtdConfig
from user_learner.training.memory import too_large

SPEC = RobotSpec("r", {"x": ArraySpec((3,))}, ArraySpec((2,), low=-1.0, high=1.0))


def batch() -> Batch:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (16, 2)).astype(np.float32)
    return Batch({"x": x}, action, np.zeros(16, np.float32), np.zeros(16, np.float32), {"x": x})


def bc(**settings: Any) -> BC:
    policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,)), SPEC)
    return BC(BCConfig(**settings), SPEC, policy)


class ShortOfMemory(BC):
    """Its memory holds so many rows."""

    holds = 4

    def _loss(self, inputs: Any, action: torch.Tensor, weight: torch.Tensor | None) -> Any:
        if len(action) > self.holds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super()._loss(inputs, action, weight)


def test_parts_give_the_update_of_the_whole() -> None:
    whole, parts = bc(), bc(accumulate=5)  # 16 rows: parts of 4 and less
    for _ in range(5):
        one, other = whole.update(batch()), parts.update(batch())
        assert one == pytest.approx(other, rel=1e-4)
    np.testing.assert_allclose(
        whole.parameters.flat.numpy(), parts.parameters.flat.numpy(), rtol=1e-3, atol=1e-5
    )
    assert not parts.warnings()


def test_where_memory_is_short_more_parts_are_made_and_that_is_said() -> None:
    policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,)), SPEC)
    whole, short = bc(), ShortOfMemory(BCConfig(), SPEC, policy)
    for _ in range(3):
        whole.update(batch())
        short.update(batch())
    np.testing.assert_allclose(
        whole.parameters.flat.numpy(), short.parameters.flat.numpy(), rtol=1e-3, atol=1e-5
    )
    (warning,) = short.warnings()
    assert warning.code == "batch_split"
    assert "4 parts" in warning.text


def test_what_does_not_fit_with_one_row_is_refused_with_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 8 * 2**30))
    monkeypatch.setattr(ShortOfMemory, "holds", 0)
    policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,)), SPEC)
    with pytest.raises(ConfigError, match=r"8 GiB.*single row.*1.0 GiB"):
        ShortOfMemory(BCConfig(), SPEC, policy).update(batch())


class HoldsRows(Algorithm):
    """Its memory holds so many rows of a minibatch, and no two may be cut apart."""

    def __init__(self, holds: int, minibatches: int = 1) -> None:
        self.holds, self.updates_per_call, self.tried = holds, minibatches, list[int]()

    def update(self, batch: Batch) -> dict[str, float]:
        rows = len(batch) // self.updates_per_call
        assert rows * self.updates_per_call == len(batch)
        self.tried.append(rows)
        if rows > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore words")
        return {}

    def policy_arrays(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        pass


class Given:
    """A source of as many rows as are asked for."""

    def __len__(self) -> int:
        return 1

    def sample(self, rows: int) -> Batch:
        x = {"x": np.zeros((rows, 3), np.float32)}
        action, zeros = np.zeros((rows, 2), np.float32), np.zeros(rows, np.float32)
        return Batch(x, action, zeros, zeros, x, {"mask": np.ones(rows, bool)})


@pytest.mark.parametrize(
    ("holds", "minibatches", "said"),
    [(70, 1, "256: CUDA out of memory.*at most 64"), (5, 4, "at most 4"), (0, 1, "a single row")],
)
def test_a_first_update_that_does_not_fit_is_refused_with_the_batch_that_does(
    tmp_path: Path, holds: int, minibatches: int, said: str
) -> None:
    algorithm = HoldsRows(holds, minibatches)
    config = TrainingConfig(utd=UtdConfig(target=None, learning_starts=0), max_updates=10)
    loop = TrainingLoop(
        config, algorithm, Given(), PolicyMailbox(), environment_steps=lambda: 1,
        directory=tmp_path, identity={},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=rf"(?s)training\.batch_size.*{said}"):
        loop.run()
    assert algorithm.tried[-1] == max(1, 256 >> len(algorithm.tried) - 1)
    assert not list((tmp_path / "checkpoints").glob("*.safetensors"))  # what was tried is not kept


def test_no_smaller_batch_is_tried_where_a_network_is_spread_over_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = HoldsRows(0)
    loop = TrainingLoop(
        TrainingConfig(), algorithm, Given(), PolicyMailbox(), environment_steps=lambda: 1,
        directory=tmp_path, identity={},
    )  # fmt: skip
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(loop, "_shards", object())
    said = str(loop._too_large(torch.OutOfMemoryError("CUDA out of memory."), Given().sample(8)))
    assert "16: CUDA out of memory" in said and "cannot be tried" in said
    assert not algorithm.tried
    monkeypatch.setattr(loop, "_shards", None)
    assert "single row" in str(loop._too_large(torch.OutOfMemoryError("."), Given().sample(8)))
    assert algorithm.tried == [4, 2, 1]
    loop.abandon()


def test_what_failed_is_let_go_of_before_smaller_batches_are_tried() -> None:
    held, is_gone = list[weakref.ref[Any]](), list[bool]()

    def update(batch: Batch) -> None:
        if held:
            is_gone.append(held[0]() is None)
            return
        activations = np.zeros(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    batch = Given().sample(8)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        update(batch)
    assert "at most 4" in str(too_large(caught.value, update, batch, 1, 1))
    assert is_gone == [True]


def test_memory_that_is_short_later_is_tried_again_from_the_checkpoint(tmp_path: Path) -> None:
    algorithm = HoldsRows(256)
    config = TrainingConfig(utd=UtdConfig(target=None, learning_starts=0))
    loop = TrainingLoop(
        config, algorithm, Given(), PolicyMailbox(), environment_steps=lambda: 1,
        directory=tmp_path, identity={},
        before_update=lambda: setattr(algorithm, "holds", 256 if len(algorithm.tried) < 3 else 0),
    )  # fmt: skip
    with pytest.raises(torch.OutOfMemoryError):
        loop.run()
