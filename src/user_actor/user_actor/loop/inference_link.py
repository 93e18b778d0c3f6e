"""The way to a policy on another host, and back."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from user_actor.loop.clock import Clock, SystemClock
from user_actor.loop.policy_holder import check_plan
from user_actor.loop.remote_plans import Answer
from user_core.config import Config, setting
from user_core.errors import PolicyError, SuiteError
from user_core.specs import RobotSpec
from user_core.types import ActionChunk, Observation

_log = logging.getLogger(__name__)
_LOOK_S = 0.1
_REMEMBERED = 512
_MOST_ASKED = 64


@dataclass(frozen=True)
class RemoteConfig(Config):
    """A policy on another host."""

    enabled: bool = setting(
        False, doc="The policy acts on another host, in inference_node; its chunks are played here."
    )
    coding: str = setting(
        "zstd",
        doc="How pictures travel there: zstd (without loss), jpegQ or webpQ (quality Q); empty: as "
        "they are. What is recorded stays as it was taken.",
    )
    in_flight: int = setting(
        3,
        doc="Observations that may be under way. More than one uses a link with a long round trip; "
        "few keep them from queueing on a slow one.",
        ge=1,
        le=32,
    )
    lost_after_s: float = setting(
        1.0,
        doc="An observation that was not answered by then counts as lost: another may be under way "
        "instead. Should an answer come yet, it is taken.",
        unit="s",
        gt=0,
    )
    max_chunk_s: float = setting(
        2.0,
        doc="Rows of an answer beyond this are not played; no longer than the hal's "
        "safety.max_chunk_s, which refuses such chunks.",
        unit="s",
        gt=0,
    )
    silence_s: float = setting(
        2.0,
        doc="Without an answer for this long the other host counts as away, and no episode begins.",
        unit="s",
        gt=0,
    )
    probe_s: float = setting(
        0.5, doc="Time between two observations that it is asked about meanwhile.", unit="s", gt=0
    )


@dataclass(frozen=True)
class Request:
    """An observation to be answered.

    Attributes:
        observation: What was seen.
        deterministic: Whether to act without noise.
        step: The step in which it was asked about; negative: only to hear whether anybody answers.
    """

    observation: Observation
    deterministic: bool
    step: int


class InferenceLink:
    """Sends the newest observation whenever the link has room for one; takes the newest answer.

    A sender's thread waits for room, codes and sends: neither a link that is slow nor a large
    picture holds the control loop up, and no queue of old observations can grow. An answer names
    its observation by the stamp; it stands for all earlier ones, which nobody waits for any more.

    Args:
        config: How much may be under way, and for how long.
        spec: The robot.
        send: Codes and sends an observation, and says how many bytes that were; called in the
            sender's thread; raises an error of our tree.
        clock: Tells the time.

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

    def __init__(
        self,
        config: RemoteConfig,
        spec: RobotSpec,
        send: Callable[[Observation, bool], int],
        clock: Clock | None = None,
    ) -> None:
        self.config, self._spec, self._send = config, spec, send
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._waiting: Request | None = None
        self._asked: dict[int, tuple[int, int]] = {}  # stamp to step, and when it was sent
        self._under_way: set[int] = set()  # stamps of those that may be answered soon
        self._newest: Answer | None = None
        self._heard_ns = self._probed_ns = 0
        self._ending = False
        self.sent = self.sent_bytes = self.answered = self.superseded = 0
        self.lost = self.refused = self.unasked = self.version = 0
        self.last_refusal = ""
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
            self._asked.clear()
            self._under_way.clear()

    def ask(self, observation: Observation, step: int, *, deterministic: bool = False) -> None:
        """Have this observation answered, instead of one that was not sent yet."""
        with self._changed:
            self.superseded += self._waiting is not None
            self._waiting = Request(observation, deterministic, step)
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

    def why_silent(self) -> str:
        """Why the other host counts as away, for people; empty if it does not."""
        if not self._heard_ns:
            return self.last_refusal or "the inference host has not answered yet"
        silent_s = (self._clock.monotonic_ns() - self._heard_ns) * 1e-9
        if silent_s <= self.config.silence_s:
            return ""
        return self.last_refusal or f"the inference host has not answered for {silent_s:.0f} s"

    def probe(self, observation: Observation | None) -> None:
        """Between episodes: ask now and then, to hear whether anybody answers."""
        now_ns = self._clock.monotonic_ns()
        if observation is not None and now_ns - self._probed_ns >= self.config.probe_s * 1e9:
            self._probed_ns = now_ns
            self.ask(observation, -1)

    def round_trip_s(self, percent: float) -> float:
        """What so many of the last answers did not exceed, from the sending on; 0 without any."""
        with self._changed:
            recent_ns = list(self._round_trips_ns)
        return float(np.percentile(recent_ns, percent)) * 1e-9 if recent_ns else 0.0

    # --- what comes in

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

    def _refuse(self, error: SuiteError) -> None:
        self.refused += 1
        if str(error) != self.last_refusal:
            _log.warning("remote inference: %s", error)
        self.last_refusal = str(error)

    # --- the sender's thread

    def _run(self) -> None:
        while (request := self._next()) is not None:
            try:
                sent_bytes = self._send(request.observation, request.deterministic)
            except SuiteError as error:
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
                self._changed.wait(_LOOK_S)
        return None

    def _forget_lost(self, now_ns: int) -> None:
        limit_ns = now_ns - int(self.config.lost_after_s * 1e9)
        lost = {stamp_ns for stamp_ns in self._under_way if self._asked[stamp_ns][1] < limit_ns}
        self._under_way -= lost
        self.lost += len(lost)

    def _forget(self, stamp_ns: int) -> None:
        self._asked.pop(stamp_ns, None)
        self._under_way.discard(stamp_ns)
