"""Observations that the control loop takes from their topic itself."""

from __future__ import annotations

from collections.abc import Callable

from user_actor.loop.observations import ObservationBox
from user_comm.topic_waiter import TopicWaiter
from user_core.types import Observation


class WaitedObservations(ObservationBox):
    """An ObservationBox without a thread that fills it: who looks, takes what has arrived.

    So an observation is decoded when it is wanted, in the thread that wants it, and those that
    nobody looks at cost nothing. Only the control loop may look; any thread may :meth:`put`.

    Args:
        waiter: The topic.

    Attributes:
        accept: What an observation that has arrived is given to, usually to be put here.
    """

    def __init__(self, waiter: TopicWaiter) -> None:
        super().__init__()
        self._waiter = waiter
        self.accept: Callable[[Observation], None] = self.put

    @property
    def newest(self) -> Observation | None:
        self._waiter.take_all(self.accept)
        return self._newest

    def put(self, observation: Observation) -> None:
        super().put(observation)
        self._waiter.wake()

    def interrupt(self) -> None:
        super().interrupt()
        self._waiter.wake()

    def wait_for(
        self, wanted: Callable[[Observation], bool], deadline_ns: int
    ) -> Observation | None:
        while True:
            newest = self.newest
            if newest is not None and wanted(newest):
                return newest
            left_ns = deadline_ns - self._clock.monotonic_ns()
            if left_ns <= 0 or self._interrupted:
                return None
            self._waiter.wait(left_ns)
