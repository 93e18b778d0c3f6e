"""A robot's HAL within one process: driver, safety gate, lease and emergency stop, without ROS.

It runs the same control loop, gate, driver guard and chunk player as ``hal_node``, and offers the
robot port that the actor's episode loop drives (``user_actor.loop.ports.RobotPort``)::

    with LocalHal.of(load_robot_file("my_robot.yaml")) as hal:
        EpisodeLoop(hal, policy, reward, sink).run(seed=3)
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from user_core.body.embodiment import EmbodimentConfig, OwnSpace, space_of
from user_core.body.mobility import Mobility, mobility_of
from user_core.errors import DeviceTimeout, LeaseError, SafetyError, SuiteError
from user_core.interfaces import Robot
from user_core.reasons import (
    BUSY,
    EMERGENCY_STOP,
    NO_LEASE,
    NO_REASON,
    SAFETY_STOP,
    SEQUENCE,
    STOPPED,
    Reason,
)
from user_core.runtime.observation_box import ObservationBox
from user_core.specs import RobotSpec
from user_core.types import ActionChunk, Observation
from user_hal.robot_file import RobotFile, build_robot
from user_hal.runtime.control_loop import HalLoop, HalStatus, LoopConfig
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import Refused, SafetyConfig
from user_hal.safety.emergency_stop import LatchFile
from user_hal.safety.stops import SafetyState

#: Refusals that :meth:`LocalHal.trouble` explains, or that only say: I have that one already.
_EXPLAINED = (STOPPED, EMERGENCY_STOP, BUSY, SEQUENCE)
_LOOK_S = 0.01
#: A first reading may come so late after the robot was connected, seconds.
_LATE_S = 5.0


class LocalHal:
    """Runs one robot behind the safety gate, for a loop in the same process.

    A robot in real time is run by a thread, exactly as in ``hal_node``. A robot in lockstep is
    run by :meth:`send` and :meth:`reset` themselves, in the caller's thread, as fast as it goes:
    the observation that answers a chunk is in the box when :meth:`send` returns. Send such a
    robot one row at a time.

    The lease is held by this object from :meth:`open` on. It is prolonged by every chunk, and
    taken again where it ran out while nobody drove.

    Args:
        robot: The driver, not connected; its topics, if it needs any, are attached.
        safety: What may reach it, and what stops it.
        loop: How it is run.
        lease: How long a lease lasts.
        resource: Its name as a resource.
        holder: Who holds the lease.
        latch_dir: Folder of the latch file of the emergency stop, see
            :func:`~user_hal.safety.emergency_stop.state_folder`; None: it is latched in this
            process only.
        box: Where observations arrive; None: a new one.
        embodiment: In which space it is shown and driven.

    Attributes:
        observations: Where observations arrive, each with the action in effect (``applied``).

    Raises:
        ConfigError: The safety configuration does not fit the robot.
    """

    def __init__(
        self,
        robot: Robot,
        safety: SafetyConfig | None = None,
        *,
        loop: LoopConfig | None = None,
        lease: LeaseConfig | None = None,
        resource: str = "robot",
        holder: str = "local",
        latch_dir: Path | None = None,
        box: ObservationBox | None = None,
        embodiment: EmbodimentConfig | None = None,
    ) -> None:
        self.observations = ObservationBox() if box is None else box
        safety = safety or SafetyConfig()
        space = self._space = space_of(
            embodiment or EmbodimentConfig(), robot.spec, safety.action_scale
        )
        self._lease_config = (lease or LeaseConfig()).replace(required=True)
        self._loop = HalLoop(
            robot,
            loop or LoopConfig(),
            safety,
            self._lease_config,
            resource=resource,
            on_observation=lambda seen: self.observations.put(space.shown(seen)),
            latch=None if latch_dir is None else LatchFile(latch_dir),
            space=space,
        )
        self._robot = robot
        self._spec, self._holder, self._token = space.spec, holder, 0
        self._steps_itself = robot.spec.lockstep
        self._supervisor = self._loop.path.supervisor

    @classmethod
    def of(
        cls,
        file: RobotFile,
        robot: Robot | None = None,
        *,
        resource: str = "robot",
        holder: str = "local",
        latch_dir: Path | None = None,
    ) -> LocalHal:
        """Make one from a robot's file; ``robot`` where its driver has been made already.

        Raises:
            PluginError: There is no such driver.
            ConfigError: The file and its driver do not fit each other.
        """
        return cls(
            build_robot(file) if robot is None else robot,
            file.safety,
            loop=file.loop,
            lease=file.lease,
            resource=resource,
            holder=holder,
            latch_dir=latch_dir,
            embodiment=file.embodiment,
        )

    @property
    def spec(self) -> RobotSpec:
        """What the robot shows and takes."""
        return self._spec

    @property
    def mobility(self) -> Mobility:
        """What the robot's driver knows of how it can move."""
        return mobility_of(self._robot)

    def open(self) -> None:
        """Connect to the robot, take the lease, and begin to show observations.

        Raises:
            SuiteError: What the driver raised: it cannot be reached, or does not read.
        """
        self._loop.start(own_thread=not self._steps_itself)
        try:
            self._token = self._loop.leases.acquire(
                self._holder, self._lease_config.max_duration_s
            ).token
            self._await_first_reading()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the robot, give the lease back and disconnect. Idempotent."""
        self._loop.close()

    def __enter__(self) -> LocalHal:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, chunk: ActionChunk) -> None:
        """Have actions judged by the gate and carried out.

        A command that the gate refuses stops the robot, and :meth:`trouble` says why. A chunk
        whose sequence number was seen before is not carried out again.

        Raises:
            SafetyError: The chunk does not fit the robot, or comes at a wrong time.
            LeaseError: Somebody else has taken the lease over.
        """
        try:
            self._submit(chunk)
        except Refused as refusal:
            if refusal.code not in _EXPLAINED:
                raise SafetyError(f"chunk {chunk.sequence}, {refusal.code}", got=refusal.detail) from refusal  # fmt: skip
            return
        if self._steps_itself:
            self._loop.do_what_is_due()
            while (due_ns := self._loop.path.player.due_ns) is not None:
                time.sleep(max(0.0, (due_ns - time.monotonic_ns()) * 1e-9))
                self._loop.do_what_is_due()

    def reset(self, seed: int | None) -> Future[Observation]:
        """Bring the robot to the start of an episode; the future gives the first observation.

        The future raises SuiteError when the robot cannot, for instance SafetyError while the
        emergency stop is latched.
        """
        try:
            self._renew_lease()
            done = self._loop.reset(seed, self._token)
        except SuiteError as error:
            done = Future()
            done.set_exception(error)
        while self._steps_itself and not done.done():
            self._loop.wait_for_stop()
            self._loop.do_what_is_due()
        return done if isinstance(self._space, OwnSpace) else self._in_space(done)

    def _in_space(self, done: Future[Observation]) -> Future[Observation]:
        """The same future, of an observation in the common space."""
        shown: Future[Observation] = Future()

        def finish(of_driver: Future[Observation]) -> None:
            if (error := of_driver.exception()) is not None:
                shown.set_exception(error)
            else:
                shown.set_result(self._space.shown(of_driver.result()))

        done.add_done_callback(finish)
        return shown

    def trouble(self) -> Reason:
        """Why the robot must not be driven on within an episode; false if it may."""
        supervisor = self._supervisor
        if supervisor.state < SafetyState.STOPPED:
            if self._token == self._loop.leases.newest_token:
                return NO_REASON
            return Reason(NO_LEASE, "the lease of the robot was taken over")
        cause = supervisor.cause
        if supervisor.state is SafetyState.EMERGENCY:
            return Reason(EMERGENCY_STOP, cause.text)
        return Reason(SAFETY_STOP, f"safety stop: {cause.code}: {cause.text}")

    @property
    def lost(self) -> Reason:
        """Why the robot can be driven no more by this object; false while it can."""
        return self._loop.lost

    def unready(self) -> Reason:
        """Why no episode can begin now; false if one can. Tries to bring a driver back."""
        if self._steps_itself and self._loop.fault:
            self._loop.do_what_is_due()
        if self._loop.path.emergency_pressed:
            return Reason(EMERGENCY_STOP, self._supervisor.cause.text)
        try:
            self._renew_lease()
        except LeaseError as error:
            return Reason(NO_LEASE, str(error))
        return self._loop.fault

    def press_emergency(self, who: str) -> None:
        """Stop the robot, latched until :meth:`reset_emergency`. Any thread.

        Raises:
            SafetyError: The latch file cannot be written; the robot is stopped all the same.
        """
        self._loop.press_emergency(who)

    def reset_emergency(self) -> None:
        """Release the emergency stop. Any thread.

        Raises:
            SafetyError: The latch file cannot be removed; it stays pressed then.
        """
        self._loop.reset_emergency()

    def status(self) -> HalStatus:
        """State, and how many commands passed, were changed and were refused, and why."""
        return self._loop.status()

    def _submit(self, chunk: ActionChunk) -> None:
        try:
            self._loop.submit(chunk, self._token)
        except Refused as refusal:
            if refusal.code != LeaseError.code:
                raise
            self._renew_lease()  # it ran out: nobody drove for a while
            self._loop.submit(chunk, self._token)

    def _renew_lease(self) -> None:
        """Prolong the lease, or take it again where it ran out. Raises LeaseError."""
        leases = self._loop.leases
        held, _ = leases.current
        if held is not None and held.token == self._token:
            leases.renew(self._token)
        else:
            self._token = leases.acquire(self._holder, self._lease_config.max_duration_s).token

    def _await_first_reading(self) -> None:
        """Wait until the robot was read. Raises what the driver raised, if it could not be: a reading that comes late
        on a busy machine may come yet, as whenever it is driven later."""
        limits = self._loop.config.driver
        deadline_s = time.monotonic() + limits.connect_s
        late_s = 0.0  # until when a reading may be late; 0 before the robot is connected
        while self.observations.newest is None:
            if self._steps_itself:
                self._loop.do_what_is_due()
            if self._loop.connected:
                late_s = late_s or time.monotonic() + _LATE_S
            failure = self._loop.failure
            is_late = isinstance(failure, DeviceTimeout) and self._loop.connected
            if failure is not None and not (is_late and time.monotonic() < late_s):
                raise failure
            if time.monotonic() > deadline_s:
                raise DeviceTimeout(
                    f"robot {self._spec.robot!r}",
                    got="no first reading",
                    expected=f"one within {limits.connect_s:g} s",
                )
            if not self._steps_itself or failure is not None:
                time.sleep(_LOOK_S)
