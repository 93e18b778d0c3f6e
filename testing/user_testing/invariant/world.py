"""A robot on topics behind the HAL's loop, in virtual time, with faults on demand.

Everything but time and robot is the product: driver ``ros2``, driver guard, gate, command path,
leases, control loop, and ``LocalHal`` where that is asked for. The stand-in of the robot goes where
it is told at a limited speed, publishes what it measures, and hands everything that arrives to
:class:`~user_testing.invariant.checks.Invariant`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from user_core.config import from_mapping
from user_core.errors import DeviceFault, DeviceNotConnected, SuiteError
from user_core.reasons import NO_REASON, STOP_FAILED, Reason
from user_core.specs import Array
from user_core.types import ActionChunk, Observation
from user_hal.fakes import LocalTopics
from user_hal.local import LocalHal
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.runtime.control_loop import HalLoop, LoopConfig
from user_hal.runtime.driver_guard import Stopper
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import Refused, SafetyConfig
from user_testing.invariant.checks import Violation, Work
from user_testing.invariant.robots import PERIOD_S, WATCHDOG_S, CampaignRobot
from user_testing.invariant.stand_in import ReadingFault, StandIn
from user_testing.virtual_time import VirtualTime

PUBLISH_S, LOOK_S = 0.05, 0.02
#: A robot is not commanded when it has been silent for the longest age of a reading, and a call
#: that takes too long.
_SILENT_S = 0.5 + 0.4
#: A velocity may go on for the watchdog's time, one look of the sentinel, a call that takes too
#: long and stops that fail a few times.
_VELOCITY_S = WATCHDOG_S + LOOK_S + 0.6
_LOOP = {"rate_hz": 20.0, "driver": {"backoff": {"longest_s": 0.2}}}
_PRESSED, _LEASED = "the emergency stop is pressed", "somebody else holds the lease"
#: Whose modules live in the world's time.
PACKAGES = ("user_hal", "user_core.runtime")


class StepStopper(Stopper):
    """Stops at once, or when it is pumped, as a thread of its own would a little later."""

    delayed = False

    def start(self) -> None:
        self._closed = False

    def request(self) -> None:
        self._asked += 1
        if not self.delayed:
            self.pump()

    def pump(self) -> None:
        """Do what was asked for."""
        if not self.pending:
            return
        asked = self._asked
        try:
            self._stop()
        except Violation:
            raise
        except Exception as error:
            self._failure = Reason(STOP_FAILED, str(error))
        else:
            self._done, self._failure = min(asked, self._asked), NO_REASON

    def wait(self, timeout_s: float = 0.0) -> bool:
        for _ in range(5):
            self.pump()
        return not self.pending


class WatchedRobot(Ros2Robot):
    """The driver, with faults at its calls, that says which of them is running."""

    def __init__(self, config: Ros2Config, world: World) -> None:
        super().__init__(config)
        self._world = world

    def connect(self) -> None:
        with self._world.at_work("connect"):
            super().connect()

    def read(self) -> Observation:
        self._world.fail("read")
        return super().read()

    def command(self, action: Array) -> Array:
        with self._world.at_work("command"):
            executed: Array | None = None
            try:
                executed = super().command(action)
            finally:
                self._world.commanded(executed)
            self._world.fail("command", after=True)
            return executed

    def stop(self) -> None:
        with self._world.at_work("stop"):
            super().stop()

    def reset(self, seed: int | None = None) -> Observation:
        with self._world.at_work("reset"):
            return super().reset(seed)

    def close(self) -> None:
        with self._world.at_work("close"):
            super().close()


class SteppedHal(LocalHal):
    """``LocalHal`` around a loop that is stepped by the world, as its thread would."""

    def __init__(self, loop: HalLoop, robot: Ros2Robot, safety: SafetyConfig) -> None:
        super().__init__(robot, safety)
        self._loop = loop
        self._supervisor = loop.path.supervisor
        self.take_lease()

    def take_lease(self) -> None:
        """What ``open`` does, without threads."""
        self._token = self._loop.leases.acquire(self._holder, 60.0).token


class World:
    """One robot, its stand-in, the loop that runs it, and the clock.

    Args:
        robot: Which.
        time: The clock, which stands for ``time`` in the product's modules.
        local: Whether commands go through ``LocalHal``, else to the loop with a lease, as from
            the node.

    Raises:
        Violation: From any method, as soon as the invariant does not hold.
    """

    def __init__(self, robot: CampaignRobot, time: VirtualTime, *, local: bool = False) -> None:
        self.robot, self.time = robot, time
        time.now_ns, time.wall_offset_ns = 1_000_000_000, 1_700_000_000_000_000_000
        time.let_pass = self.run
        self.forbidden = ""  # why nothing that begins now may move the robot
        self.io = LocalTopics(time.time_ns)
        self.violation: Violation | None = None
        self._failed = False  # whether the last command had a fault
        self._works: list[tuple[Work, str]] = []
        self._contract = from_mapping(Ros2Config, robot.contract)
        self._safety = from_mapping(SafetyConfig, robot.safety)
        self.arms = [StandIn(part, group, self, self.io) for group, part in robot.parts]
        self.reading_faults: deque[ReadingFault] = deque()
        self.driver_faults: dict[str, list[str]] = {}
        self.schedule: list[tuple[float, Callable[[], None]]] = []
        self._publish_ns = self._look_ns = time.now_ns
        self._loop_ns = time.now_ns
        self._stepping = False
        self._echoing: list[StandIn] = []
        self._local = local
        #: What was accepted last, and what was of unknown fate (True) since.
        self._applied: list[tuple[Array, bool]] = []
        self.sequence = 0
        self.token = 0
        self._leased_until_s = 0.0  # until then somebody else holds the lease
        self.commands = 0
        #: Direction of the commands before, by arm.
        self.directions: list[Array] = [np.ones(len(arm.robot.bounds)) for arm in self.arms]
        self._build()

    def _build(self) -> None:
        self.driver = WatchedRobot(self._contract, self)
        self.driver.attach(self.io)
        self.loop = HalLoop(
            self.driver,
            from_mapping(LoopConfig, {**_LOOP, "blend_rows": self.robot.blend_rows}),
            self._safety,
            LeaseConfig(required=True, max_duration_s=2.0),
            on_observation=self._seen,
            clock=self.time,
            make_stopper=StepStopper,
        )
        self.stopper: StepStopper = self.loop._stopper  # type: ignore[assignment]
        self.stopper.start()
        # The node publishes standard topics where its robot is not read from them.
        read = self.driver.topics_read
        self._echoing = [arm for arm in self.arms if arm.topic and arm.topic not in read]
        self.hal = SteppedHal(self.loop, self.driver, self._safety) if self._local else None
        if self.hal is None:
            self.acquire()
        self.run(0.25)

    # --- what the stand-in and the driver tell ---

    def arrived(self, arm: StandIn, values: list[float]) -> None:
        """A target arrived at the robot."""
        with self.noted():
            work, forbidden = self._works[-1]
            arm.check.arrived(work, values, self.time.monotonic(), arm.here, forbidden)

    def violated(self, text: str) -> None:
        """Something that may not happen has."""
        with self.noted():
            raise Violation(text)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """The product survives whatever a driver raises: what is violated must be remembered."""
        try:
            yield
        except Violation as violation:
            self.violation = self.violation or violation
            raise

    def commanded(self, executed: Array | None) -> None:
        """The driver came back from a command."""
        now_s, at = self.time.monotonic(), 0
        self.commands += 1
        if executed is not None:
            self._applied.append((executed, self._failed))
        for arm in self.arms:
            end = at + len(arm.robot.bounds)
            part = None if executed is None else executed[at:end].tolist()
            readings = arm.readings(now_s)
            silent_s = now_s - arm.spoke_s
            if part is not None and arm.topic and silent_s > _SILENT_S:
                self.violated(f"a robot is commanded that has said nothing for {silent_s:.2f} s")
            with self.noted():
                arm.check.commanded(part, now_s, readings, arm.observed or readings[-1])
            at = end + arm.robot.gripper
            if executed is None or not arm.robot.gripper:
                continue
            holds, told = arm.opening or 0.0, float(executed[end])
            if abs(told - holds) > 1e-4:
                self.violated(f"the gripper holds {holds}, reported is {told}")

    @contextlib.contextmanager
    def at_work(self, work: Work) -> Iterator[None]:
        """The loop calls a method of the driver."""
        leased = "" if self.time.monotonic() >= self._leased_until_s else _LEASED
        self._works.append((work, self.forbidden or leased))
        try:
            for arm in self.arms:
                if work == "connect":
                    arm.opening = None  # a new sender knows nothing of it
                arm.check.begins(work)
            self.fail(work)
            yield
            for arm in self.arms:
                arm.check.ended(work)
        finally:
            self._works.pop()

    def fail(self, work: str, *, after: bool = False) -> None:
        """Show a fault at a call of the driver, if there is one."""
        if work == "command" and not after:
            self._failed = False
        faults = self.driver_faults.get(work)
        if not faults or ("after" in faults[0]) is not after:
            return
        fault = faults.pop(0)
        if work == "command":
            self._failed = True
            if after and self._applied:
                self._applied[-1] = (self._applied[-1][0], True)
        if fault == "slow":
            self.run(0.3)
        elif fault == "lost":
            raise DeviceNotConnected("robot", got="a connection that was lost")
        elif "odd" in fault:
            raise ValueError("a mistake in the driver")
        else:
            raise DeviceFault("robot", got="a fault that was asked for")

    def _seen(self, observation: Observation) -> None:
        for arm in self.arms:
            if arm.array in observation.arrays:
                arm.observed = observation.arrays[arm.array].tolist()
            if arm in self._echoing:
                arm.echo()
        applied = observation.applied
        good = max((i for i, (_, failed) in enumerate(self._applied) if not failed), default=0)
        del self._applied[:good]
        # Of a command that failed or overran nobody knows; the robot was stopped then.
        accepted = [value for value, _ in self._applied]
        if applied is not None and not any(np.array_equal(applied.action, v) for v in accepted):
            self.violated(f"observed as applied {applied.action}, accepted was {accepted}")
        if self.hal is not None:
            self.hal.observations.put(observation)

    # --- time ---

    def run(self, duration_s: float) -> None:
        """Let time pass: robot, sentinel, stops, the loop unless it is in a call, and events."""
        time = self.time
        end_ns = time.now_ns + max(0, round(duration_s * 1e9))
        while True:
            due_ns = min(self._publish_ns, self._look_ns, end_ns)
            if not self._stepping:
                due_ns = min(due_ns, max(self._loop_ns, time.now_ns))
            if due_ns > time.now_ns:
                for arm in self.arms:
                    arm.advance((due_ns - time.now_ns) * 1e-9)
                time.now_ns = due_ns
            now_ns = time.now_ns
            if now_ns >= self._publish_ns:
                self._publish_ns = now_ns + int(PUBLISH_S * 1e9)
                self._publish()
            if now_ns >= self._look_ns:
                self._look_ns = now_ns + int(LOOK_S * 1e9)
                self._look()
            if not self._stepping and now_ns >= self._loop_ns:
                self._step()
            if self.violation is not None and not self._stepping:
                raise self.violation
            if time.now_ns >= end_ns and (self._stepping or self._loop_ns > time.now_ns):
                return

    def _publish(self) -> None:
        fault = self.reading_faults[0] if self.reading_faults else None
        if fault is not None:
            fault.count -= 1
            if fault.count <= 0:
                self.reading_faults.popleft()
        for i, arm in enumerate(self.arms):
            hit = fault is not None and fault.which % len(self.arms) == i
            arm.publish(fault if hit else None)

    def _look(self) -> None:
        now_s = self.time.monotonic()
        if self.schedule and self.schedule[0][0] <= now_s:
            self.schedule.pop(0)[1]()
        self.stopper.pump()
        self.loop.look()
        for arm in self.arms:
            arm.check.in_effect(now_s, _VELOCITY_S)

    def _step(self) -> None:
        self._stepping = True
        try:
            self._loop_ns = max(self.loop.step(), self.time.now_ns + 1_000_000)
        finally:
            self._stepping = False

    # --- what people and programs do ---

    def send(self, rows: Array, **options: Any) -> str:
        """Send a chunk; returns the code of a refusal, or nothing."""
        options.setdefault("period_ns", int(PERIOD_S * 1e9))
        options.setdefault("sequence", self.sequence + 1)
        self.sequence = max(self.sequence, options["sequence"])
        token = options.pop("token", self.token)
        try:
            chunk = ActionChunk(rows, lease_token=token, **options)
            if self.hal is not None:
                self.hal.send(chunk)
            else:
                self.loop.submit(chunk)
        except Refused as refusal:
            return refusal.code
        except SuiteError as error:
            return error.code
        if self._loop_ns > self.time.now_ns and not self._stepping:
            self._loop_ns = self.time.now_ns
        return ""

    def acquire(self, holder: str = "actor", duration_s: float = 1.0) -> None:
        """Take the lease, also from others."""
        self.token = self.loop.leases.acquire(holder, duration_s, preempt=True).token
        self.sequence = 0
        self._leased_until_s = 0.0

    def regain(self) -> None:
        """Do what an actor does when it may not drive: take the lease again."""
        if self.hal is not None:
            with contextlib.suppress(SuiteError):
                self.hal.unready()
        elif self.loop.leases.current[0] is None:
            self.acquire()

    def give_lease_back(self) -> None:
        """Whoever holds the lease gives it back."""
        lease, _ = self.loop.leases.current
        if lease is not None:
            self.loop.leases.release(lease.token)
            self._leased_until_s = 0.0

    def lose_lease(self, duration_s: float) -> None:
        """Somebody else takes the lease over."""
        self.loop.leases.acquire("somebody else", duration_s, preempt=True)
        self._leased_until_s = self.time.monotonic() + duration_s - 1e-6

    def reset(self) -> None:
        """Have the robot reset, and wait until it is, or cannot."""
        try:
            done = self.hal.reset(1) if self.hal else self.loop.reset(1, self.token)
        except SuiteError:
            return
        self._loop_ns = self.time.now_ns
        for _ in range(100):
            if done.done():
                done.exception()
                return
            self.run(PERIOD_S)

    def press(self) -> None:
        """Press the emergency stop."""
        self.loop.press_emergency("the campaign")
        self.forbidden = _PRESSED

    def release(self) -> None:
        """Release it."""
        self.loop.reset_emergency()
        self.forbidden = ""

    def pushed(self, by: Sequence[float]) -> None:
        """Somebody moves the robot by hand."""
        for arm in self.arms:
            if arm.robot.rate:
                continue
            for i, distance in enumerate(by):
                arm.here[i] += distance
            arm.let_go()
            arm.check.by_hand, arm.check.by_hand_s = True, self.time.monotonic()

    def restart(self) -> None:
        """The process of the HAL ends, and another one starts, which believes what it sees first."""
        self.reading_faults.clear()
        self.loop.close()
        self.stopper.wait()
        latched = bool(self.forbidden)
        for arm in self.arms:
            arm.check.restarted()
        self._applied, self._loop_ns = [], self.time.now_ns
        self._build()
        if latched:
            self.press()

    def close(self) -> None:
        """End it."""
        self.loop.close()
