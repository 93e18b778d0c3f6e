"""The robot: a contract brought to life."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from user_core.body.mobility import Mobility
from user_core.errors import ConfigError, DeviceError, DeviceFault, DeviceNotConnected, SuiteError
from user_core.interfaces import Discovered, Robot
from user_core.reasons import INCOMPATIBLE_QOS, NO_REASON, OTHER_COMMANDERS, Reason
from user_core.runtime.locks import DeviceLock
from user_core.specs import Array, RobotSpec
from user_core.types import AppliedAction, Observation
from user_hal.cameras.calibration import Calibrated, Calibration
from user_hal.cameras.with_cameras import FrameAligner, build_cameras, observation_name
from user_hal.robots.ros2.calls import Call, Performed, prepare
from user_hal.robots.ros2.commanding.drives import Drive
from user_hal.robots.ros2.commanding.senders import other_commanders, unheard_commands
from user_hal.robots.ros2.commanding.targets import within
from user_hal.robots.ros2.contract import Ros2Config, UrdfConfig, groups_of, robot_spec
from user_hal.robots.ros2.description import described, hear_urdf, read_urdf
from user_hal.robots.ros2.messages import JOINT_STATE, JOINT_TRAJECTORY, NUMBERS, TWIST
from user_hal.robots.ros2.reading.observations import Observer
from user_hal.robots.ros2.reading.plausibility import mobility_of_contract
from user_hal.robots.ros2.reading.topic_parts import TopicPart
from user_hal.robots.ros2.stop_conditions import FREE, StopConditions, StopDemand
from user_hal.topic_io import TopicIo, attach_topics, topics_read

_log = logging.getLogger(__name__)
#: Keys of the contract that hold calls, beside those of the ways home.
_CALLS = ("before", "after", "recover")
#: Time for undoing what does not answer, before a close that others wait for.
_UNDO_S = 3.0


class Ros2Robot(Robot):
    """Any robot that lives on ROS 2 topics. Needs :meth:`attach` before :meth:`connect`.

    Observations are taken at the common moment of all topics and stamped with it; images are
    the nearest to it. ``command`` sends one message for each group and returns the action as it
    is really carried out, within bounds and limits. The last element of an action (of a group's
    part) is the gripper's opening, 0 closed to 1 open, where the contract has a gripper.
    """

    Config = Ros2Config

    def __init__(self, config: Ros2Config) -> None:
        self._said = config  # without what a URDF adds
        self._notes: list[str] = []
        self._urdf = ""
        if config.urdf is not None and config.urdf.file:
            urdf = read_urdf(config.urdf.file)
            config, self._notes = described(config, urdf)
            self._urdf = urdf.text
        self._config = config
        self._observer = Observer(config)
        self._cameras = build_cameras(config.cameras)
        self._aligner = FrameAligner(self._cameras, config.cameras.max_skew_s)
        self._spec = robot_spec(config, {**self._observer.specs, **self._aligner.specs})
        self._drives = self._make_drives()
        sizes = [group.size for group in self._spec.action_groups] or [self._spec.action.size]
        ends = np.cumsum(sizes).tolist()
        self._bounds = (self._spec.action.low_array, self._spec.action.high_array)
        self._action_dtype = np.dtype(self._spec.action.dtype)
        self._parts = [slice(end - size, end) for end, size in zip(ends, sizes)]
        self._stop_conditions = StopConditions(config.stop_when)
        self._calls: dict[str, list[Call]] = {}
        self._performed: Performed | None = None
        self._ready = False  # connected, to the end
        self._has_stopped = False  # a stop condition has held since the last reset
        self._rng = np.random.default_rng()
        self._lock = threading.RLock()  # a command and a stop do not interleave
        self._stops = 0
        self._one_process = DeviceLock()
        self._io: TopicIo | None = None
        self._sequence = self._commands = self._episode = 0
        self._applied: AppliedAction | None = None

    @property
    def spec(self) -> RobotSpec:
        """What the contract says."""
        return self._spec

    @property
    def base_frame(self) -> str:
        """The contract's."""
        return self._config.base_frame

    @property
    def urdf(self) -> str:
        """The URDF that the contract names; empty where there is none, or it was not heard yet."""
        return self._urdf

    @property
    def mobility(self) -> Mobility:
        """What contract and URDF say of how the joints can move."""
        return mobility_of_contract(self._config)

    def calibrations(self) -> dict[str, Calibration]:
        """Of the images whose camera is calibrated, by the name of the observation."""
        found = {name: camera.calibration() for name, camera in self._cameras.items()
                 if isinstance(camera, Calibrated)}  # fmt: skip
        return {
            observation_name(name, self._cameras[name].spec): calibration
            for name, calibration in found.items()
            if calibration is not None
        }

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io
        for camera in self._cameras.values():
            attach_topics(camera, io)

    @property
    def topics_read(self) -> tuple[str, ...]:
        """The topics of the observation, of what stops the robot, and of cameras."""
        own = tuple(
            part.config.topic
            for source in self._observer.sources.values()
            for part in source.parts
            if not part.config.tf
        )
        own += tuple(self._observer.listeners)
        own += tuple(c.topic for c in self._config.stop_when if c.topic)
        return own + tuple(t for camera in self._cameras.values() for t in topics_read(camera))

    @property
    def topics_commanded(self) -> tuple[str, ...]:
        """The topics of commands, of all ways home, and of grippers."""
        groups = groups_of(self._config)
        own = [topic for group in groups for _, topic, _ in group.topics()]
        grippers = [g for group in groups for g in group.action.all_grippers.values()]
        return (*own, *(gripper.topic for gripper in grippers if gripper.topic))

    def connect(self) -> None:
        """Subscribe, wait until every topic is there, make the calls that come before motion, and
        wait for the controllers.

        Raises:
            ConfigError: The contract names a field that a type has not got.
            TransportError: A type is not installed.
            DeviceError: A topic, joint, controller or camera is not there, or readings do not fit
                in time; each names what is missing and lists what there is. A call was answered
                with no; says how.
            DeviceInUse: Another process on this host drives the robot; says which.
        """
        io = self._io
        if io is None:
            raise DeviceNotConnected(
                f"robot {self._config.robot!r}", got="no topics", hint="Call attach(io) first"
            )
        self.close()
        config = self._said
        timeout_s = config.timing.connect_timeout_s
        try:
            if config.urdf is not None and not config.urdf.file:
                self._take_description(io, config.urdf)
            self._calls = self._prepared(io)
            for drive in self._drives:
                drive.open(io)
            self._claim(io)
            self._stop_conditions.open(io)
            self._observer.open(io)
            self._aligner.connect()
            self._stop_conditions.wait(time.monotonic() + timeout_s, timeout_s)
            self._performed = Performed(io)
            for key in self._keys("before"):
                self._performed.perform(self._calls[key])
            for drive in self._drives:
                drive.wait_for_controllers(io, timeout_s)
            self._ready = True
            for warning in self.warnings():
                _log.warning("%s: %s", warning.code, warning.text)
            for note in self.notes():
                _log.info("%s", note)
        except BaseException:
            self.close()
            raise

    def warnings(self) -> list[Reason]:
        """What is suspicious about the topics, although they can be read."""
        names = {d.group.source("joint_position") for d in self._drives if d.group.joints}
        parts = {
            part.subscription.topic: part
            for name in names
            if name is not None
            for part in self._observer.sources[name].parts
            if isinstance(part, TopicPart) and part.subscription is not None
        }
        found = [
            suspicion
            for _, part in sorted(parts.items())
            if part.subscription and (suspicion := part.writers.suspicion(part.subscription))
        ]
        unheard, others = self._observer.misfits(), []
        if self._io is not None:
            commands = [c[1:] for drive in self._drives for c in drive.group.topics()]
            unheard += unheard_commands(self._io, commands)
            others = other_commanders(self._io, commands)
        found += [Reason(OTHER_COMMANDERS, text) for text in others]
        return found + [Reason(INCOMPATIBLE_QOS, text) for text in unheard]

    def notes(self) -> list[str]:
        """What is worth knowing about how the robot is read, although nothing is wrong."""
        of_cameras = [
            note for camera in self._cameras.values() for note in getattr(camera, "notes", list)()
        ]
        return [*self._notes, *self._observer.notes(), *of_cameras]

    def read(self) -> Observation:
        """The newest moment for which every topic has spoken.

        Raises:
            DeviceTimeout: A topic or camera is silent, or their stamps are too far apart; names it.
            DeviceFault: A message is not what the contract promises, or not finite.
        """
        self._connected()
        arrays, moment_ns = self._observer.read()
        arrays.update(self._aligner.at(moment_ns))
        self._sequence += 1
        return Observation(arrays, moment_ns, self._sequence, self._episode, applied=self._applied)

    def command(self, action: Array) -> Array:
        """Send one action; returns it as it is really carried out.

        Raises:
            SpecError: Wrong shape or type, or not finite.
            DeviceError: What a change starts from is not measured any more, or nothing can be sent.
        """
        self._connected()
        spec = self._spec.action
        spec.check(action, f"action of {self._config.robot!r}")
        low, high = self._bounds
        bounded = within(action, low, high).astype(np.float64)
        with self._lock:
            self._require_free()
            # Everything is known before anything is sent: no group moves on alone.
            measured = [drive.measure() for drive in self._drives]
            plans = []
            try:
                for drive, part, here in zip(self._drives, self._parts, measured):
                    plans.append(drive.plan(bounded[part], here))
            except BaseException:
                for drive, _ in zip(self._drives, plans):
                    drive.unplan()
                raise
            sent: Array = np.empty(action.shape, self._action_dtype)
            for drive, part, plan in zip(self._drives, self._parts, plans):
                own = drive.carry_out(plan)
                if drive.is_bounded_by_rounding:
                    own = own.astype(self._action_dtype)
                    own = within(own, low[part], high[part])
                sent[part] = own
            self._commands += 1
            changed = bool((np.abs(sent - action) > 1e-6).any())
            self._applied = AppliedAction(sent, self._commands, 0, changed, time.time_ns())
        return sent

    def trouble(self) -> Reason:
        """Why what was commanded is not what happens; false if nothing is known against it."""
        demand = self.stop_demand()
        if demand.reason:
            return demand.reason
        return next((trouble for drive in self._drives if (trouble := drive.trouble())), NO_REASON)

    def stop_demand(self) -> StopDemand:
        """Whether a topic says that the robot must stand still (``stop_when``), and whether only
        a person may let it move again. Any thread may ask."""
        if not self._ready:
            return FREE  # connecting waits for what must be heard first
        demand = self._stop_conditions.check()
        if demand.reason:
            self._has_stopped = True
        return demand

    def acknowledge_stop(self) -> None:
        """A latched demand has been seen to; it is made again if its condition still holds."""
        self._stop_conditions.acknowledge()

    def stop(self) -> None:
        """Hold where the robot is (or zero velocity); a way home ends. Any thread may call it.

        Raises:
            TransportError: The stop cannot be sent.
        """
        with self._lock:
            self._stops += 1
            self._hold()

    def reset(self, seed: int | None = None) -> Observation:
        """Stop, make the calls, go home, open the grippers; returns what is seen then. Groups go
        home one after the other, in the order of the contract.

        Args:
            seed: Of the noise on the home position.

        Raises:
            DeviceTimeout: Home is not reached, or a service does not answer, in time.
            DeviceFault: A service says no.
            DeviceError: The robot was stopped on the way.
        """
        self._connected()
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        with self._lock:
            stops = self._stops
            self._hold()
        try:
            for drive in self._drives:
                drive.take_over()
            self._begin(stops)
        except BaseException:
            self.stop()
            raise
        self._episode += 1
        self._applied = None
        return self._read_after(time.monotonic_ns())

    def close(self) -> None:
        """Stop as far as that is possible, and end all subscriptions and publishers."""
        with contextlib.suppress(SuiteError):  # ROS has shut down: nothing more can be sent
            self.stop()
        self._ready = False
        self._take_back()
        with self._lock:
            self._applied = None
            for drive in self._drives:
                drive.close()
        self._stop_conditions.close()
        self._observer.close()
        self._aligner.close()
        self._one_process.release()

    @classmethod
    def discover_on(cls, io: TopicIo) -> Sequence[Discovered]:
        """What looks like a robot: joint states, and controllers that could move it."""
        topics = io.topics()
        controllers = [
            topic
            for topic, types in sorted(topics.items())
            if (JOINT_TRAJECTORY in types or NUMBERS in types or TWIST in types)
        ]
        return [
            Discovered(topic, {}, f"joint states; commands could go to {controllers or 'nobody'}")
            for topic, types in sorted(topics.items())
            if JOINT_STATE in types
        ]

    @property
    def _is_open(self) -> bool:
        return self._drives[0].is_open

    def _connected(self) -> TopicIo:
        if self._io is None or not self._is_open:
            raise DeviceNotConnected(
                f"robot {self._config.robot!r}", got="no connection", hint="Call connect() first"
            )
        return self._io

    def _claim(self, io: TopicIo) -> None:
        """Keep other processes of this host from sending to the same topics. Raises DeviceInUse.

        Topics that do not leave this process need no lock.
        """
        where = getattr(io, "graph", "")
        names = [f"{where}, {topic}" for drive in self._drives for topic in drive.topics_written]
        self._one_process.acquire(names if where else (), f"robot {self._config.robot!r}")

    def _make_drives(self) -> tuple[Drive, ...]:
        config = self._config
        return tuple(Drive(group, self._observer, config.period_s) for group in groups_of(config))

    def _take_description(self, io: TopicIo, urdf: UrdfConfig) -> None:
        """Hear the robot's URDF, and start anew with what it says of the joints."""
        timeout_s = self._said.timing.connect_timeout_s
        heard = hear_urdf(io, urdf.topic, timeout_s)
        config, notes = described(self._said, heard)
        observer = Observer(config)
        if robot_spec(config, {**observer.specs, **self._aligner.specs}) != self._spec:
            raise ConfigError(
                "prismatic",
                got=list(self._said.prismatic),
                expected=f"{list(config.prismatic)}, as the robot description says",
                hint="The spec must be right before the robot is heard: write it in the contract, "
                "or give urdf.file",
            )
        with self._lock:
            self._config, self._notes, self._observer = config, notes, observer
            self._drives, self._urdf = self._make_drives(), heard.text

    def _prepared(self, io: TopicIo) -> dict[str, list[Call]]:
        """All calls, checked against their types, by their keys."""
        config = self._config
        calls = {key: prepare(io, getattr(config, key), key) for key in _CALLS}
        for name, group in config.groups.items():
            for key in _CALLS:
                path = f"groups.{name}.{key}"
                calls[path] = prepare(io, getattr(group, key), path)
        homes = {"": config.home, **{d.group.where: d.group.home for d in self._drives}}
        for where, home in homes.items():
            for key in ("before", "after"):
                path = f"{where}home.{key}"
                calls[path] = prepare(io, getattr(home, key), path)
        return calls

    def _keys(self, key: str) -> list[str]:
        """Paths of the calls of the whole robot, and of its groups."""
        return [key, *(f"groups.{name}.{key}" for name in self._config.groups)]

    def _require_free(self) -> None:
        """Raise DeviceFault while a topic says that the robot must stand still."""
        demand = self.stop_demand()
        if demand.reason:
            raise DeviceFault(
                f"motion of {self._config.robot!r}",
                got=demand.reason.text,
                expected="no stop_when that holds",
                hint="Only a person may release it" if demand.latched else "",
            )

    def _hold(self) -> None:
        """Stop all groups, also when one cannot be stopped. The lock is held."""
        failed: SuiteError | None = None
        for drive in self._drives:
            try:
                drive.hold()
            except SuiteError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _take_back(self) -> None:
        """Undo what was called before motion, and make the calls that come after it."""
        performed, self._performed = self._performed, None
        if performed is None:
            return
        steps = [partial(performed.undo, _UNDO_S)]
        for key in reversed(self._keys("after")):
            steps.append(partial(performed.perform, self._calls[key]))
        for step in steps:
            try:
                step()
            except SuiteError as error:  # ROS may have shut down; the rest is closed all the same
                _log.warning("robot %r is closed, but: %s", self._config.robot, error)

    def _begin(self, stops: int) -> None:
        """Recover, call, go home. Ends with an error as soon as the count of stops is another."""
        io = self._connected()
        stopped = bool(self.stop_demand().reason) or self._has_stopped
        troubled = [d for d in self._drives if stopped or d.trouble()]
        if troubled:
            keys = ["recover", *(f"{d.group.where}recover" for d in troubled if d.group.where)]
            for key in keys:
                Performed(io).perform(self._calls[key])
            if any(self._calls[key] for key in keys):
                self._await_freedom()
        self._require_free()
        self._has_stopped = False
        performed = Performed(io)
        try:
            self._call_before(performed, "home.before", self._drives)
            for drive in self._drives:
                self._go_home(drive, stops)
            performed.perform(self._calls["home.after"])
        finally:
            performed.undo()

    def _go_home(self, drive: Drive, stops: int) -> None:
        def guarded(send: Callable[[], None]) -> None:
            with self._lock:
                if self._stops != stops:
                    raise DeviceError("way home", got="the robot was stopped")
                self._require_free()
                send()

        where, performed = drive.group.where, Performed(self._connected())
        try:
            if where:  # without groups these are the robot's own
                self._call_before(performed, f"{where}home.before", (drive,))
            drive.open_gripper()
            drive.go_home(self._rng, guarded)
            if where:
                performed.perform(self._calls[f"{where}home.after"])
        finally:
            performed.undo()

    def _await_freedom(self) -> None:
        """Wait until what stopped the robot has ended, after it was cleared."""
        deadline_s = time.monotonic() + self._config.timing.connect_timeout_s
        while time.monotonic() < deadline_s:
            if not self.stop_demand().reason:
                return
            time.sleep(0.01)

    def _call_before(self, performed: Performed, key: str, drives: Sequence[Drive]) -> None:
        """Make the calls before a way home. They may move the robot (a simulation that begins
        anew): where it is afterwards is believed, as soon as it stands there."""
        calls = self._calls[key]
        performed.perform(calls)
        if calls:
            self._await_news(time.monotonic_ns())
            for drive in drives:
                drive.take_over()

    def _read_after(self, arrival_ns: int) -> Observation:
        """An observation all of whose sources have spoken since a moment (monotonic)."""
        self._await_news(arrival_ns)
        return self.read()

    def _await_news(self, arrival_ns: int) -> None:
        """Wait until all sources have spoken since a moment (monotonic), or should have."""
        deadline_s = time.monotonic() + self._config.timing.connect_timeout_s
        while time.monotonic() < deadline_s:
            if all(s.heard_since(arrival_ns) for s in self._observer.sources.values()):
                break
            time.sleep(0.002)
