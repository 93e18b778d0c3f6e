"""The robot behind topics and services of a hal node."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import Any

from user_msgs.msg import SafetyStatus

from user_actor.loop.observations import ObservationBox
from user_actor.nodes.lease_keeper import LeaseKeeper
from user_comm.converters import observation_from_message, stamp_ns
from user_comm.publisher import TopicPublisher
from user_comm.service_client import ServiceClient
from user_core.errors import DeviceError, SpecError, TransportError
from user_core.specs import RobotSpec, check_arrays
from user_core.types import ActionChunk, Observation

#: A hal shows observations at its control rate, and at least every half second in lockstep.
_SILENCE_S = 2.0


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
        self._misfit = ""
        self._pending: Future[Observation] | None = None
        self._closed = threading.Event()
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
        self._safety = status

    def send(self, chunk: ActionChunk) -> None:
        if not self._actions.publish(replace(chunk, lease_token=self._lease.token)):
            raise TransportError("action", got="the node is not active")

    def reset(self, seed: int | None) -> Future[Observation]:
        future: Future[Observation] = Future()
        self._pending = future

        def call() -> None:
            try:
                first = self._reset(seed)
            except Exception as error:  # also of what came: it is the caller's to judge
                _settle(future, error)
            else:
                _settle(future, first)

        # a daemon, since nobody must have to wait for a robot that does not answer
        threading.Thread(target=call, name="reset", daemon=True).start()
        return future

    def on_lease_lost(self) -> None:
        """A hal that was restarted, or obeys another, will not answer what it was asked."""
        if self._pending is not None:
            _settle(self._pending, DeviceError("reset of the robot", got="a lease that was lost"))

    def close(self) -> None:
        """Nobody wants the answer to a reset any more."""
        self._closed.set()

    def trouble(self) -> str:
        status = self._safety
        if not self._lease.token:
            return f"no lease of the robot: {self._lease.problem}"
        if self._misfit:
            return self._misfit
        if status is None or status.state < SafetyStatus.STOPPED:
            return ""
        # a stop that is told of late may be the one before the reset
        latched = status.state == SafetyStatus.EMERGENCY
        if latched or stamp_ns(status.header.stamp, "safety status") > self._reset_ns:
            return f"{'emergency' if latched else 'safety'} stop: {status.detail or status.cause}"
        return ""

    def unready(self) -> str:
        status, box = self._safety, self.observations
        _ = box.newest  # what has arrived meanwhile
        if not self._lease.token:
            return f"no lease of the robot: {self._lease.problem}"
        if status is not None and status.state == SafetyStatus.EMERGENCY:
            return f"emergency stop: {status.detail or status.cause}"
        if self._misfit:
            return self._misfit
        silent_s = (time.monotonic_ns() - box.arrived_ns) * 1e-9
        if not box.arrived_ns or silent_s > _SILENCE_S:
            return "the robot shows no observations"
        return ""

    def _reset(self, seed: int | None) -> Observation:
        request = self._client.request_type(
            seed=-1 if seed is None else seed, lease_token=self._lease.token
        )
        answer = self._client.call(request, self._reset_timeout_s, self._closed)
        if not answer.success:
            raise DeviceError(f"reset of the robot ({answer.error_code})", got=answer.message)
        first = observation_from_message(answer.observation, specs=self._spec.observation)
        self._reset_ns, self._first_ns = time.time_ns(), first.stamp_ns
        newest = self.observations.newest
        if newest is None or newest.episode != first.episode:
            self.observations.put(first)
        return first


def _settle(future: Future[Observation], outcome: Observation | Exception) -> None:
    """Give a future its outcome, unless it has one."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
