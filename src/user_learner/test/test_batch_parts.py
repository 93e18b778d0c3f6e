"""A batch that is computed in parts gives the update of the whole, also where memory says how many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from user_core.errors import ConfigError
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.imitation.bc import BC, BCConfig

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
