"""Batches for processes on hosts that do not have the store: the first draws and sends their part.

Each of them asks for one batch after the other, two ahead of what it trains on, through a gloo group
that only it and the first are in. The first draws with the same numbers at random as that process would by
itself, so that nothing about what is learned depends on where the store is.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from user_core.codecs.states import decode_state, encode_state
from user_core.errors import StoreError, in_words
from user_core.runtime.closing import Closing
from user_core.types import Batch, EpisodeSource
from user_learner.algorithms.common.distributed import exchanged, rank, together
from user_learner.replay.index import INDEX_NAME
from user_learner.sampling.share import Share

_log = logging.getLogger(__name__)
#: Batches that are on their way, or wait to be trained on.
_AHEAD = 2
_LOOK_S = 0.05
#: What a process asks for: no more, or the next batch.
_STOP, _NEXT = 0, 1
#: What comes before the bytes: whether they are a batch, or say why there is none.
_BATCH, _NOTHING = 1, 0
#: A learner may wait for robots for days; who has died is noticed at once.
_PATIENCE = timedelta(days=30)


class Feeds:
    """Who has no store, and a way to each of them. Made by all processes at the same time.

    Args:
        stores: Directories that are drawn from, on this host.

    Attributes:
        lacking: Ranks that have to be sent their batches.
    """

    def __init__(self, stores: Sequence[Path]) -> None:
        self.lacking: list[int] = []
        self._groups: dict[int, Any] = {}
        if not together():
            return
        has = all((store / INDEX_NAME).exists() for store in stores)
        found = exchanged([has])
        self.lacking = [number for number, [there] in enumerate(found) if not there and number]
        for number in self.lacking:
            self._groups[number] = dist.new_group([0, number], timeout=_PATIENCE, backend="gloo")

    @property
    def lacks(self) -> bool:
        """Whether this process is one of them."""
        return rank() in self.lacking

    def source(self) -> FedSource:
        """Where this process gets its batches."""
        return FedSource(self._groups[rank()])

    def feeder(self, open_source: Callable[[Share], Any], share: Share, rows: int) -> Feeder | None:
        """What the first process sends them from; None where all have the store.

        Args:
            open_source: Makes a source of a part of each batch.
            share: Of the first process.
            rows: Of a whole batch.
        """
        if rank() or not self.lacking:
            return None
        parts = {n: Share(n, share.of, share.minibatches) for n in self.lacking}
        return Feeder(self._groups, {n: open_source(part) for n, part in parts.items()}, rows)


class Feeder(Closing):
    """Sends batches, in a thread for each process that asks.

    Args:
        groups: The way to each.
        sources: Its part of batches.
        rows: Of a whole batch.
    """

    def __init__(self, groups: Mapping[int, Any], sources: Mapping[int, Any], rows: int) -> None:
        self._groups, self._sources, self._rows = groups, sources, rows
        self._threads: list[threading.Thread] = []

    def begin(self, state: Any) -> None:
        """Send from now on, as from this state of the first process's own source."""
        for number, source in self._sources.items():
            source.load_state(state)
            thread = threading.Thread(
                target=self._send_all, args=(number, source), name=f"feed-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Let go of the sources; who still asks is gone, or has asked for no more. Idempotent."""
        for thread in self._threads:
            thread.join(1.0)
        for source in self._sources.values():
            source.close()

    def _send_all(self, number: int, source: Any) -> None:
        group = self._groups[number]
        wanted = torch.zeros(1, dtype=torch.int64)
        try:
            while True:
                dist.recv(wanted, number, group=group)
                if int(wanted) == _STOP:
                    return
                try:
                    kind, content = _BATCH, _packed(source.sample(self._rows))
                except StoreError as error:
                    kind, content = _NOTHING, str(error).encode()
                except Exception as error:  # the other asks again, and says what it waits for
                    _log.exception("a batch for rank %d", number)
                    kind, content = _NOTHING, in_words(error).encode()
                dist.send(torch.tensor([kind, len(content)]), number, group=group)
                dist.send(
                    torch.frombuffer(bytearray(content), dtype=torch.uint8), number, group=group
                )
        except RuntimeError:  # it is gone, and so is this training
            return


class FedSource(Closing):
    """A :class:`~user_core.interfaces.TransitionSource` of what the first process sends.

    Args:
        group: The way to it.
    """

    # It has no state: the first process knows what was drawn.

    def __init__(self, group: Any) -> None:
        self._group = group
        self._came: queue.Queue[Batch | str | Exception] = queue.Queue(_AHEAD)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return 1

    def collected(self, *sources: EpisodeSource) -> int:
        """More than any: the first process alone knows how many updates are due."""
        return 1 << 60

    def sample(self, batch_size: int) -> Batch:
        """The next batch, this process's part of it; raises StoreError where there is none yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask, name="fed", daemon=True)
            self._thread.start()
        while not self._stopping.is_set():
            try:
                found = self._came.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if isinstance(found, Batch):
                return found
            if isinstance(found, Exception):
                raise found
            break
        else:
            found = "the training has ended"
        raise StoreError("batches of the first process", got=found, expected="a batch")

    def close(self) -> None:
        """Ask for no more. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _ask(self) -> None:
        head = torch.zeros(2, dtype=torch.int64)
        try:
            while not self._stopping.is_set():
                dist.send(torch.tensor([_NEXT]), 0, group=self._group)
                dist.recv(head, 0, group=self._group)
                content = torch.empty(int(head[1]), dtype=torch.uint8)
                dist.recv(content, 0, group=self._group)
                self._put(
                    _unpacked(content)
                    if int(head[0]) == _BATCH
                    else bytes(content.numpy()).decode()
                )
            dist.send(torch.tensor([_STOP]), 0, group=self._group)
        except Exception as error:
            self._put(error)

    def _put(self, what: Batch | str | Exception) -> None:
        while not self._stopping.is_set():
            try:
                self._came.put(what, timeout=_LOOK_S)
                return
            except queue.Full:
                continue


def _packed(batch: Batch) -> bytes:
    return encode_state(
        {
            name: {n: np.asarray(array) for n, array in value.items()}
            if isinstance(value, Mapping)
            else np.asarray(value)
            for name, value in vars(batch).items()
        }
    )


def _unpacked(content: Tensor) -> Batch:
    return Batch(**decode_state(content.numpy().tobytes()))
