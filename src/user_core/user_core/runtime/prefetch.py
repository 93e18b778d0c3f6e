"""Results made ahead of their use, by background threads, in the order in which they were begun."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


class Prefetcher(Generic[JobT, ResultT]):
    """Keeps ``depth`` results on the way.

    A job is begun (an order, a draw of random numbers) in the calling thread, one after the
    other, so that the sequence of jobs does not depend on timing; only the work is done in the
    background, which pays where the work lets go of the interpreter's lock, as numpy does.

    Args:
        begin: Begins a job; called in the thread that calls :meth:`next`.
        run: Carries it out; called from a worker thread.
        depth: Results on the way; 0 makes each in the calling thread.
        workers: Threads; with one, jobs are carried out one after the other.
        name: Of the threads.
    """

    def __init__(
        self,
        begin: Callable[[], JobT],
        run: Callable[[JobT], ResultT],
        depth: int,
        workers: int = 1,
        name: str = "prefetch",
    ) -> None:
        self._begin, self._run, self._depth = begin, run, depth
        self._pending: deque[tuple[JobT, Future[ResultT]]] = deque()
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix=name) if depth else None

    @property
    def first(self) -> JobT | None:
        """The job whose result :meth:`next` will return, if it is begun already."""
        return self._pending[0][0] if self._pending else None

    def next(self, timeout_s: float | None = None) -> tuple[JobT, ResultT]:
        """The next result and its job. Raises what the job raised, and TimeoutError."""
        if self._workers is None:
            job = self._begin()
            return job, self._run(job)
        self._fill(self._workers)
        job, future = self._pending[0]
        try:
            result = future.result(timeout_s)
        except FutureTimeout:
            if not future.done():
                raise TimeoutError from None
            self._pending.popleft()  # the job itself raised it
            raise
        except BaseException:
            self._pending.popleft()
            raise
        self._pending.popleft()
        self._fill(self._workers)
        return job, result

    def discard(self) -> list[JobT]:
        """Forget the jobs on the way, once they have ended; returns them."""
        jobs = []
        while self._pending:
            job, future = self._pending.popleft()
            future.exception()  # waits, and lets none be skipped: what a job holds, its run gives back
            jobs.append(job)
        return jobs

    def close(self) -> None:
        """End the threads. Idempotent."""
        self.discard()
        if self._workers is not None:
            self._workers.shutdown()

    def _fill(self, workers: ThreadPoolExecutor) -> None:
        while len(self._pending) < self._depth:
            job = self._begin()
            self._pending.append((job, workers.submit(self._run, job)))
