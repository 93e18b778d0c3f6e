"""The actor's robot, person and remote policy, each behind ROS topics and services."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from types import TracebackType
from typing import Any

from user_msgs.msg import SafetyStatus

from user_actor.loop.acting.chunks import GoingOn
from user_actor.loop.acting.remote import InferenceLink, RemoteConfig
from user_actor.loop.ports import NOBODY, HumanInput
from user_actor.nodes.lease import LeaseKeeper
from user_comm.converters import Intervention, observation_from_message, stamp_ns
from user_comm.diagnostics import Flow, FlowFigures, Item, Level
from user_comm.endpoints import TopicPublisher
from user_comm.services import PendingCall, ServiceClient
from user_comm.subscriptions import CheckedSubscription, TopicReader
from user_core.codecs.images import encode_observation, encode_plan
from user_core.errors import DeviceError, SpecError, TransportError
from user_core.reasons import (
    COMMANDS_UNHEARD,
    EMERGENCY_STOP,
    NO_LEASE,
    NO_OBSERVATIONS,
    NO_REASON,
    SAFETY_STOP,
    SPEC_DIFFERS,
    Reason,
)
from user_core.runtime.observation_box import ObservationBox
from user_core.specs import RobotSpec, check_arrays
from user_core.types import NO_TASK, ActionChunk, Label, Observation

#: A call of a service is looked at so often, also when nothing comes.
_LOOK_S = 0.02
_ANSWER_S = 0.1
_AWAY_S = 1.0
#: An engaged device that is silent for longer does not keep others from driving.
_DRIVER_S = 0.3
#: Devices whose labels are remembered.
_DEVICES = 16
_LABELS = (("abort", Label.ABORT), ("failure", Label.FAILURE), ("success", Label.SUCCESS))

#: A hal shows observations at its control rate, and at least every half second in lockstep.
_SILENCE_S = 2.0
#: A hal that says for this long, and this many of its control periods, that no command has come, while they are sent,
#: does not hear them.
_UNHEARD_S, _UNHEARD_PERIODS = 2.0, 4


class RosRobot:
    """RobotPort of one robot, for as long as its spec stays the same.

    Args:
        spec: What it shows and takes.
        observations: Where its observations arrive.
        actions: Publisher of ``action``.
        reset: Client of the reset service.
        lease: The lease, whose token goes with everything.
        reset_timeout_s: Longest reset, seconds.
    """

    def __init__(
        self,
        spec: RobotSpec,
        observations: ObservationBox,
        actions: TopicPublisher,
        reset: ServiceClient,
        lease: LeaseKeeper,
        reset_timeout_s: float,
    ) -> None:
        self._spec, self._actions, self._client, self._lease = spec, actions, reset, lease
        self._reset_timeout_s = reset_timeout_s
        self._first_ns = self._reset_ns = 0
        self._sent_ns = self._told_ns = 0  # the first command since the reset; the newest status
        self._refused, self._was_unheard = 0, False
        self._misfit = ""
        self._pending: Reset | None = None
        self._safety: Any = None
        self.observations = observations

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def on_observation(self, observation: Observation) -> None:
        """An observation came. What is older than the last reset is not of this episode."""
        if observation.stamp_ns < self._first_ns:
            return
        try:
            check_arrays(observation.arrays, self._spec.observation)
        except SpecError as error:
            self._misfit = str(error)
            return
        self._misfit = ""
        self.observations.put(observation)

    def on_safety(self, status: Any) -> None:
        """A ``SafetyStatus`` came."""
        self._safety, self._told_ns = status, time.monotonic_ns()

    def send(self, chunk: ActionChunk) -> None:
        if not self._actions.publish(replace(chunk, lease_token=self._lease.token)):
            raise TransportError("action", got="the node is not active")
        self._sent_ns = self._sent_ns or time.monotonic_ns()

    def reset(self, seed: int | None) -> Reset:
        self.close()
        self._sent_ns = 0
        if self._was_unheard:
            self._was_unheard = False
            self._actions.renew()
        request = self._client.request_type(
            seed=-1 if seed is None else seed, lease_token=self._lease.token
        )
        self._pending = Reset(
            self._client.begin(request, self._reset_timeout_s), self.observations, self._first
        )
        return self._pending

    def on_lease_lost(self) -> None:
        """A hal that was restarted, or obeys another, will not answer what it was asked."""
        if self._pending is not None:
            self._pending.settle(DeviceError("reset of the robot", got="a lease that was lost"))

    def close(self) -> None:
        """The answer to a reset is not wanted any more."""
        if self._pending is not None:
            self._pending.give_up()

    def trouble(self) -> Reason:
        status = self._safety
        if not self._lease.token:
            return self._lease.problem or Reason(NO_LEASE, "no lease of the robot")
        if self._misfit:
            return Reason(SPEC_DIFFERS, self._misfit)
        if status is None or status.state < SafetyStatus.STOPPED:
            return self._unheard(status)
        # a stop that is told of late may be the one before the reset
        if status.state == SafetyStatus.EMERGENCY:
            return Reason(EMERGENCY_STOP, f"emergency stop: {status.detail or status.cause}")
        if stamp_ns(status.header.stamp, "safety status") > self._reset_ns:
            return Reason(SAFETY_STOP, f"safety stop: {status.detail or status.cause}")
        return NO_REASON

    def _unheard(self, status: Any) -> Reason:
        """Observations come, and commands do not arrive: the other end does not know this one yet, or no more. The
        robot stands still meanwhile, and no watchdog trips, for there was no command that could be followed by none."""
        idle = status is not None and status.state == SafetyStatus.IDLE
        if not idle or not self._sent_ns or self._spec.lockstep or status.refused > self._refused:
            return NO_REASON
        limit_s = max(_UNHEARD_S, _UNHEARD_PERIODS * self._spec.period_s)
        if self._told_ns - self._sent_ns < limit_s * 1e9:
            return NO_REASON
        self._was_unheard = True
        return Reason(COMMANDS_UNHEARD, f"the robot has heard no command for {limit_s:g} s")

    def unready(self) -> Reason:
        status, box = self._safety, self.observations
        _ = box.newest  # what has arrived meanwhile
        if not self._lease.token:
            return self._lease.problem or Reason(NO_LEASE, "no lease of the robot")
        if status is not None and status.state == SafetyStatus.EMERGENCY:
            return Reason(EMERGENCY_STOP, f"emergency stop: {status.detail or status.cause}")
        if self._misfit:
            return Reason(SPEC_DIFFERS, self._misfit)
        silent_s = (time.monotonic_ns() - box.arrived_ns) * 1e-9
        if not box.arrived_ns or silent_s > _SILENCE_S:
            return Reason(NO_OBSERVATIONS, "the robot shows no observations")
        return NO_REASON

    def _first(self, answer: Any) -> Observation:
        """The first observation of an episode, from the answer to a reset."""
        if not answer.success:
            raise DeviceError(f"reset of the robot ({answer.error_code})", got=answer.message)
        first = observation_from_message(answer.observation, specs=self._spec.observation)
        self._reset_ns, self._first_ns = time.time_ns(), first.stamp_ns
        self._sent_ns = 0
        self._refused = 0 if self._safety is None else self._safety.refused
        newest = self.observations.newest
        if newest is None or newest.episode != first.episode:
            self.observations.put(first)
        return first


class Reset(Future[Observation]):
    """A reset that is under way.

    Who waits for its result takes the answer from the middleware himself, together with the
    observations that arrive meanwhile: no other thread has to be scheduled on the way.

    Args:
        call: The call of the service.
        observations: What arrives with the answer.
        understand: Makes an observation of the answer, or raises SuiteError.
    """

    def __init__(
        self,
        call: PendingCall,
        observations: ObservationBox,
        understand: Callable[[Any], Observation],
    ) -> None:
        super().__init__()
        self._call, self._observations, self._understand = call, observations, understand

    def result(self, timeout: float | None = None) -> Observation:
        """The first observation; raises what it failed by, or concurrent.futures.TimeoutError."""
        end_s = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not self.done():
            try:
                answer = self._call.look()
                if answer is not None:
                    self.settle(self._understand(answer))
            except Exception as error:  # also of what came: it is the caller's to judge
                self.settle(error)
            if not self.done():
                left_s = min(end_s - time.monotonic(), _LOOK_S)
                if left_s <= 0:
                    raise FutureTimeout
                self._observations.wait_once(time.monotonic_ns() + int(left_s * 1e9))
        return super().result()

    def settle(self, outcome: Observation | Exception) -> None:
        """Give it its outcome, unless it has one. Any thread."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                self.set_exception(outcome)
            else:
                self.set_result(outcome)

    def give_up(self) -> None:
        """The answer is not wanted any more."""
        self._call.give_up()
        self.settle(TransportError("reset of the robot", got="it was given up"))


# --- The person ---


class RosTeleop:
    """TeleopPort on ``intervention`` messages.

    Several devices may be there, a gamepad beside the robot and a browser. Whoever is engaged drives; of two
    that are, the one that was first, until he lets go or falls silent.

    A label counts once, when it first appears; a device may repeat it while a button is held.
    A lockstep robot stands still while somebody answers its observation, so a step waits for
    the answer, up to a tenth of a second, as long as the device answers at all.

    Args:
        lockstep: Whether the robot is one.
    """

    def __init__(self, lockstep: bool) -> None:
        self._lockstep = lockstep
        self._news = threading.Condition()
        self._last: Intervention | None = None
        self._arrived_ns = 0
        self._label = Label.NONE
        self._held: dict[str, Label] = {}

    def on_intervention(self, intervention: Intervention) -> None:
        """A message came."""
        command = intervention.command
        said = next((label for name, label in _LABELS if getattr(command, name)), Label.NONE)
        with self._news:
            if said not in (self._held.get(intervention.device, Label.NONE), Label.NONE):
                self._label = said
            if len(self._held) > _DEVICES:  # names that came and went
                self._held.clear()
            self._held[intervention.device] = said
            now_ns = time.monotonic_ns()
            if self._gives_way(intervention, now_ns):
                return
            self._last, self._arrived_ns = intervention, now_ns
            self._news.notify_all()

    def _gives_way(self, intervention: Intervention, now_ns: int) -> bool:
        """Whether a message is of another device than the one by which somebody drives now."""
        last = self._last
        return (
            last is not None
            and last.device != intervention.device
            and last.command.engaged
            and now_ns - self._arrived_ns < _DRIVER_S * 1e9
        )

    def read(self, observation: Observation) -> HumanInput:
        with self._news:
            if self._lockstep and self._is_there():
                self._news.wait_for(lambda: self._answers(observation), _ANSWER_S)
            label, self._label = self._label, Label.NONE
            last = self._last
            if last is None:
                return NOBODY
            waited_ns = time.monotonic_ns() - self._arrived_ns
        command = last.command
        age_ns = max(waited_ns, time.time_ns() - command.stamp_ns)
        if self._lockstep and self._answers(observation):
            age_ns = 0  # nothing has changed since
        return HumanInput(
            engaged=command.engaged,
            action=command.action if command.engaged else None,
            age_s=age_ns * 1e-9,
            scripted=last.scripted,
            label=label,
        )

    def _is_there(self) -> bool:
        if self._last is None or not self._last.observation_sequence:
            return False
        return time.monotonic_ns() - self._arrived_ns < _AWAY_S * 1e9

    def _answers(self, observation: Observation) -> bool:
        return self._last is not None and (self._last.observation_sequence == observation.sequence)


# --- The policy on another host ---


class RemoteInference:
    """An :class:`InferenceLink` on ``remote_observation`` and ``remote_action``; a context manager.

    Args:
        config: How.
        spec: The robot.
        observations: Publisher of ``remote_observation``.
        observation_history: How many observations the policy sees at once.

    Attributes:
        link: The link; whoever hears ``remote_action`` tells it.
        flow: What crosses the network, for diagnostics.
    """

    def __init__(
        self,
        config: RemoteConfig,
        spec: RobotSpec,
        observations: TopicPublisher,
        observation_history: int = 1,
    ) -> None:
        self._coding, self._observations = config.coding, observations
        self.link = InferenceLink(config, spec, self._send, observation_history=observation_history)
        self.flow = Flow("inference", self._figures)

    def __enter__(self) -> RemoteInference:
        self.link.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.link.close()

    def item(self) -> Item:
        """How it is doing, for /diagnostics."""
        link = self.link
        why = link.why_lost()
        return Item(
            "remote inference",
            Level.WARN if why else Level.OK,
            why.text,
            {
                "policy_version": link.version,
                "sent": link.sent,
                "answered": link.answered,
                "superseded": link.superseded,
                "lost": link.lost,
                "refused": link.refused,
                "unasked": link.unasked,
                "round_trip_p50_ms": round(link.round_trip_s(50) * 1e3, 1),
                "round_trip_p99_ms": round(link.round_trip_s(99) * 1e3, 1),
            },
        )

    def _send(
        self, observation: Observation, deterministic: bool, going_on: GoingOn | None = None
    ) -> int:
        if not self._observations.wanted:
            raise TransportError(
                f"topic {self._observations.topic}", got="no inference node or bridge listens"
            )
        arrays = encode_observation(
            observation.arrays, self._coding, deterministic=deterministic,
            history=self.link.observation_history,
        )  # fmt: skip
        if going_on is not None:
            arrays |= encode_plan(*going_on)
        # what the robot says about its task is judged here, not there
        coded = replace(observation, arrays=arrays, task=NO_TASK, applied=None)
        if not self._observations.publish(coded):
            raise TransportError(f"topic {self._observations.topic}", got="an inactive node")
        return sum(array.nbytes for array in arrays.values())

    def _figures(self) -> FlowFigures:
        link = self.link
        return FlowFigures(
            bytes=link.sent_bytes,
            round_trip_s=link.round_trip_s(50),
            again=link.lost,
            refused=link.refused + link.unasked,
            coding=self._coding,
            note=link.why_lost(),
        )


# --- Observations, taken from their topic by the thread that wants them ---


class WaitedObservations(ObservationBox):
    """An ObservationBox without a thread that fills it: who looks, takes what has arrived.

    So an observation is decoded when it is wanted, in the thread that wants it, and those that
    nobody looks at cost nothing. Only the control loop may look; any thread may :meth:`put`.

    Args:
        reader: Reads the topic, in the control loop's thread.
        subscription: The topic.

    Attributes:
        accept: What an observation that has arrived is given to, usually to be put here.
    """

    def __init__(self, reader: TopicReader, subscription: CheckedSubscription) -> None:
        super().__init__()
        self._reader = reader
        self.accept: Callable[[Observation], None] = self.put
        subscription.callback = lambda observation: self.accept(observation)

    @property
    def newest(self) -> Observation | None:
        self._reader.take()
        return self._newest

    def put(self, observation: Observation) -> None:
        super().put(observation)
        self._reader.wake()

    def interrupt(self) -> None:
        super().interrupt()
        self._reader.wake()

    def wait_once(self, deadline_ns: int) -> None:
        self._reader.wait(deadline_ns - self._clock.monotonic_ns())
        self._reader.take()

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
            self._reader.wait(left_ns)
