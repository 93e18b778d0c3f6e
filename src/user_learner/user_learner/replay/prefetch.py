"""Prefetching: batches are gathered ahead by background threads, in the order of the draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from user_core.types import Batch

PlanT = TypeVar("PlanT")
BuffersT = TypeVar("BuffersT")


@dataclass(frozen=True)
class _Pending(Generic[PlanT, BuffersT]):
    plan: PlanT
    buffers: BuffersT
    batch: Future[Batch]


class Prefetcher(Generic[PlanT, BuffersT]):
    """Keeps ``depth`` batches on the way, in a ring of ``depth + keep`` buffers.

    Planning (drawing the indices) takes microseconds and happens in the calling thread, one
    batch after the other, so that the sequence of draws does not depend on timing; only the
    copying is done in the background. numpy copies without holding the interpreter's lock.

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
        self._depth, self._keep, self._worth_it = depth, keep, worth_it
        self._ahead = False
        self._pending: deque[_Pending[PlanT, BuffersT]] = deque()
        self._spare: list[BuffersT] = []
        self._shown: deque[BuffersT] = deque()
        self._size = 0
        self._workers = (
            ThreadPoolExecutor(workers, thread_name_prefix="replay-gather") if depth else None
        )

    def next(self, batch_size: int) -> Batch:
        """The next batch."""
        if batch_size != self._size:
            self.discard()
            self._spare, self._size = [], batch_size
            self._shown.clear()
            self._ahead = self._workers is not None and self._worth_it(batch_size)
        if len(self._shown) >= self._keep:
            self._spare.append(self._shown.popleft())
        if not self._ahead:
            plan, buffers = self._plan_with_buffers()
            self._shown.append(buffers)
            return self._gather(plan, buffers)
        while len(self._pending) < self._depth:
            self._submit()
        first = self._pending.popleft()
        self._shown.append(first.buffers)
        batch = first.batch.result()
        self._submit()
        return batch

    def first_plan(self) -> PlanT | None:
        """The plan of the batch that :meth:`next` will return, if there is one already."""
        return self._pending[0].plan if self._pending else None

    def discard(self) -> None:
        """Forget the batches on the way."""
        while self._pending:
            pending = self._pending.popleft()
            pending.batch.exception()  # waits: its buffers are being written
            self._spare.append(pending.buffers)

    def close(self) -> None:
        """End the threads. Idempotent."""
        self.discard()
        if self._workers is not None:
            self._workers.shutdown()

    def _submit(self) -> None:
        plan, buffers = self._plan_with_buffers()
        if self._workers is None:
            raise AssertionError("no workers")
        future = self._workers.submit(self._gather, plan, buffers)
        self._pending.append(_Pending(plan, buffers, future))

    def _plan_with_buffers(self) -> tuple[PlanT, BuffersT]:
        buffers = self._spare.pop() if self._spare else self._make_buffers(self._size)
        try:
            return self._plan(self._size), buffers
        except BaseException:
            self._spare.append(buffers)
            raise
