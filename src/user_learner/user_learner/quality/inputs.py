"""What the numbers of a store look like, element by element: a report of a policy's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from user_core.policies.features import is_image
from user_core.policies.tanh_gaussian_layout import INPUT_LIMIT
from user_core.specs import Array, Arrays, ArraySpec
from user_core.types import OBSERVATION
from user_learner.replay.meaning import read_meaning
from user_learner.replay.reader import StoreReader

_ROWS_AT_ONCE = 1024
#: What the last row of an episode does not have. A reward that never changes teaches nothing.
_OF_STEPS = ("action", "reward")


@dataclass(frozen=True)
class InputReport:
    """One element of an observation or action, or the reward, over all rows of a store.

    Attributes:
        name: For people: ``tcp_pose[2]``, ``action[elbow]``.
        low: Smallest finite value.
        high: Largest finite value.
        mean: Of the finite values.
        rows: Values that were looked at.
        not_finite: Values that are no finite number.
        outside: Share outside the bounds that the store's meaning gives; None without bounds.
        far: Share that lies beyond the limit of the newest policy's inputs, which sees only
            their logarithm; None where no policy is known.
    """

    name: str
    low: float
    high: float
    mean: float
    rows: int
    not_finite: int = 0
    outside: float | None = None
    far: float | None = None

    @property
    def constant(self) -> bool:
        """Whether it never changed."""
        return self.rows > 0 and self.low == self.high


def report_inputs(store: str | Path, policy: Arrays | None = None) -> list[InputReport]:
    """Look through all rows of a store.

    Args:
        store: Its directory; it may be in use.
        policy: Arrays of the newest policy; its ``input.offset`` and ``input.scale`` say what is
            far out, where it uses all numbers of the observation.

    Raises:
        StoreError: There is no store, or nothing in it.
    """
    with closing(StoreReader(store)) as reader:
        schema = reader.layout.schema
        known = read_meaning(store, schema).spec
        observed = sorted(
            name
            for name, spec in schema.columns.items()
            if name.startswith(OBSERVATION) and not is_image(spec)
        )
        size = sum(schema.columns[name].size for name in observed)
        offset: Array | None = None
        scale: Array | None = None
        if policy is not None and len(policy.get("input.offset", ())) == size:
            offset, scale = policy["input.offset"], policy["input.scale"]
        tallies, start = [], 0
        for name in [*observed, *_OF_STEPS]:
            short, spec = name.removeprefix(OBSERVATION), schema.columns[name]
            if known is not None:
                spec = known.action if name == "action" else known.observation.get(short, spec)
            part = slice(start, start + spec.size)
            pair = None
            if name not in _OF_STEPS and offset is not None and scale is not None:
                pair = (offset[part], scale[part])
            tallies.append((name, _Tally(short, spec, pair)))
            start += spec.size
        for rows in _rows(reader):
            steps = ~rows["final"]
            for name, tally in tallies:
                tally.add(rows[name][steps] if name in _OF_STEPS else rows[name])
        return [one for _, tally in tallies for one in tally.reports()]


def _rows(reader: StoreReader) -> Iterator[dict[str, Array]]:
    damaged = {damage.segment for damage in reader.tables.damages}
    for segment, _, rows in reader.tables.segments.tolist():
        for start in range(0, rows if segment not in damaged else 0, _ROWS_AT_ONCE):
            yield reader.read(segment, start, min(_ROWS_AT_ONCE, rows - start))


class _Tally:
    """Counts the elements of one array."""

    def __init__(
        self, name: str, spec: ArraySpec, normalisation: tuple[Array, Array] | None
    ) -> None:
        self._name, self._spec, self._normalisation = name, spec, normalisation
        size = spec.size
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)
        self._sum, self._finite = np.zeros(size), np.zeros(size, np.int64)
        self._outside, self._far = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._rows = 0
        low, high = (b.ravel().astype(np.float64) for b in (spec.low_array, spec.high_array))
        with np.errstate(over="ignore", invalid="ignore"):
            slack = 1e-3 * np.where(np.isfinite(high - low), high - low, 0.0)
        self._bounds = (low - slack, high + slack)

    def add(self, array: Array) -> None:
        """Take rows, (n, ...)."""
        values: Array = np.asarray(array).reshape(len(array), -1).astype(np.float64)
        finite = np.isfinite(values)
        self._rows += len(values)
        self._finite += finite.sum(0)
        self._low = np.minimum(self._low, np.where(finite, values, np.inf).min(0, initial=np.inf))
        self._high = np.maximum(
            self._high, np.where(finite, values, -np.inf).max(0, initial=-np.inf)
        )
        values = np.where(finite, values, 0.0)
        self._sum += values.sum(0)
        low, high = self._bounds
        self._outside += (finite & ((values < low) | (values > high))).sum(0)
        if self._normalisation is not None:
            offset, scale = self._normalisation
            self._far += (finite & (np.abs((values - offset) * scale) > INPUT_LIMIT)).sum(0)

    def reports(self) -> list[InputReport]:
        """One for each element."""
        spec, rows = self._spec, max(self._rows, 1)
        bounded = spec.low is not None or spec.high is not None
        elements = spec.names or tuple(str(i) for i in range(spec.size))
        return [
            InputReport(
                self._name if spec.size == 1 else f"{self._name}[{element}]",
                float(self._low[i]),
                float(self._high[i]),
                float(self._sum[i] / max(self._finite[i], 1)),
                self._rows,
                int(self._rows - self._finite[i]),
                float(self._outside[i] / rows) if bounded else None,
                float(self._far[i] / rows) if self._normalisation is not None else None,
            )
            for i, element in enumerate(elements)
        ]
