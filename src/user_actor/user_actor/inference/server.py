"""Answers the observations of robots elsewhere, of each always the newest, and of several by one pass."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from user_actor.inference.admission import Admission
from user_actor.inference.config import BatchingConfig
from user_actor.inference.preparing import Preparing
from user_actor.loop.acting.chunks import GoingOn
from user_actor.loop.acting.policy import (
    PolicyHolder,
    ReadyPolicy,
    check_plan,
    planned,
    planned_together,
)
from user_core.codecs.images import decode_observation, decode_plan
from user_core.errors import PolicyError
from user_core.interfaces import Policy, Query, answers_in_batches
from user_core.reasons import Reason
from user_core.runtime.clock import Clock
from user_core.runtime.gpu_turns import LONGEST_S, Arrivals, GpuTurns
from user_core.runtime.histogram import LatencyHistogram
from user_core.specs import Array, RobotSpec
from user_core.types import ActionChunk, Observation, Task

_log = logging.getLogger(__name__)
_LOOK_S = 0.2
#: A robot counts as one that a batch may wait for while it was heard within this time, seconds.
_PRESENT_S = 0.5
_TRIES = 4
#: That answers are late while a policy is prepared is said for this long after the last one, seconds.
_SAID_S = 5.0
_ONE_BY_ONE = BatchingConfig(most=1)


@dataclass
class ServerCounts:
    """Counts of observations that arrived, and of what happened to them.

    Attributes:
        answered: Answers that were sent.
        superseded: A newer one came before their turn.
        refused: They could not be read, or the policy gave nothing usable.
        turned_away: There was no room for their robot.
        late: Answers that came after the budget.
        late_preparing: Those of them that were computed while a policy was prepared.
        last_error: Why the last one was not answered; empty once one was.
    """

    answered: int = 0
    superseded: int = 0
    refused: int = 0
    turned_away: int = 0
    late: int = 0
    late_preparing: int = 0
    last_error: str = ""


def _tells_nobody(text: str) -> None:
    """Nobody wants to know."""


@dataclass
class Client:
    """A robot that is answered.

    Attributes:
        name: Its name.
        spec: What it shows and takes.
        policies: What acts for it; robots that have one in common are answered together.
        send: Sends it an answer.
        tell: Tells it why it gets none; called for each of its observations that is not answered.
        task: What is to be done there.
        counts: What became of its observations.
        ages: From the arrival of an observation to its answer.
    """

    name: str
    spec: RobotSpec
    policies: PolicyHolder
    send: Callable[[ActionChunk], None]
    tell: Callable[[str], None] = _tells_nobody
    task: Task = field(default_factory=Task)
    counts: ServerCounts = field(default_factory=ServerCounts)
    ages: LatencyHistogram = field(default_factory=LatencyHistogram)
    _waiting: Observation | None = None
    _taken_ns: int = 0  # when that came which is being answered
    _waits_since_ns: int = 0
    _heard_ns: int = 0  # when the newest observation came
    _episode: int | None = None
    _reset: Policy | None = None  # what was reset for that episode


@dataclass(frozen=True)
class _Asked:
    """An observation, and what it asks of the policy."""

    client: Client
    observation: Observation
    query: Query


def _read(client: Client, observation: Observation, history: int) -> _Asked:
    """Decode what travelled; raises CodecError or SpecError."""
    spec, given = client.spec, observation.arrays
    arrays, deterministic = decode_observation(given, spec.observation, history)
    plan = decode_plan(given, spec.action)
    rest, frozen = (None, 0) if plan is None else plan
    return _Asked(client, observation, Query(arrays, deterministic, client.task, rest, frozen))


class InferenceServer:
    """Lets policies act on what robots elsewhere see; :meth:`run` in a thread of its own.

    While a policy thinks, observations come; of each robot the newest is next, the others are passed over. All that
    wait when the policy is free are answered by one pass, up to ``batching.most`` of them, the oldest first; before
    that the oldest waits a moment for those of other robots. An observation that cannot be read, and a row that is no
    usable action, concern nobody but their robot.

    An answer says which observation it is about by that one's stamp and sequence number: its row 0 is
    due when the observation was taken. A policy may remember if only one robot has it: it is reset when the robot was.

    Args:
        batching: How many at once, and how many robots.
        needs_version: Answer nothing before a version has come.
        clock: Tells the time.
        turns: On the GPU that a learner of this host uses too: it waits from when an observation came until
            the policy has answered.
        size: How many observations a batch of this many is filled up to.
        preparing: When policies are prepared beside those that act: what is slow then costs no robot its place.

    Attributes:
        clients: The robots, by name.
        admission: Who has a place.
        inference: How long a pass takes.
        batches: How many passes had this many observations, by that number.
    """

    def __init__(
        self,
        batching: BatchingConfig = _ONE_BY_ONE,
        *,
        needs_version: bool = False,
        clock: Clock | None = None,
        turns: GpuTurns | None = None,
        size: Callable[[int], int] = lambda count: count,
        preparing: Preparing | None = None,
    ) -> None:
        self._preparing, self._late_preparing_s = preparing or Preparing(), -math.inf
        self._batching, self._size = batching, size
        self._turns, self._arrivals, self._announced_s = turns, Arrivals(), 0.0
        self._needs_version, self._clock = needs_version, clock or Clock()
        self._changed = threading.Condition()
        self._ending = False
        self.clients: dict[str, Client] = {}
        self.admission = Admission(batching)
        self.inference = LatencyHistogram()
        self.batches: dict[int, int] = {}

    # --- for other threads

    def add(self, client: Client) -> None:
        """A robot is there, or is another than it was.

        Raises:
            PolicyError: The policy cannot answer this one besides another.
        """
        with self._changed:
            others = [c for n, c in self.clients.items() if n != client.name]
            shared = any(one.policies is client.policies for one in others)
            policy = client.policies.acting  # not current(): the thread that acts takes offers
            if shared and not answers_in_batches(policy):
                raise PolicyError(
                    f"policy {type(policy).__name__} for several robots", got="no act_batch",
                    expected="a policy that answers several robots, for instance flow, act or tanh_gaussian",
                    hint="Or start an inference_node for each robot",
                )  # fmt: skip
            self.clients[client.name] = client

    def remove(self, name: str) -> None:
        """A robot is not answered any more."""
        with self._changed:
            self.clients.pop(name, None)
            self.admission.leave(name)

    def stop(self) -> None:
        """End :meth:`run`, once the policy has returned."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def offer(self, name: str, observation: Observation) -> None:
        """An observation of a robot came, its arrays as they travel."""
        now_ns = self._clock.monotonic_ns()
        with self._changed:
            client = self.clients.get(name)
            if client is None:
                return
            why = self.admission.admit(name, now_ns * 1e-9, id(client.policies))
            if why:
                client.counts.turned_away += 1
                self._tell(client, why)
                return
            if self._turns is not None:  # training waits for no robot that is turned away
                self._turns.take(LONGEST_S)
                self._arrivals.came(time.monotonic())
            client.counts.superseded += client._waiting is not None
            if client._waiting is None:
                client._waits_since_ns = now_ns
            client._waiting, client._heard_ns = observation, now_ns
            self._changed.notify_all()

    @property
    def why_late(self) -> str:
        """Why answers come after the budget, where that is because a policy is prepared beside the one that acts; else
        empty."""
        since_s = self._clock.monotonic_ns() * 1e-9 - self._late_preparing_s
        if since_s > _SAID_S:
            return ""
        for_s = self._preparing.for_s
        when = f"for {for_s:.0f} s now" if for_s else f"until {since_s:.0f} s ago"
        return (
            f"answers come later than within batching.budget_s ({self._batching.budget_s * 1e3:.0f} ms) while a policy "
            f"version is prepared, {when}; no robot loses its place by that"
        )

    @property
    def prepared_in_s(self) -> float:
        """How long it took to get the last version ready, here or in another process on this GPU, seconds."""
        return self._preparing.took_s

    # --- the thread that acts

    def run(self) -> None:
        """Answer until :meth:`stop`."""
        while batch := self._next():
            try:
                self.answer(batch)
            finally:
                with self._changed:
                    if self._turns is not None and not self._anybody_waits():
                        self._turns.give_back()

    def measure(self) -> None:
        """Find out what batches take, before any robot waits for one; ends with :meth:`stop`.

        A policy that fails at this may do better with weights that come, and with what robots really see: it is
        measured while it answers.
        """
        with self._changed:
            clients = {id(c.policies): c for c in self.clients.values()}
        for client in clients.values():
            try:
                self._measure(client)
            except Exception as error:  # of the policy
                _log.warning(
                    "what batches take is not known before they come: %s", Reason.of(error).text
                )

    def _measure(self, client: Client) -> None:
        policies, spec, task = client.policies, client.spec, client.task
        ready = policies.current()
        together = answers_in_batches(ready.policy)
        goes_on = hasattr(ready.policy, "continue_plan")
        prepares = 2 if goes_on else 1  # the first of a kind has all to prepare
        rng = np.random.default_rng(0)
        most = self._batching.most if together else 1
        size = 0
        while size < most:
            size = min(most, max(1, 2 * size))
            history = ready.policy.observation_history
            seen = [spec.sample_observation(rng, history) for _ in range(size)]
            plans: Sequence[Array | None] = [None] * size
            for number in range(_TRIES):
                if self._ending:
                    return
                begin_ns, over = time.perf_counter_ns(), self._preparing.over()
                with policies.pass_in(ready.policy):
                    made = self._try(ready.policy, seen, plans, task)
                if number >= prepares:
                    took_s = (time.perf_counter_ns() - begin_ns) * 1e-9
                    period = self._preparing.since(over)  # of another process on this GPU
                    with self._changed:
                        now_s = self._clock.monotonic_ns() * 1e-9
                        self.admission.measured(size, took_s, now_s, period)
                if goes_on:  # most plans do, and they may take longer
                    plans = made
            if size > 1 and self.admission.takes_s(size) > self._batching.budget_s:
                break  # larger ones do not fit either

    @staticmethod
    def _try(
        policy: Policy, seen: Sequence[Any], plans: Sequence[Array | None], task: Task
    ) -> list[Array]:
        if len(seen) > 1:
            queries = [
                Query(one, task=task, plan=plan, frozen=min(1, 0 if plan is None else len(plan)))
                for one, plan in zip(seen, plans, strict=True)
            ]
            return list(planned_together(policy, queries))
        policy.reset(task)
        going_on = None if plans[0] is None else GoingOn(plans[0], 1)
        return [planned(policy, seen[0], going_on, False)]

    def answer(self, batch: Sequence[tuple[Client, Observation]]) -> None:
        """Answer observations of robots that have their policy in common; each gets an answer, or is told why not."""
        ready = batch[0][0].policies.current()
        if self._needs_version and not ready.number:
            for client, _ in batch:
                self._tell(client, "no policy version has come yet")
            return
        readable = []
        for client, observation in batch:
            try:
                readable.append(_read(client, observation, ready.policy.observation_history))
            except Exception as error:  # of what came
                self._refuse(client, Reason.of(error).text)
        if not readable:
            return
        begin_ns, over = self._clock.monotonic_ns(), self._preparing.over()
        with self._changed:  # a robot may come meanwhile
            sharing = [c for c in self.clients.values() if c.policies is batch[0][0].policies]
        alone = len(readable) == 1 and len(sharing) <= 1
        answers = [self._alone(ready, readable[0])] if alone else self._of_all(ready, readable)
        took_ns, period = self._clock.monotonic_ns() - begin_ns, self._preparing.since(over)
        self.inference.add(took_ns)
        size = len(readable)
        self.batches[size] = self.batches.get(size, 0) + 1
        failed = any(isinstance(found, BaseException) for found in answers)
        # The first of a size has all to prepare; and one robot's rubbish must cost no other one its place.
        if self.batches[size] > 1 and not failed:
            with self._changed:
                now_s = self._clock.monotonic_ns() * 1e-9
                self.admission.measured(size, took_ns * 1e-9, now_s, period)
        for asked, found in zip(readable, answers, strict=True):
            self._send(asked, found, ready.number, preparing=period > 0)
        with self._changed:
            lost = self.admission.shed(self._clock.monotonic_ns() * 1e-9)
        if lost:
            _log.warning("robot %s lost its place: batches take longer than they did", lost)

    def _alone(self, ready: ReadyPolicy, asked: _Asked) -> Array | BaseException:
        query, client = asked.query, asked.client
        try:
            # A version that came within an episode was tried out for the first robot's task.
            if asked.observation.episode != client._episode or ready.policy is not client._reset:
                ready.policy.reset(client.task)
                # last: a policy that refuses its task is asked again
                client._episode, client._reset = asked.observation.episode, ready.policy
            going_on = None if query.plan is None else GoingOn(query.plan, query.frozen)
            with client.policies.pass_in(ready.policy):
                return planned(ready.policy, query.observation, going_on, query.deterministic)
        except Exception as error:
            return error

    def _of_all(self, ready: ReadyPolicy, batch: Sequence[_Asked]) -> list[Array | BaseException]:
        """By one pass; where that fails one after the other, so that nobody loses by another's observation."""
        try:
            with batch[0].client.policies.pass_in(ready.policy):
                queries = [asked.query for asked in batch]
                filled = queries + queries[-1:] * (self._size(len(queries)) - len(queries))
                answers: list[Array | BaseException] = [*planned_together(ready.policy, filled)]
                return answers[: len(queries)]
        except PolicyError as error:
            if len(batch) == 1:
                return [error]
            return [self._of_all(ready, [asked])[0] for asked in batch]

    def _send(
        self, asked: _Asked, found: Array | BaseException, version: int, preparing: bool
    ) -> None:
        client, observation = asked.client, asked.observation
        try:
            if isinstance(found, BaseException):
                raise found
            check_plan(found, client.spec)
            client.send(
                ActionChunk(
                    found,
                    period_ns=int(client.spec.period_s * 1e9),
                    start_ns=observation.stamp_ns,
                    sequence=observation.sequence,
                    policy_version=version,
                )
            )
        except Exception as error:  # of the policy, or of the middleware
            self._refuse(client, Reason.of(error).text)
            return
        client.counts.answered += 1
        client.counts.last_error = ""
        now_ns = self._clock.monotonic_ns()
        client.ages.add(now_ns - client._taken_ns)
        if now_ns - client._taken_ns > 1e9 * self._batching.budget_s:
            client.counts.late += 1
            client.counts.late_preparing += preparing
            self._late_preparing_s = now_ns * 1e-9 if preparing else -math.inf

    # --- who is next

    def _next(self) -> list[tuple[Client, Observation]]:
        """Robots that have their policy in common, with what they saw; none at the end."""
        with self._changed:
            while not self._ending:
                waiting = [c for c in self.clients.values() if c._waiting is not None]
                if not waiting:
                    self._changed.wait(self._announce())
                    continue
                waiting.sort(key=lambda c: c._waits_since_ns)
                policies = waiting[0].policies
                batch = [c for c in waiting if c.policies is policies][: self._batching.most]
                now_ns = self._clock.monotonic_ns()
                left_s = self._may_wait_s(batch, now_ns)
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                if self._turns is not None:
                    self._turns.take(LONGEST_S)  # anew: they may have waited for another batch
                found = []
                for client in batch:
                    assert client._waiting is not None
                    found.append((client, client._waiting))
                    client._waiting, client._taken_ns = None, client._heard_ns
                return found
        return []

    def _may_wait_s(self, batch: Sequence[Client], now_ns: int) -> float:
        """How much longer others may be waited for, seconds; 0 where nobody else is there."""
        present = [
            c
            for c in self.clients.values()
            if c.policies is batch[0].policies and now_ns - c._heard_ns < _PRESENT_S * 1e9
        ]
        if len(batch) >= min(len(present), self._batching.most):
            return 0.0
        return self._batching.wait_s - (now_ns - batch[0]._waits_since_ns) * 1e-9

    def _anybody_waits(self) -> bool:
        return any(c._waiting is not None for c in list(self.clients.values()))

    def _announce(self) -> float:
        """Take the turn when the next observation is about to come; when to look again, seconds."""
        turns = self._turns
        due = None if turns is None else self._arrivals.next_s(turns.tail_s)
        if turns is None or due is None or due[1] == self._announced_s:
            return _LOOK_S
        now_s = time.monotonic()
        if now_s < due[0]:
            return min(_LOOK_S, due[0] - now_s)
        self._announced_s = due[1]
        if now_s < due[1]:
            turns.take(due[1] - now_s)
        return _LOOK_S

    # --- what went wrong

    def _refuse(self, client: Client, text: str) -> None:
        client.counts.refused += 1
        if text != client.counts.last_error:
            _log.error("an observation of %s was not answered: %s", client.name, text)
        self._tell(client, text)

    def _tell(self, client: Client, text: str) -> None:
        client.counts.last_error = text
        try:
            client.tell(text)
        except Exception as error:  # of the middleware
            _log.warning("%s could not be told why it is not answered: %s", client.name, error)
