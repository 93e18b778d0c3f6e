"""What the outbox tests share: a robot, rows, and a store that lives in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from user_actor.outbox import Outbox, OutboxConfig
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectoryAck,
    TrajectoryChunk,
)

SPEC = RobotSpec("r", {"state": ArraySpec((4,), "float64")}, ArraySpec((2,)))
OTHER_SPEC = RobotSpec("r", {"state": ArraySpec((5,), "float64")}, ArraySpec((2,)))
ACTION = np.zeros(2, np.float32)


def config_for(folder, **changes):
    """Quick parameters."""
    values = {
        "directory": folder, "chunk_s": 0.02, "resend_min_s": 0.05, "resend_max_s": 0.2,
        "rebind_after_s": 0.2, "min_free_bytes": 0,
    }  # fmt: skip
    return OutboxConfig(**{**values, **changes})


def step(number, spec=SPEC, **changes):
    size = spec.observation["state"].size
    return Step(
        {"state": np.full(size, number, np.float64)},
        ACTION,
        ACTION,
        1.0,
        stamp_ns=number,
        **changes,
    )


def final(number, spec=SPEC):
    size = spec.observation["state"].size
    return FinalObservation({"state": np.full(size, number, np.float64)}, number)


def episode(outbox, first, length, spec=SPEC, source=EpisodeSource.ONLINE):
    """One whole episode with rows ``first`` to ``first + length``."""
    key = outbox.begin_episode(source)
    for number in range(first, first + length):
        outbox.append(step(number, spec))
    outbox.append(final(first + length, spec))
    result = EpisodeResult(key, source, Outcome.SUCCESS, length, float(length))
    outbox.end_episode(result)
    return result


class MemoryStore:
    """Keeps chunks in memory, and answers as a replay node does."""

    def __init__(self, name: str = "store", accepts: str | None = None) -> None:
        self.name, self.accepts = name, accepts
        self.refusal = "schema_mismatch"
        self.refuses: Callable[[TrajectoryChunk], bool] | None = None
        self.chunks: dict[tuple[int, int], TrajectoryChunk] = {}
        self.received = 0
        self.silent = False
        self.full = False
        self._lock = threading.Lock()

    def up_to(self, incarnation: int) -> int:
        number = 0
        while (incarnation, number + 1) in self.chunks:
            number += 1
        return number

    def take(self, chunk: TrajectoryChunk) -> TrajectoryAck:
        with self._lock:
            self.received += 1
            code = ""
            wrong = self.accepts not in (None, chunk.schema_hash)
            if wrong or (self.refuses is not None and self.refuses(chunk)):
                code = self.refusal
            elif self.full:
                code = "store_full"
            else:
                self.chunks.setdefault((chunk.id.incarnation, chunk.id.sequence), chunk)
            return TrajectoryAck(
                chunk.id.producer,
                chunk.id.incarnation,
                self.up_to(chunk.id.incarnation),
                self.name,
                chunk.id.sequence if code else 0,
                code,
                "not like this" if code else "",
            )

    def serve(self, outbox: Outbox) -> Callable[[TrajectoryChunk], None]:
        """A ``send`` for :meth:`Outbox.deliver_to` that has its answers come back."""

        def send(chunk: TrajectoryChunk) -> None:
            ack = self.take(chunk)
            if not self.silent:
                outbox.acknowledge(ack)

        return send

    def stamps(self) -> list[int]:
        """The stamps of all rows, in the order of incarnation and number."""
        return [
            stamp for _, chunk in sorted(self.chunks.items())
            for stamp in chunk.columns["stamp_ns"].tolist()
        ]  # fmt: skip
