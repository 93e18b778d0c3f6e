"""The policy of an actor whose inference runs on another host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from user_actor.loop.clock import Clock
from user_actor.loop.pacer import Pacer
from user_actor.loop.remote_plans import Answer, Planned, RemotePlans
from user_core.specs import Array
from user_core.types import Observation

#: A step waits for an answer until so many periods before the next one.
_MARGIN_PERIODS = 0.1


class InferencePort(Protocol):
    """A policy on another host; see :class:`~user_actor.loop.inference_link.InferenceLink`."""

    version: int

    def begin(self) -> None:
        """What was asked until now is over."""

    def ask(self, observation: Observation, step: int, *, deterministic: bool = False) -> None:
        """Have this observation answered; returns at once."""

    def take(self) -> Answer | None:
        """The newest answer that was not taken yet."""

    def wait(self, until_ns: int) -> Answer | None:
        """The same; waits for one until then, monotonic nanoseconds."""

    def why_silent(self) -> str:
        """Why the other host counts as away, for people; empty if it does not."""

    def probe(self, observation: Observation | None) -> None:
        """Between episodes: ask now and then, to hear whether anybody answers."""


#: Sends rows that begin then (nanoseconds since the epoch, 0: now); gives the chunk's number.
SendRows = Callable[[Array, int, int], int]


class RemotePolicy:
    """Asks about each observation, and has the answers played.

    Args:
        port: The other host.
        pacer: The grid of steps.
        clock: Tells the time.
        send: Sends ``(rows_ta, version, start_ns)`` to the robot.

    Attributes:
        waited_ns: How long the last step waited for an answer.
        plans: What is played.
    """

    def __init__(self, port: InferencePort, pacer: Pacer, clock: Clock, send: SendRows) -> None:
        self._port, self._pacer, self._clock, self._send = port, pacer, clock, send
        self.plans = RemotePlans()
        self.waited_ns = 0

    @property
    def version(self) -> int:
        """Policy version of the last answer."""
        return self._port.version

    def why_waiting(self, newest: Observation | None) -> str:
        """Why no episode can begin, for people; empty if one can. Asks meanwhile."""
        why = self._port.why_silent()
        if why:
            self._port.probe(newest)
        return why

    def why_lost(self) -> str:
        """Why an episode cannot go on, for people; empty if it can."""
        return self._port.why_silent()

    def begin(self) -> None:
        """A new episode."""
        self.plans.reset()
        self._port.begin()

    def propose(self, observation: Observation, *, deterministic: bool) -> Planned | None:
        """What the robot carries out in this step; None: nothing, for no answer came in time.

        It waits for an answer, up to the end of the step, only where nothing is planned for this.
        """
        step, end_ns = self._pacer.step, self._pacer.due_ns
        self._port.ask(observation, step, deterministic=deterministic)
        self._hand_over(self._port.take(), step)
        planned = self.plans.row(step)
        begin_ns = self._clock.monotonic_ns()
        until_ns = end_ns - int(_MARGIN_PERIODS * self._pacer.period_ns)
        while planned is None and (answer := self._port.wait(until_ns)) is not None:
            self._hand_over(answer, step)
            planned = self.plans.row(step)
        self.waited_ns = self._clock.monotonic_ns() - begin_ns
        return planned

    def overruled(self, observation: Observation) -> tuple[Array, int] | None:
        """Somebody else drives in this step: what the policy would do, and its version."""
        step = self._pacer.step
        self._port.ask(observation, step)
        self.plans.interrupt(step)
        self.waited_ns = 0
        answer = self._port.take()
        if answer is None or step - answer.step >= len(answer.rows_ta):
            return None
        return answer.rows_ta[step - answer.step], answer.version

    def _hand_over(self, answer: Answer | None, step: int) -> None:
        handover = None if answer is None else self.plans.handover(answer, step)
        if handover is None:
            return
        rows_ta, first_step, version = handover
        if first_step == step and len(rows_ta) == 1:
            start_ns = 0
        else:
            begins_ns = self._pacer.due_ns + (first_step - step - 1) * self._pacer.period_ns
            start_ns = self._clock.wall_ns() + begins_ns - self._clock.monotonic_ns()
        self.plans.sent(handover, self._send(rows_ta, version, start_ns), step)
