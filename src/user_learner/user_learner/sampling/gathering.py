"""Batches gathered ahead by background threads, into memory that is used again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from user_core.runtime.prefetch import Prefetcher
from user_core.types import Batch

PlanT = TypeVar("PlanT")
BuffersT = TypeVar("BuffersT")


@dataclass(frozen=True)
class _Job(Generic[PlanT, BuffersT]):
    plan: PlanT
    buffers: BuffersT


class BatchGatherer(Generic[PlanT, BuffersT]):
    """Keeps ``depth`` batches on the way, in a ring of ``depth + keep`` buffers.

    Planning (drawing the indices) takes microseconds and happens in the calling thread; only
    the copying is done in the background (:class:`~user_core.runtime.prefetch.Prefetcher`).

    Args:
        plan: Makes a plan for a batch of the given size.
        gather: Carries out a plan; called from worker threads.
        buffers: Makes buffers for a batch of the given size.
        depth: Batches ahead; 0 gathers in the calling thread.
        keep: Calls of :meth:`next` after which the memory of a batch is used again.
        workers: Threads.
        worth_it: Whether batches of the given size are worth a thread; where they are not, they
            are gathered in the calling thread.
    """

    def __init__(
        self,
        plan: Callable[[int], PlanT],
        gather: Callable[[PlanT, BuffersT], Batch],
        buffers: Callable[[int], BuffersT],
        depth: int,
        keep: int,
        workers: int,
        worth_it: Callable[[int], bool] = lambda size: True,
    ) -> None:
        self._plan, self._gather, self._make_buffers = plan, gather, buffers
        self._keep, self._worth_it, self._ahead = keep, worth_it, False
        self._here = Prefetcher(self._begin, self._run, 0)
        self._background = Prefetcher(self._begin, self._run, depth, workers, "replay-gather")
        self._spare: list[BuffersT] = []
        self._shown: deque[BuffersT] = deque()
        self._size = 0

    def next(self, batch_size: int) -> Batch:
        """The next batch."""
        if batch_size != self._size:
            self.discard()
            self._spare, self._size = [], batch_size
            self._shown.clear()
            self._ahead = self._worth_it(batch_size)
        if len(self._shown) >= self._keep:
            self._spare.append(self._shown.popleft())
        job, batch = (self._background if self._ahead else self._here).next()
        self._shown.append(job.buffers)
        return batch

    def first_plan(self) -> PlanT | None:
        """The plan of the batch that :meth:`next` will return, if there is one already."""
        first = self._background.first
        return first.plan if first is not None else None

    def discard(self) -> None:
        """Forget the batches on the way."""
        self._spare += [job.buffers for job in self._background.discard()]

    def close(self) -> None:
        """End the threads. Idempotent."""
        self.discard()
        self._background.close()

    def _begin(self) -> _Job[PlanT, BuffersT]:
        buffers = self._spare.pop() if self._spare else self._make_buffers(self._size)
        try:
            return _Job(self._plan(self._size), buffers)
        except BaseException:
            self._spare.append(buffers)
            raise

    def _run(self, job: _Job[PlanT, BuffersT]) -> Batch:
        return self._gather(job.plan, job.buffers)
