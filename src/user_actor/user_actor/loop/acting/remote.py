"""A policy on another host: how observations get there, and which rows of its answers are played.

:class:`InferenceLink` sends observations and takes answers, :class:`RemotePlans` keeps account of
what the robot plays, and :class:`RemotePolicy` is what the episode loop asks for an action.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from user_actor.loop.acting.chunks import Delays, Ensemble, GoingOn, Plan
from user_actor.loop.acting.policy import check_plan
from user_actor.loop.config import ChunksConfig, RemoteConfig
from user_core.errors import PolicyError
from user_core.reasons import INFERENCE_REFUSED, INFERENCE_SILENT, NO_REASON, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.pacing import Pacer
from user_core.specs import Array, ArraySpec, RobotSpec
from user_core.types import ActionChunk, Observation

_log = logging.getLogger(__name__)
_LOOK_S = 0.1
_REMEMBERED = 512
_MOST_ASKED = 64
#: What the other host said is why it is silent for this long, seconds: it says it again once a second.
_TOLD_COUNTS_S = 5.0
#: A step waits for an answer until this many periods before the next one.
_MARGIN_PERIODS = 0.1
#: A plan that goes on is asked for again this many steps after twice the usual delay, where none is measured yet and
#: where nothing is lost.
_PATIENCE = 5
#: Elsewhere, one step after the longest delay of late, and one more for each ten steps of it.
_LATER = 10
#: Round trips that the next one is expected to be like; the longest counts.
_ROUND_TRIPS = 10


@dataclass(frozen=True)
class Answer:
    """What the policy elsewhere proposes.

    Attributes:
        rows_ta: Row i is for the i-th step after the observation that it answers, (T, A).
        step: The step in which that observation was asked about.
        version: Policy version; 0: the policy's first weights.
    """

    rows_ta: Array
    step: int
    version: int


class Handover(NamedTuple):
    """Rows for the robot: all of an answer that is not over yet.

    Attributes:
        rows_ta: The rows, (T, A).
        first_step: The step in which the first of them is carried out.
        version: Policy version.
        number: Counts the plans that came in an episode, from 1.
        skipped: Rows of the answer that were over.
    """

    rows_ta: Array
    first_step: int
    version: int
    number: int = 0
    skipped: int = 0


class Lateness(NamedTuple):
    """How well another host answers.

    Attributes:
        why: Why an answer is late; false if none is.
        heard_ns: When the last one came, monotonic nanoseconds; 0: none has come.
    """

    why: Reason
    heard_ns: int


class Planned(NamedTuple):
    """A row that the robot carries out in a step.

    Attributes:
        action: The row, (A,).
        row: Its place in the chunk in which it was sent.
        sequence: Number of that chunk.
        version: Policy version.
        number: Counts the plans that came in an episode, from 1.
        number_row: Its place in that plan, as it was answered.
    """

    action: Array
    row: int
    sequence: int
    version: int
    number: int = 0
    number_row: int = 0


@dataclass(frozen=True)
class _SentRows:
    handover: Handover
    sequence: int

    @property
    def last_step(self) -> int:
        return self.handover.first_step + len(self.handover.rows_ta) - 1


class RemotePlans:
    """Keeps account of what the robot plays. Pure; steps are those of the control loop's grid.

    An answer is late: the observation that it answers was seen some steps ago. So its first rows
    are over, and those that are left take over in the next step, while what is played goes on
    until then. Where nothing is played they begin in this step, and, if the robot has stood still
    since that observation, from the first row on, for then nothing has changed meanwhile. What was
    asked before somebody else began to drive is over.

    Attributes:
        stale: Answers that were over when they came.
        number: That of the newest plan in this episode; 0: none.
    """

    def __init__(self) -> None:
        self.stale = 0
        self.reset()

    def reset(self) -> None:
        """A new episode: nothing is played."""
        self._current: _SentRows | None = None
        self._next: _SentRows | None = None
        self._moved_until = self._driven_from = -1
        self._driven = False  # since something was played last
        self.number = 0

    def interrupt(self, step: int) -> None:
        """Somebody else drives in this step: what was planned is over."""
        self._current = self._next = None
        if not self._driven:
            self._driven, self._driven_from = True, step
        self._moved_until = step

    def row(self, step: int) -> Planned | None:
        """What is carried out in this step; None: nothing. Steps never go back."""
        if self._next is not None and step >= self._next.handover.first_step:
            self._current, self._next = self._next, None
        if self._current is None:
            return None
        (rows_ta, first_step, version, number, skipped) = self._current.handover
        sequence = self._current.sequence
        self._moved_until = max(self._moved_until, min(step, self._current.last_step))
        row = step - first_step
        if row >= len(rows_ta):
            return None
        return Planned(rows_ta[row], row, sequence, version, number, skipped + row)

    def rest(self, step: int) -> Array | None:
        """What is going to be carried out from this step on, (P, A); None: nothing."""
        if self.row(step) is None or self._current is None:
            return None
        rows_ta, first_step, *_ = self._current.handover
        if self._next is None:
            return rows_ta[step - first_step :]
        later = self._next.handover
        return np.concatenate(
            [rows_ta[step - first_step : later.first_step - first_step], later.rows_ta]
        )

    def handover(self, answer: Answer, step: int) -> Handover | None:
        """What to send of an answer that has come in this step; None: all of it is over."""
        first_step = step if self.row(step) is None else step + 1
        skipped = first_step - answer.step
        if first_step == step and self._moved_until < answer.step:
            skipped = 0
        if skipped >= len(answer.rows_ta) or answer.step < self._driven_from:
            self.stale += 1
            return None
        self.number += 1
        return Handover(answer.rows_ta[skipped:], first_step, answer.version, self.number, skipped)

    def sent(self, handover: Handover, sequence: int, step: int) -> None:
        """It was sent, under this number."""
        self._driven = False
        if handover.first_step > step:
            self._next = _SentRows(handover, sequence)
        else:
            self._current, self._next = _SentRows(handover, sequence), None


# --- The link to the other host ---


@dataclass(frozen=True)
class Request:
    """An observation to be answered.

    Attributes:
        observation: What was seen.
        deterministic: Whether to act without noise.
        step: The step in which it was asked about; negative: only to hear whether anybody answers.
        going_on: The plan that is carried out meanwhile, for the answer to go on from; None: any.
    """

    observation: Observation
    deterministic: bool
    step: int
    going_on: GoingOn | None = None


class InferenceLink:
    """Sends the newest observation whenever the link has room for one; takes the newest answer.

    A sender's thread waits for room, codes and sends: neither a link that is slow nor a large
    image holds the control loop up, and no queue of old observations can grow. An answer names
    its observation by the stamp; it stands for all earlier ones, which are not waited for any more.

    Args:
        config: How much may be under way, and for how long.
        spec: The robot.
        send: Codes and sends an observation, whether to act without noise and the plan to go on from
            (or None), and says how many bytes that were; called in the sender's thread; raises an
            error of our tree.
        clock: Tells the time.
        observation_history: How many observations the policy sees at once; as many are sent.

    Attributes:
        sent: Observations that were sent.
        sent_bytes: Their bytes.
        answered: Answers that were taken.
        superseded: Observations that a newer one took the place of before they could be sent.
        lost: Observations that were never answered.
        refused: Answers that cannot be played, and observations that cannot be sent.
        unasked: Answers to what was not asked, or to what is over.
        last_refusal: Why the last refusal was; empty once all is well again.
        version: Policy version of the last answer.
    """

    may_lose = True

    def __init__(
        self,
        config: RemoteConfig,
        spec: RobotSpec,
        send: Callable[[Observation, bool, GoingOn | None], int],
        clock: Clock | None = None,
        observation_history: int = 1,
    ) -> None:
        self.config, self._spec, self._send = config, spec, send
        self.observation_history = observation_history
        self._clock = clock or Clock()
        self._changed = threading.Condition()
        self._waiting: Request | None = None
        self._asked: dict[int, tuple[int, int]] = {}  # stamp to step, and when it was sent
        self._under_way: set[int] = set()  # stamps of those that may be answered soon
        self._newest: Answer | None = None
        self._heard_ns = self._probed_ns = 0
        self._waits_since_ns = 0  # since when what was asked is not answered; 0: all is
        self._ending = False
        self.sent = self.sent_bytes = self.answered = self.superseded = 0
        self.lost = self.refused = self.unasked = self.version = 0
        self.last_refusal = ""
        self._told, self._told_ns = "", 0
        self._round_trips_ns: deque[int] = deque(maxlen=_REMEMBERED)
        self._thread = threading.Thread(target=self._run, name="inference-link", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # --- for the control loop

    def begin(self) -> None:
        """What was asked until now is over."""
        with self._changed:
            self._waiting = self._newest = None
            self._waits_since_ns = 0
            self._asked.clear()
            self._under_way.clear()

    def ask(
        self, observation: Observation, step: int, *, deterministic: bool = False,
        going_on: GoingOn | None = None,
    ) -> None:  # fmt: skip
        """Have this observation answered, instead of one that was not sent yet."""
        with self._changed:
            self.superseded += self._waiting is not None
            self._waiting = Request(observation, deterministic, step, going_on)
            self._waits_since_ns = self._waits_since_ns or self._clock.monotonic_ns()
            self._changed.notify_all()

    def take(self) -> Answer | None:
        """The newest answer that was not taken yet."""
        with self._changed:
            answer, self._newest = self._newest, None
            return answer

    def wait(self, until_ns: int) -> Answer | None:
        """The same; waits for one until then, monotonic nanoseconds."""
        with self._changed:
            while self._newest is None and not self._ending:
                left_ns = until_ns - self._clock.monotonic_ns()
                if left_ns <= 0:
                    break
                self._clock.wait(self._changed, left_ns * 1e-9)
            answer, self._newest = self._newest, None
            return answer

    def why_silent(self) -> Reason:
        """Why the other host counts as away; false if it does not."""
        silent_s = (self._clock.monotonic_ns() - self._heard_ns) * 1e-9
        if self._heard_ns and silent_s <= self.config.silence_s:
            return NO_REASON
        return self._why_nothing_came()

    def why_lost(self) -> Reason:
        """Why an episode cannot go on; false if it can, also where nothing was asked for a while."""
        return self.lateness(self.config.silence_s).why if self._heard_ns else self.why_silent()

    def lateness(self, after_s: float) -> Lateness:
        """Whether something that was asked has waited for an answer for this long."""
        with self._changed:
            since_ns, heard_ns = self._waits_since_ns, self._heard_ns
        late = since_ns and self._clock.monotonic_ns() - since_ns > after_s * 1e9
        return Lateness(self._why_nothing_came() if late else NO_REASON, heard_ns)

    def _why_nothing_came(self) -> Reason:
        now_ns = self._clock.monotonic_ns()
        counts_s = max(_TOLD_COUNTS_S, 4 * self.config.probe_s)
        if self._told_ns > self._heard_ns and now_ns - self._told_ns <= counts_s * 1e9:
            return Reason(INFERENCE_REFUSED, self._told)
        if self.last_refusal:
            return Reason(INFERENCE_REFUSED, self.last_refusal)
        silent_s = (now_ns - self._heard_ns) * 1e-9
        since = f"for {silent_s:.2g} s" if self._heard_ns else "yet"
        return Reason(INFERENCE_SILENT, f"the inference host has not answered {since}")

    def probe(self, observation: Observation | None) -> None:
        """Between episodes: ask now and then, to hear whether anybody answers."""
        now_ns = self._clock.monotonic_ns()
        if observation is not None and now_ns - self._probed_ns >= self.config.probe_s * 1e9:
            self._probed_ns = now_ns
            self.ask(observation, -1)

    def round_trip_s(self, percent: float) -> float:
        """What this many of the last answers did not exceed, from the sending on; 0 without any."""
        with self._changed:
            recent_ns = list(self._round_trips_ns)
        return float(np.percentile(recent_ns, percent)) * 1e-9 if recent_ns else 0.0

    # --- what comes in

    def on_refusal(self, text: str) -> None:
        """The other host says why it does not answer: the reason if its silence lasts. From any thread."""
        with self._changed:
            if text != self._told or self._told_ns <= self._heard_ns:
                _log.warning("remote inference: %s", text)
            self._told, self._told_ns = text, self._clock.monotonic_ns()

    def on_answer(self, chunk: ActionChunk) -> None:
        """An answer came. From any thread."""
        with self._changed:
            asked = self._asked.get(chunk.start_ns)
            if asked is None:
                self.unasked += 1
                return
            step, sent_ns = asked
            for stamp_ns in [s for s in self._asked if s <= chunk.start_ns]:
                self._forget(stamp_ns)
            self._changed.notify_all()
            try:
                self._check(chunk)
            except PolicyError as error:
                self._refuse(error)
                return
            self.last_refusal = ""
            self._heard_ns = self._clock.monotonic_ns()
            more = self._waiting is not None or bool(self._under_way)
            self._waits_since_ns = self._heard_ns if more else 0
            self._round_trips_ns.append(self._heard_ns - sent_ns)
            self.answered += 1
            self.version = chunk.policy_version
            if step >= 0:
                most = max(1, int(self.config.max_chunk_s / self._spec.period_s))
                self._newest = Answer(chunk.actions_ta[:most], step, chunk.policy_version)

    def _check(self, chunk: ActionChunk) -> None:
        check_plan(chunk.actions_ta, self._spec)
        period_ns = int(self._spec.period_s * 1e9)
        if len(chunk.actions_ta) > 1 and abs(chunk.period_ns - period_ns) > period_ns // 100:
            raise PolicyError(
                "period of the policy's chunk",
                got=f"{chunk.period_ns} ns",
                expected=f"the robot's, {period_ns} ns",
            )

    def _refuse(self, error: Exception) -> None:
        self.refused += 1
        if str(error) != self.last_refusal:
            _log.warning("remote inference: %s", error)
        self.last_refusal = str(error)

    # --- the sender's thread

    def _run(self) -> None:
        while (request := self._next()) is not None:
            try:
                sent_bytes = self._send(
                    request.observation, request.deterministic, request.going_on
                )
            except Exception as error:  # without this thread nothing would be asked any more
                with self._changed:
                    self._forget(request.observation.stamp_ns)
                    self._refuse(error)
                    self._changed.wait(_LOOK_S)
            else:
                self.sent += 1
                self.sent_bytes += sent_bytes

    def _next(self) -> Request | None:
        """What to send next, once there is room for it; None at the end."""
        with self._changed:
            while not self._ending:
                now_ns = self._clock.monotonic_ns()
                self._forget_lost(now_ns)
                request = self._waiting
                if request is not None and len(self._under_way) < self.config.in_flight:
                    self._waiting = None
                    stamp_ns = request.observation.stamp_ns
                    self._asked[stamp_ns] = (request.step, now_ns)
                    self._under_way.add(stamp_ns)
                    if len(self._asked) > _MOST_ASKED:
                        self._forget(min(self._asked))
                    return request
                self._changed.wait(self._until_room_s(now_ns) if request else _LOOK_S)
        return None

    def _forget_lost(self, now_ns: int) -> None:
        limit_ns = now_ns - self._patience_ns()
        lost = {stamp_ns for stamp_ns in self._under_way if self._asked[stamp_ns][1] < limit_ns}
        self._under_way -= lost
        self.lost += len(lost)

    def _until_room_s(self, now_ns: int) -> float:
        """How long to wait for an answer before one more counts as lost, seconds."""
        first_ns = min(self._asked[stamp_ns][1] for stamp_ns in self._under_way)
        return min(_LOOK_S, max(1e-3, (first_ns + self._patience_ns() - now_ns) * 1e-9))

    def _patience_ns(self) -> int:
        """How long an answer is waited for before it counts as lost.

        Where something waits for room, that is a period longer than the longest round trip of late and a tenth of it,
        as :class:`RemotePolicy` has it for plans: with one under way a lost answer would hold up all that follow. A link
        that has become slower is known by its first late answer, so that few are sent that queue there.
        """
        most_ns = int(self.config.lost_after_s * 1e9)
        if self._waiting is None or not self._round_trips_ns:
            return most_ns
        usual_ns = max(list(self._round_trips_ns)[-_ROUND_TRIPS:])
        return min(most_ns, usual_ns + usual_ns // _LATER + int(self._spec.period_s * 1e9))

    def _forget(self, stamp_ns: int) -> None:
        self._asked.pop(stamp_ns, None)
        self._under_way.discard(stamp_ns)


# --- The remote policy, as the action source uses it ---


class InferencePort(Protocol):
    """A policy on another host; see :class:`~user_actor.loop.acting.remote.InferenceLink`."""

    version: int
    #: Whether what was asked may never be answered; else it is, or raises an error.
    may_lose: bool

    def begin(self) -> None:
        """What was asked until now is over."""

    def ask(
        self, observation: Observation, step: int, *, deterministic: bool = False,
        going_on: GoingOn | None = None,
    ) -> None:  # fmt: skip
        """Have this observation answered; returns at once."""

    def take(self) -> Answer | None:
        """The newest answer that was not taken yet."""

    def wait(self, until_ns: int) -> Answer | None:
        """The same; waits for one until then, monotonic nanoseconds."""

    def why_silent(self) -> Reason:
        """Why the other host counts as away; false if it does not."""

    def why_lost(self) -> Reason:
        """Why an episode cannot go on; false if it can."""

    def lateness(self, after_s: float) -> Lateness:
        """Whether something that was asked has waited for an answer for this long."""

    def probe(self, observation: Observation | None) -> None:
        """Between episodes: ask now and then, to hear whether anybody answers."""


#: Sends rows that begin then (nanoseconds since the epoch, 0: now); gives the chunk's number.
SendRows = Callable[[Array, int, int], int]


class RemotePolicy:
    """Asks about observations, and has the answers played.

    Args:
        port: The other host.
        pacer: The grid of steps.
        clock: Tells the time.
        send: Sends ``(rows_ta, version, start_ns)`` to the robot.
        chunks: How chunks are carried out.
        action: The robot's.
        replan_every: Steps from one observation that is asked about to the next, while what is planned reaches beyond
            the usual delay of an answer; 0: each is. While somebody else drives: once the one before is answered, and as
            long again has passed as that took; so each is by a quick policy, and none later than this.

    Attributes:
        waited_ns: How long the last step waited for an answer.
        plans: What is played.
        delays: How late answers take over.
    """

    def __init__(
        self, port: InferencePort, pacer: Pacer, clock: Clock, send: SendRows,
        chunks: ChunksConfig, action: ArraySpec, replan_every: int = 0,
    ) -> None:  # fmt: skip
        self._port, self._pacer, self._clock, self._send = port, pacer, clock, send
        self._replan_every, self._last_asked, self._answered_step = replan_every, -replan_every, -1
        self.plans, self.delays = RemotePlans(), Delays(chunks.delay_steps)
        self._goes_on = chunks.execution == "real_time"
        averaged = chunks.execution == "ensemble"
        self._ensemble = Ensemble(action, chunks.ensemble_decay) if averaged else None
        self._asked_step: int | None = None
        #: Of plans that go on, by the step in which they were asked for: the number of the plan that they go on from.
        self._asked_to_follow: dict[int, int] = {}
        #: While somebody else drives: the last step that was asked about, the first to ask about next, the newest answer.
        self._asked_beside = self._next_beside = -1
        self._wanted: Answer | None = None
        self.waited_ns = 0

    @property
    def version(self) -> int:
        """Policy version of the last answer."""
        return self._port.version

    def why_waiting(self, newest: Observation | None) -> Reason:
        """Why no episode can begin; false if one can. Asks meanwhile."""
        why = self._port.why_silent()
        if why:
            self._port.probe(newest)
        return why

    def why_lost(self) -> Reason:
        """Why an episode cannot go on; false if it can."""
        return self._port.why_lost()

    def lateness(self, after_s: float) -> Lateness:
        """Whether something that was asked has waited for an answer for this long."""
        return self._port.lateness(after_s)

    @property
    def is_planned(self) -> bool:
        """Whether there is something to carry out in this step."""
        return self.plans.row(self._pacer.step) is not None

    def begin(self) -> None:
        """A new episode."""
        self.plans.reset()
        self._forget_plans()
        self._let_go()
        self._port.begin()

    def propose(
        self, observation: Observation, *, deterministic: bool, waits: bool = True
    ) -> Planned | None:
        """What the robot carries out in this step; None: nothing, for no answer came in time.

        It waits for an answer, up to the end of the step, only where nothing is planned for this; with ``waits`` false
        not even then, for another policy drives. Where somebody has just let go of a policy that rested meanwhile and
        none comes, it is the last one that came while he drove, unless that is older than two usual ones.
        """
        step, end_ns = self._pacer.step, self._pacer.due_ns
        wanted = self._let_go()
        if self._goes_on:
            # In the step in which a plan comes the next one is asked for, which goes on from it.
            self._hand_over(self._port.take(), step)
            self._ask(observation, step, deterministic)
        else:
            self._ask(observation, step, deterministic)
            self._hand_over(self._port.take(), step)
        planned = self.plans.row(step)
        begin_ns = self._clock.monotonic_ns()
        until_ns = end_ns - int(_MARGIN_PERIODS * self._pacer.period_ns)
        while planned is None and waits and (answer := self._port.wait(until_ns)) is not None:
            self._hand_over(answer, step)
            planned = self.plans.row(step)
        if planned is None and waits and wanted is not None and self._replan_every:
            young = step - wanted.step <= 2 * self.delays.expected
            if young and step - wanted.step < len(wanted.rows_ta):
                self._hand_over(wanted, step, kept=True)
                planned = self.plans.row(step)
                if (
                    self._goes_on and planned is not None
                ):  # what was asked in this step does not go on from it
                    self._last_asked = -self._replan_every
        if planned is None and not waits:
            self.plans.interrupt(step)  # the robot moves on
        self.waited_ns = self._clock.monotonic_ns() - begin_ns
        return planned

    def overruled(
        self, observation: Observation, *, deterministic: bool
    ) -> tuple[Array, int] | None:
        """Somebody else drives in this step: what the policy would do, and its version; None: it has said nothing
        about this step. It goes on being asked, so that there is a plan once he lets go."""
        step = self._pacer.step
        self.plans.interrupt(step)
        self._forget_plans()
        self.waited_ns = 0
        answer = self._port.take()
        if answer is not None:
            self._wanted = answer
            if self._replan_every:
                self._answered_beside(answer, step)
        if step >= self._next_beside:
            self._port.ask(observation, step, deterministic=deterministic)
            self._asked_beside, self._next_beside = step, self._overdue(step)
        wanted = self._wanted
        if wanted is None or step - wanted.step >= len(wanted.rows_ta):
            return None
        return wanted.rows_ta[step - wanted.step], wanted.version

    def _answered_beside(self, answer: Answer, step: int) -> None:
        """A slow policy rests for as long as its answer took: asked about each step it leaves its GPU no time to learn,
        and all of its answers but the last are of no use."""
        took = step - answer.step
        self.delays.add(took + 1)  # as that of a plan that takes over while another is played
        if answer.step == self._asked_beside:
            self._next_beside = answer.step + min(2 * took - 1, max(took, self._replan_every))

    def _overdue(self, step: int) -> int:
        """When what is asked about in this step may be lost, and another is asked about."""
        if not self._replan_every:
            return step
        if not self._port.may_lose:
            return sys.maxsize
        return step + self._patience(self.delays.expected) + 1

    def _let_go(self) -> Answer | None:
        """Nobody else drives any more: the last answer that came while he did."""
        wanted, self._wanted = self._wanted, None
        self._asked_beside = self._next_beside = -1
        return wanted

    def _forget_plans(self) -> None:
        self._asked_step, self._last_asked = None, -self._replan_every
        self._asked_to_follow.clear()
        if self._ensemble is not None:
            self._ensemble.clear()

    def _ask(self, observation: Observation, step: int, deterministic: bool) -> None:
        """Have this observation answered. Plans that go on are asked for one after the other: the
        next one must know what the one before has made of the steps to come."""
        if self._is_early(step):
            return
        if not self._goes_on:
            self._last_asked = step
            self._port.ask(observation, step, deterministic=deterministic)
            return
        frozen, asked = self.delays.expected, self._asked_step
        if asked is not None and step - asked <= self._patience(frozen):
            return
        self._asked_step = self._last_asked = step
        rest = self.plans.rest(step)
        self._asked_to_follow[step] = self.plans.number
        going_on = None if rest is None else GoingOn(rest, min(frozen, len(rest)))
        self._port.ask(observation, step, deterministic=deterministic, going_on=going_on)

    def _is_early(self, step: int) -> bool:
        """Whether it is too early to plan anew: a large policy that is asked about each step leaves its GPU no time to
        learn. A plan that would end before an answer can come, or an answer that is overdue and may be lost, is not
        waited for."""
        if step - self._last_asked >= self._replan_every:
            return False
        usual = self.delays.expected + 1
        if self._last_asked > self._answered_step:
            return not self._port.may_lose or step - self._last_asked <= usual
        rest = self.plans.rest(step)
        return rest is not None and len(rest) > usual

    def _patience(self, usual: int) -> int:
        """How many steps a plan is waited for before it is asked for again.

        An answer that is later than all of late is probably lost, and each step that it is waited for is one fewer of
        the plan that is carried out. If it comes after all it is taken, and the other one is not: a computation for
        nothing.
        """
        if self._port.may_lose and self.delays.measured:
            return usual + usual // _LATER
        return 2 * usual + _PATIENCE

    def _follows(self, answer: Answer, step: int) -> bool:
        """Whether a plan goes on from what is carried out; any does while nothing is.

        While a person drives observations are asked about, and once he lets go one of these answers is played. Those that
        come after it know nothing of it, and neither does what was asked before it came.
        """
        asked = self._asked_to_follow
        followed = asked.get(answer.step)
        # It stands for all that was asked before it, also for what was lost.
        self._asked_to_follow = {at: number for at, number in asked.items() if at > answer.step}
        return self.plans.row(step) is None or followed == self.plans.number

    def _hand_over(self, answer: Answer | None, step: int, kept: bool = False) -> None:
        """Have an answer played that has come; ``kept``: one that came a while ago, so that its age is no delay."""
        if answer is None:
            return
        self._answered_step = answer.step
        follows = not self._goes_on or self._follows(answer, step)
        handover = self.plans.handover(answer, step) if follows else None
        if handover is not None or answer.step == self._asked_step:
            self._asked_step = None  # else one that was asked later is under way
        if handover is None:
            return
        if not kept:
            self.delays.add(handover.first_step - answer.step)
        if self._ensemble is not None:
            start = handover.first_step + len(handover.rows_ta) - len(answer.rows_ta)
            self._ensemble.add(Plan(answer.rows_ta, start, answer.version))
            self._ensemble.row(step)  # forgets plans that are over
            end = start + len(answer.rows_ta)
            handover = handover._replace(rows_ta=self._ensemble.rows(handover.first_step, end))
        rows_ta, first_step, version, *_ = handover
        if first_step == step and len(rows_ta) == 1:
            start_ns = 0
        else:
            begins_ns = self._pacer.due_ns + (first_step - step - 1) * self._pacer.period_ns
            start_ns = self._clock.wall_ns() + begins_ns - self._clock.monotonic_ns()
        self.plans.sent(handover, self._send(rows_ta, version, start_ns), step)
