"""Answers the observations of a robot elsewhere, always the newest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from user_actor.loop.chunks import GoingOn
from user_actor.loop.policy import PolicyHolder, check_plan, planned
from user_core.codecs.images import decode_observation, decode_plan
from user_core.errors import SuiteError, in_words
from user_core.runtime.clock import Clock
from user_core.runtime.gpu_turns import LONGEST_S, Arrivals, GpuTurns
from user_core.runtime.histogram import LatencyHistogram
from user_core.specs import RobotSpec
from user_core.types import ActionChunk, Observation, Task

_log = logging.getLogger(__name__)
_LOOK_S = 0.2


@dataclass
class ServerCounts:
    """Counts of observations that arrived, and of what happened to them.

    Attributes:
        answered: Answers that were sent.
        superseded: A newer one came before their turn.
        refused: They could not be read, or the policy gave nothing usable.
        last_error: Why the last one was refused; empty once one was answered.
    """

    answered: int = 0
    superseded: int = 0
    refused: int = 0
    last_error: str = ""


class InferenceServer:
    """Lets a policy act on what a robot elsewhere sees; :meth:`run` in a thread of its own.

    While the policy thinks, observations come; the newest is next, the others are passed over. An
    answer says which observation it is about by that one's stamp and sequence number: its row 0 is
    due when the observation was taken. A policy may remember: it is reset when the robot was.

    Args:
        spec: The robot.
        policies: The policy.
        send: Sends an answer; called in the thread of :meth:`run`.
        task: What the policy is told when the robot was reset.
        needs_version: Answer nothing before a version has come.
        clock: Tells the time.
        turns: On the GPU that a learner of this host uses too: it waits from when an observation came until
            the policy has answered.

    Attributes:
        counts: What became of the observations.
        inference: How long the policy takes.
    """

    def __init__(
        self,
        spec: RobotSpec,
        policies: PolicyHolder,
        send: Callable[[ActionChunk], None],
        *,
        task: Task = Task(),  # noqa: B008 - it is frozen
        needs_version: bool = False,
        clock: Clock | None = None,
        turns: GpuTurns | None = None,
    ) -> None:
        self._spec, self._policies, self._send = spec, policies, send
        self._turns, self._arrivals, self._announced_s = turns, Arrivals(), 0.0
        self._task = task
        self._needs_version, self._clock = needs_version, clock or Clock()
        self._changed = threading.Condition()
        self._waiting: Observation | None = None
        self._episode: int | None = None
        self._ending = False
        self.counts = ServerCounts()
        self.inference = LatencyHistogram()

    def run(self) -> None:
        """Answer until :meth:`stop`."""
        while (observation := self._next()) is not None:
            try:
                chunk = self.answer(observation)
                if chunk is not None:
                    self._send(chunk)
                    self.counts.answered += 1
                    self.counts.last_error = ""
            except SuiteError as error:
                self._refuse(str(error))
            except Exception as error:  # of the middleware
                self._refuse(in_words(error))
            finally:
                if self._turns is not None and self._waiting is None:
                    self._turns.give_back()

    def stop(self) -> None:
        """End :meth:`run`, once the policy has returned. From any thread."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def offer(self, observation: Observation) -> None:
        """An observation came, its arrays as they travel. From any thread."""
        if self._turns is not None:
            self._turns.take(LONGEST_S)
            self._arrivals.came(time.monotonic())
        with self._changed:
            self.counts.superseded += self._waiting is not None
            self._waiting = observation
            self._changed.notify_all()

    def answer(self, observation: Observation) -> ActionChunk | None:
        """What the policy answers; None while it has nothing to act with.

        Raises:
            CodecError, SpecError: The arrays cannot be read, or are not this robot's.
            PolicyError: The policy gave no usable action.
        """
        ready = self._policies.current()
        if self._needs_version and not ready.number:
            self.counts.last_error = "no policy version has come yet"
            return None
        arrays, deterministic = decode_observation(
            observation.arrays, self._spec.observation, ready.policy.observation_history
        )
        if observation.episode != self._episode:
            ready.policy.reset(self._task)
            # last: a policy that refuses its task is asked again
            self._episode = observation.episode
        begin_ns = self._clock.monotonic_ns()
        plan = decode_plan(observation.arrays, self._spec.action)
        going_on = None if plan is None else GoingOn(*plan)
        rows_ta = planned(ready.policy, arrays, going_on, deterministic)
        self.inference.add(self._clock.monotonic_ns() - begin_ns)
        check_plan(rows_ta, self._spec)
        return ActionChunk(
            rows_ta,
            period_ns=int(self._spec.period_s * 1e9),
            start_ns=observation.stamp_ns,
            sequence=observation.sequence,
            policy_version=ready.number,
        )

    def _next(self) -> Observation | None:
        with self._changed:
            while not self._ending:
                observation, self._waiting = self._waiting, None
                if observation is not None:
                    return observation
                self._changed.wait(self._announce())
        return None

    def _announce(self) -> float:
        """Take the turn when the next observation is about to come; when to look again, seconds."""
        due = self._arrivals.next_s() if self._turns is not None else None
        if self._turns is None or due is None or due[0] == self._announced_s:
            return _LOOK_S
        now_s = time.monotonic()
        if now_s < due[0]:
            return min(_LOOK_S, due[0] - now_s)
        self._announced_s = due[0]
        if now_s < due[1]:
            self._turns.take(due[1] - now_s)
        return _LOOK_S

    def _refuse(self, text: str) -> None:
        self.counts.refused += 1
        if text != self.counts.last_error:
            _log.error("an observation was not answered: %s", text)
        self.counts.last_error = text
