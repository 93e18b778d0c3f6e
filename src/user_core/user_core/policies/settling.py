"""Scales that settle: taken from the first data that a network sees, and then left as they are. Imports torch.

Weights that were learned go on meaning what they did, so scales must not follow the data for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Rows of a batch that are looked at for quantiles, at most.
_LOOK_ROWS = 4096


class SettlingScales(nn.Module):
    """A module with scales that settle. Knows on the host which of them have.

    The number of calls that counted is a buffer, so that checkpoints hold it. To read it from a GPU is to
    wait until that has computed all that was launched: it is read until a scale has settled, and then not
    again, until other buffers have been loaded.

    Args:
        calls: Calls of :meth:`counted` that count, for each scale.
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls
        self._settled = set[str]()

    def buffers_changed(self) -> None:
        """Buffers have been loaded: which scales have settled is looked up again."""
        self._settled.clear()

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)
        self.buffers_changed()

    def has_settled(self, name: str) -> bool:
        """Whether it is known that rows for this scale count no more."""
        return name in self._settled

    def counted(self, name: str, calls: Tensor, rows: Tensor) -> tuple[int, Tensor] | None:
        """Count rows for a scale, unless it has settled.

        Args:
            name: Of the scale.
            calls: The buffer with the number of its calls, (); becomes one more where rows count.
            rows: Rows (n, S). Those that are not finite do not count: they would spoil the scale for good.

        Returns:
            How many calls counted before, and the finite rows as float64; None where none count.
        """
        if name in self._settled:
            return None
        before = int(calls)
        if before >= self._calls:
            self._settled.add(name)
            return None
        exact = rows[rows.isfinite().all(1)].double()
        if not len(exact):
            return None
        calls += 1
        return before, exact


def quantiles(rows: Tensor, shares: Sequence[float]) -> Tensor:
    """Quantiles of each column of rows (n, S), (len(shares), S); of many rows those of some from everywhere."""
    some = rows[torch.linspace(0, len(rows) - 1, min(len(rows), _LOOK_ROWS)).long()]
    return torch.quantile(some, rows.new_tensor(shares), dim=0)
