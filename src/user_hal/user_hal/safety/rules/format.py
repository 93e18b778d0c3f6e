"""What a command must look like before anything else is asked of it."""

from __future__ import annotations

import math

import numpy as np

from user_core.specs import Array, ArraySpec
from user_hal.safety.rule import Refused


class FormatRule:
    """Refuses what is no array of the action's shape and dtype, or holds NaN or infinity."""

    SHAPE = "shape"
    DTYPE = "dtype"
    NOT_FINITE = "not_finite"

    def __init__(self, spec: ArraySpec) -> None:
        self._shape, self._dtype = spec.shape, np.dtype(spec.dtype)
        self._names = spec.names

    def read(self, action: Array) -> list[float]:
        """The elements of a command, as plain floats.

        Raises:
            Refused: ``shape``, ``dtype`` or ``not_finite``.
        """
        if not isinstance(action, np.ndarray) or action.shape != self._shape:
            came = getattr(action, "shape", type(action).__name__)
            raise Refused(self.SHAPE, f"command has shape {came}, needs {self._shape}")
        if action.dtype != self._dtype:
            raise Refused(self.DTYPE, f"command is {action.dtype}, needs {self._dtype}")
        values: list[float] = action.tolist()
        if not math.isfinite(sum(values)):  # a sum of finite numbers may overflow: look closer
            self._find(values)
        return values

    def _find(self, values: list[float]) -> None:
        bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            name = self._names[bad[0]] if self._names else f"element {bad[0]}"
            raise Refused(
                self.NOT_FINITE,
                f"{len(bad)} of {len(values)} elements are not finite, first {name} = "
                f"{values[bad[0]]}",
            )
