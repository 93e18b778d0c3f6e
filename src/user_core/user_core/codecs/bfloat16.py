"""bfloat16 without a type of its own: float32 whose lower halves are zero."""

from __future__ import annotations

import numpy as np

from user_core.specs import Array


def to_bfloat16(array: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; the result is float32 still.

    numpy has no bfloat16, and what comes out needs none: it computes like any float32, and the
    policy codec (:mod:`user_core.codecs.blocks`) sends it in half the bytes. Other types are
    returned as they are. Infinities and NaN stay what they are.
    """
    if array.dtype != np.float32:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
    rounded &= np.uint32(0xFFFF0000)
    special = ~np.isfinite(array)
    result: Array = rounded.view(np.float32).reshape(array.shape)
    if special.any():
        result[special] = array[special]
    return result
