"""A policy that acts in a thread beside the control loop, so that it cannot delay a deadline."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from user_actor.loop.acting.chunks import GoingOn
from user_actor.loop.acting.policy import FixedPolicy, PolicyHolder, check_plan, planned
from user_actor.loop.acting.remote import Answer, Lateness
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.clock import Clock
from user_core.specs import RobotSpec
from user_core.types import Observation, Task


@dataclass(frozen=True)
class _Asked:
    observation: Observation
    step: int
    deterministic: bool
    going_on: GoingOn | None


class ThreadedPolicy:
    """An :class:`~user_actor.loop.acting.remote.InferencePort` on this host.

    The newest observation is answered; those that come while the policy thinks take each other's place. An
    error of the policy is raised by :meth:`take` and :meth:`wait`, in the control loop.

    Args:
        policies: What acts.
        spec: The robot.
        clock: Tells the time.

    Attributes:
        version: Policy version of the last answer.
    """

    may_lose = False

    def __init__(self, policies: FixedPolicy | PolicyHolder, spec: RobotSpec, clock: Clock) -> None:
        self._policies, self._spec, self._clock = policies, spec, clock
        self._changed = threading.Condition()
        self._acting = threading.Lock()
        self._threads = ThreadPoolExecutor(1, "policy")  # its thread ends with it
        self._running: Future[None] | None = None
        self._waiting: _Asked | None = None
        self._newest: Answer | None = None
        self._error: BaseException | None = None
        self._era = 0
        self.version = 0

    def begin_episode(self, task: Task) -> None:
        """An episode begins, in which this is to be done; waits until the policy is idle."""
        with self._changed:
            self._waiting = None
        with self._acting:
            self._policies.begin(task)

    def begin(self) -> None:
        """What was asked until now is over."""
        with self._changed:
            self._era += 1
            self._waiting = self._newest = self._error = None

    def ask(
        self, observation: Observation, step: int, *, deterministic: bool = False,
        going_on: GoingOn | None = None,
    ) -> None:  # fmt: skip
        """Have this observation answered; returns at once."""
        with self._changed:
            self._waiting = _Asked(observation, step, deterministic, going_on)
            if self._running is None:
                self._running = self._threads.submit(self._answer_all)

    def take(self) -> Answer | None:
        """The newest answer that was not taken yet; raises what the policy raised."""
        with self._changed:
            return self._taken()

    def wait(self, until_ns: int) -> Answer | None:
        """The same; waits for one until then, monotonic nanoseconds."""
        with self._changed:
            while self._newest is None and self._error is None:
                left_ns = until_ns - self._clock.monotonic_ns()
                if left_ns <= 0:
                    break
                self._clock.wait(self._changed, left_ns * 1e-9)
            return self._taken()

    def why_silent(self) -> Reason:
        """It is here."""
        return NO_REASON

    def why_lost(self) -> Reason:
        """It is here."""
        return NO_REASON

    def lateness(self, after_s: float) -> Lateness:
        """It is here."""
        return Lateness(NO_REASON, 0)

    def probe(self, observation: Observation | None) -> None:
        """Nothing: it is here."""

    def close(self) -> None:
        """End the thread, once the policy has returned."""
        with self._changed:
            self._waiting = None
        self._threads.shutdown()

    def _taken(self) -> Answer | None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        answer, self._newest = self._newest, None
        return answer

    def _answer_all(self) -> None:
        while True:
            with self._changed:
                asked, self._waiting = self._waiting, None
                if asked is None:
                    self._running = None
                    return
                era = self._era
            answer, error = None, None
            try:
                answer = self._answer(asked)
            except BaseException as raised:  # it is the control loop's to judge
                error = raised
            with self._changed:
                if era == self._era:
                    self._newest, self._error = answer or self._newest, error or self._error
                    self._changed.notify_all()

    def _answer(self, asked: _Asked) -> Answer:
        with self._acting:
            ready = self._policies.current()
            rows_ta = planned(
                ready.policy, asked.observation.arrays, asked.going_on, asked.deterministic
            )
        check_plan(rows_ta, self._spec)
        self.version = ready.number
        return Answer(rows_ta, asked.step, ready.number)
