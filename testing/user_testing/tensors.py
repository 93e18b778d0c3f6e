"""Comparing tensors without ``torch.testing``, whose first comparison imports 800 modules: three seconds."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def assert_close(
    actual: Tensor, expected: Tensor, *, rtol: float = 1.3e-6, atol: float = 1e-5
) -> None:
    """Both have the same shape and type, and nearly the same values.

    The tolerances are those of ``torch.testing.assert_close`` for float32.
    """
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(
        actual.detach().double().numpy(), expected.detach().double().numpy(), rtol=rtol, atol=atol
    )
