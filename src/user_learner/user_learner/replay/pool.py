"""Pools: where the rows of a batch are gathered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from user_core.specs import Array
from user_core.types import EpisodeSource
from user_learner.replay.catalog import Snapshot
from user_learner.replay.layout import RowLayout
from user_learner.replay.mapping import Region
from user_learner.replay.pins import Pins
from user_learner.replay.population import Population

_RESERVED_ROWS = 2**40
#: How long to wait for gathers in flight when a pool is closed.
CLOSE_S = 10.0


@dataclass(frozen=True)
class Drawn:
    """Steps that were drawn.

    Attributes:
        rows: Rows of the pool's arrays: of the steps and of the H rows after them, (B, H + 1).
            Past the last row of an episode that one is repeated.
        after: How many following rows there are, (B,), at most H.
        address: Address of the steps in the snapshot, (B,).
        demonstration: Whether they are from demonstrations, (B,) bool.
    """

    rows: Array
    after: Array
    address: Array
    demonstration: Array

    @classmethod
    def join(cls, parts: list[Drawn]) -> Drawn:
        """Several, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("rows", "after", "address", "demonstration")
            )
        )


class Pool(Protocol):
    """Rows in memory, by column file, and how to draw steps among them."""

    pins: Pins

    @property
    def arrays(self) -> list[Array]:
        """One array (rows, stride) uint8 per column file."""

    def draw(self, stratum: int, count: int, rng: np.random.Generator) -> Drawn:
        """Draw steps of a stratum uniformly, with replacement."""

    def wait_for_disk(self) -> None:
        """Wait, for a limited time, until drawing is allowed; never with a gather pinned, because
        memory is given back only when pinned gathers are done."""

    def renew(self, snapshot: Snapshot, populations: list[Population]) -> None:
        """Go over to a later state of the stores; nothing is being drawn meanwhile."""

    def state(self) -> dict[str, Any]:
        """What has to survive a restart besides the state of the random numbers."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""

    def close(self) -> None:
        """Let go of the memory. Idempotent."""


class MappedPool:
    """All rows of all stores, mapped: for stores that fit into the memory budget."""

    def __init__(self, layout: RowLayout, horizon: int) -> None:
        self.pins = Pins()
        self._horizon = horizon
        self._snapshot = Snapshot()
        self._populations: list[Population] = []
        self._mapped: dict[tuple[str, int], int] = {}
        self._regions = [Region(file, _RESERVED_ROWS) for file in layout.files]
        self.arrays: list[Array] = [region.array for region in self._regions]

    def draw(self, stratum: int, count: int, rng: np.random.Generator) -> Drawn:
        """See :class:`Pool`."""
        population, runs = self._populations[stratum], self._snapshot.runs
        run, offset = population.pick(rng.integers(0, len(population), count))
        addresses, after = runs.follow(run, offset, self._horizon)
        demonstration = runs.source[run] == int(EpisodeSource.DEMONSTRATION)
        return Drawn(addresses, after, addresses[:, 0], demonstration)

    def wait_for_disk(self) -> None:
        """See :class:`Pool`: the kernel reads what is missing."""

    def renew(self, snapshot: Snapshot, populations: list[Population]) -> None:
        """See :class:`Pool`. Maps new segments, and unmaps those that were dropped, so that
        their disk space becomes free."""
        table = snapshot.segments
        wanted = {
            (str(path), base): capacity
            for path, base, capacity in zip(
                table.paths, table.base.tolist(), table.capacity.tolist(), strict=True
            )
        }
        gone = [key for key in self._mapped if key not in wanted]
        if gone:
            self.pins.wait(self.pins.stamp())
        for key in gone:
            for region in self._regions:
                region.unmap(key[1], self._mapped[key])
            del self._mapped[key]
        for path, base, capacity in zip(table.paths, table.base, table.capacity, strict=True):
            key = (str(path), int(base))
            if key not in self._mapped:
                for region in self._regions:
                    region.map(path, key[1], int(capacity))
                self._mapped[key] = int(capacity)
        self._snapshot, self._populations = snapshot, populations

    def state(self) -> dict[str, Any]:
        """See :class:`Pool`: nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`Pool`: nothing."""

    def close(self) -> None:
        """See :class:`Pool`."""
        if self.pins.wait(self.pins.stamp(), CLOSE_S):  # else somebody may still read: leave it
            self._release()

    def _release(self) -> None:
        for region in self._regions:
            region.close()
