"""Do a robot, a camera and a teleoperation device keep their promises?"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from user_core.body.action_groups import group_views
from user_core.conformance.report import Report, Skip, expect
from user_core.errors import DeviceError, SpecError
from user_core.interfaces import Camera, Robot, Teleop
from user_core.specs import ActionKind, Array, RobotSpec, check_arrays
from user_core.types import Observation

Progress = Callable[[str], None]

#: Actions that are targets, and the observation of the same quantity.
_ABSOLUTE = {ActionKind.JOINT_POSITION: "joint_position", ActionKind.EE_POSE: "tcp_pose"}
#: An episode of chance ends after this many steps or seconds; fewer say nothing.
_EPISODE_STEPS, _EPISODE_S, _ENOUGH_STEPS = 200, 2.0, 20
#: With ``motion`` 1, absolute targets keep within this of the start, rad or m.
_ABSOLUTE_STEP = 0.1


def check_robot(
    robot: Robot,
    *,
    steps: int = 20,
    motion: float = 0.1,
    seed: int = 0,
    progress: Progress = lambda promise: None,
    moving: bool = True,
    now_ns: Callable[[], int] = time.time_ns,
) -> Report:
    """Try a driver that is not connected yet. **The robot moves**, unless ``moving`` is false.

    Args:
        robot: The driver.
        steps: Control periods to drive it for.
        motion: Share of the action bounds to move within, about their middle, 0 to 1. Absolute
            targets move about where the robot is after its reset instead, by 0.1 rad or m times
            this at most.
        seed: Seed of the motion and of the resets.
        progress: Called with each promise before it is tried.
        moving: Whether it is reset, driven and stopped; else these promises are left out.
        now_ns: The clock of its stamps, nanoseconds.

    Returns:
        The report; the robot is closed.
    """
    return _RobotCheck(robot, steps, motion, seed, progress, moving, now_ns).run()


class _RobotCheck:
    def __init__(
        self,
        robot: Robot,
        steps: int,
        motion: float,
        seed: int,
        progress: Progress,
        moving: bool,
        now_ns: Callable[[], int],
    ) -> None:
        self.robot, self.steps, self.motion, self.seed = robot, steps, motion, seed
        self.progress, self.moving, self.now_ns = progress, moving, now_ns
        self.rng = np.random.default_rng(seed)
        self.report = Report(f"robot driver {type(robot).__module__}.{type(robot).__qualname__}")
        self.last: Observation | None = None
        self.start: Observation | None = None

    def run(self) -> Report:
        try:
            moves = (self.reset, self.drive, self.stop, self.seeds, self.learnable)
            for check in (
                self.spec, self.before_connect, self.connect, self.reset, self.read,
                self.refuse_wrong_actions, self.drive, self.stop, self.seeds, self.learnable,
                self.feedback,
            ):  # fmt: skip
                if not self.moving and check in moves:
                    continue
                check()
                if check == self.connect and self.report.checks[-1].passed is False:
                    break  # nothing that follows could tell more
        finally:
            self.close()
        return self.report

    def _promise(self, text: str):  # type: ignore[no-untyped-def]
        self.progress(text)
        return self.report.promise(text)

    def spec(self) -> None:
        with self._promise("spec is known before connect, does not change, survives JSON") as seen:
            spec = self.robot.spec
            expect(self.robot.spec == spec, "two reads of spec differ")
            again = RobotSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
            expect(again == spec, "the spec read back from JSON differs")
            seen.append(f"{len(spec.observation)} arrays, action {spec.action.shape[0]}")
        with self._promise("actions have bounds"):
            bounds = self.robot.spec.action
            if not bounds.dtype.startswith("float") and not bounds.categorical:
                raise Skip("integers")
            expect(
                bounds.low is not None and bounds.high is not None,
                "low or high of the action spec is missing: exploration and safety need both",
            )
        spec = self.robot.spec
        if spec.action.categorical and not spec.lockstep:
            with self._promise("it says which choices change nothing"):
                expect(bool(spec.hold_choices), "hold_choices are missing: who waits needs them")

    def before_connect(self) -> None:
        with self._promise("read and command before connect raise DeviceError"):
            for name, call in (
                ("read", self.robot.read),
                ("command", lambda: self.robot.command(self.robot.spec.action.zeros())),
            ):
                try:
                    call()
                except DeviceError:
                    continue
                expect(False, f"{name}() did not raise")

    def connect(self) -> None:
        with self._promise("connect reaches the robot"):
            self.robot.connect()

    def reset(self) -> None:
        with self._promise("reset returns a first observation that fits the spec") as seen:
            start_s = time.monotonic()
            self.last = self.start = self.robot.reset(seed=self.seed)
            seen.append(f"{time.monotonic() - start_s:.2f} s")
            self._check_observation(self.last)

    def read(self) -> None:
        with self._promise("read gives observations that fit the spec, in order") as seen:
            before = self.robot.read()
            self._check_observation(before)
            after, waited_s = self._reading_after(before)
            self._check_observation(after)
            expect(after.sequence >= before.sequence, "sequence went backwards")
            expect(after.stamp_ns >= before.stamp_ns, "stamp went backwards")
            expect(
                self.robot.spec.lockstep or after.stamp_ns > before.stamp_ns,
                f"{waited_s:.2f} s later the stamp is still the same: an old reading as if it were new",
            )
            seen.append(f"age {(self.now_ns() - after.stamp_ns) / 1e6:.1f} ms")

    def _reading_after(self, before: Observation) -> tuple[Observation, float]:
        """A later reading, and after how many seconds. A driver that had no processor for a while is late, which is
        not to show an old reading as if it were new: it may take ten periods, and at least a second."""
        period_s, began_s = self.robot.spec.period_s, time.monotonic()
        if self.robot.spec.lockstep:
            return self.robot.read(), 0.0
        while True:
            time.sleep(2 * period_s)
            after, waited_s = self.robot.read(), time.monotonic() - began_s
            if after.stamp_ns != before.stamp_ns or waited_s > max(10 * period_s, 1.0):
                return after, waited_s

    def refuse_wrong_actions(self) -> None:
        action = self.robot.spec.action
        wrong: dict[str, Array] = {
            "shape": np.zeros(action.size + 1, action.dtype),
            "dtype": np.zeros(action.size, "float64" if action.dtype != "float64" else "int32"),
        }
        if action.dtype.startswith("float"):
            wrong["NaN"] = np.full(action.size, math.nan, action.dtype)
        elif action.high is not None:
            wrong["choice"] = (action.high_array + 1).astype(action.dtype)
        for kind, bad in wrong.items():
            with self._promise(f"a command of wrong {kind} raises SpecError"):
                try:
                    self.robot.command(bad)
                except SpecError:
                    continue
                expect(False, "it was taken")

    def drive(self) -> None:
        with self._promise("commands are carried out, and what was sent is reported") as seen:
            spec, slowest_s = self.robot.spec, 0.0
            deadline_s = time.monotonic()
            sequence = self.robot.read().sequence
            for _ in range(self.steps):
                action = self._small_action()
                start_s = time.monotonic()
                sent = self.robot.command(action)
                slowest_s = max(slowest_s, time.monotonic() - start_s)
                spec.action.check(sent, "what command() returned")
                if not spec.lockstep:
                    deadline_s += spec.period_s
                    time.sleep(max(0.0, deadline_s - time.monotonic()))
                observation = self.robot.read()
                self._check_observation(observation)
                expect(observation.sequence > sequence, "no new observation after a command")
                sequence = observation.sequence
                expect(observation.applied is not None, "Observation.applied is missing")
                if observation.applied is not None:
                    spec.action.check(observation.applied.action, "applied.action")
                self.last = observation
                if observation.task.terminated or observation.task.truncated:
                    self.last = self.robot.reset(seed=self.seed)
                    sequence = self.last.sequence
            expect(
                spec.lockstep or slowest_s < spec.period_s,
                f"command() took {slowest_s:.3f} s, longer than a period",
            )
            seen.append(f"slowest command {slowest_s * 1e3:.1f} ms")

    def stop(self) -> None:
        with self._promise("stop may be called twice, and reading goes on"):
            self.robot.stop()
            self.robot.stop()
            self._check_observation(self.robot.read())

    def seeds(self) -> None:
        with self._promise("reset counts episodes; equal seeds give equal starts") as seen:
            first, second = self.robot.reset(seed=self.seed), self.robot.reset(seed=self.seed)
            expect(second.episode == first.episode + 1, "Observation.episode did not count up")
            if not self.robot.spec.lockstep:
                raise Skip("counted; a robot in real time never starts exactly alike")
            for name, array in first.arrays.items():
                expect(
                    np.allclose(array, second.arrays[name], atol=1e-6),
                    f"{name} differs after two resets with seed {self.seed}",
                )
            seen.append(f"seed {self.seed}")

    def learnable(self) -> None:
        """Whether there is something to learn from: a simulation makes an episode of chance."""
        spec = self.robot.spec
        if not spec.lockstep or not spec.task_reward:
            return
        with self._promise("in an episode of chance, what it shows changes") as seen:
            first = self.last = self.robot.reset(seed=self.seed)
            rewards, moved, end_s = list[float](), set[str](), time.monotonic() + _EPISODE_S
            task = first.task
            while len(rewards) < _EPISODE_STEPS and time.monotonic() < end_s:
                self.robot.command(spec.action.sample(self.rng))
                self.last = self.robot.read()
                task = self.last.task
                rewards.append(task.reward)
                moved |= {
                    name
                    for name, array in self.last.arrays.items()
                    if not np.array_equal(array, first.arrays[name])
                }
                if task.terminated or task.truncated:
                    break
            end = "terminated" if task.terminated else "truncated" if task.truncated else "goes on"
            seen.append(f"{len(rewards)} steps, {end}, return {sum(rewards):.3g}")
            if len(set(rewards)) == 1 and len(rewards) > 1:
                seen.append(f"every reward was {rewards[0]:.3g}")
            if still := sorted(set(first.arrays) - moved):
                seen.append(f"never changed: {', '.join(still)}")
            verdict = {
                True: "success",
                False: "no success",
                None: "nobody knows whether it succeeded",
            }
            seen.append(verdict[task.success])
            expect(
                bool(moved) or len(rewards) < _ENOUGH_STEPS,
                f"no observation changed in {len(rewards)} steps: nothing can be learned from it",
            )

    def feedback(self) -> None:
        with self._promise("the task feedback is as the spec says"):
            observation = self.robot.read()
            known = math.isfinite(observation.task.reward)
            expect(
                known == self.robot.spec.task_reward,
                f"task_reward is {self.robot.spec.task_reward}, the reward "
                f"{observation.task.reward}",
            )

    def close(self) -> None:
        with self._promise("close may be called twice; read afterwards raises DeviceError"):
            self.robot.close()
            self.robot.close()
            try:
                self.robot.read()
            except DeviceError:
                return
            expect(False, "read() after close() did not raise")

    def _small_action(self) -> Array:
        bounds = self.robot.spec.action
        if not bounds.dtype.startswith("float"):
            return bounds.sample(self.rng)
        low, high = bounds.low_array.astype(float), bounds.high_array.astype(float)
        middle, half = (low + high) / 2, (high - low) / 2
        for elements, here in self._measured_targets():
            # the middle of all positions may be far away
            middle[elements], half[elements] = here, np.minimum(half[elements], _ABSOLUTE_STEP)
        action = middle + half * self.motion * self.rng.uniform(-1, 1, bounds.shape)
        action = np.clip(action, low, high)
        chosen, held = list(bounds.categorical), self.robot.spec.hold_choices
        action[chosen] = held or bounds.sample(self.rng)[chosen]
        return np.asarray(action, bounds.dtype)

    def _measured_targets(self) -> Iterator[tuple[slice, Array]]:
        """Where absolute actions would leave the robot, and which elements these are."""
        if self.start is None:
            return
        for view in group_views(self.robot.spec):
            name = _ABSOLUTE.get(view.spec.action_kind, "")
            arrays = view.arrays(self.start.arrays)
            if name in arrays:
                here = arrays[name][: view.spec.action.size]
                yield slice(view.part.start, view.part.start + len(here)), here

    def _check_observation(self, observation: Observation) -> None:
        check_arrays(observation.arrays, self.robot.spec.observation)
        for name, array in observation.arrays.items():
            if self.last is not None and array.size:
                constant = array.flags.owndata and not array.flags.writeable  # a slow camera's
                expect(
                    constant
                    or not np.shares_memory(array, self.last.arrays[name])
                    or observation.sequence == self.last.sequence,
                    f"{name} shares memory with the observation before: it will be overwritten",
                )
        age_s = (self.now_ns() - observation.stamp_ns) / 1e9
        expect(-0.1 < age_s < 60, f"stamp is {age_s:.1f} s old: expected ns since the epoch")


def check_camera(camera: Camera, *, timeout_s: float = 5.0) -> Report:
    """Try a camera that is not connected yet; it is closed afterwards."""
    report = Report(f"camera {type(camera).__module__}.{type(camera).__qualname__}")
    with report.promise("spec is an image or depth, with an optical frame (REP-103)") as seen:
        spec = camera.spec
        kind = (spec.dtype, *spec.shape[2:])
        expect(
            len(spec.shape) == 3 and kind in (("uint8", 3), ("float32", 1), ("uint16", 1)),
            str(spec),
        )
        expect("_optical" in spec.frame, f"frame is {spec.frame!r}")
        seen.append(f"{spec.shape[1]}x{spec.shape[0]}")
    with report.promise("read before connect raises DeviceError"):
        _expect_device_error(camera)
    try:
        with report.promise("connect reaches the camera"):
            camera.connect()
        with report.promise("images fit the spec, are stamped and counted") as seen:
            first = _wait_for_newer(camera, -1, timeout_s)
            second = _wait_for_newer(camera, first.sequence, timeout_s)
            for frame in (first, second):
                camera.spec.check(frame.image_hwc, "image")
            expect(second.stamp_ns > first.stamp_ns, "a newer image has no newer stamp")
            age_s = (time.time_ns() - second.stamp_ns) / 1e9
            expect(-0.1 < age_s < 10, f"stamp is {age_s:.1f} s old")
            seen.append(f"age {age_s * 1e3:.0f} ms")
    finally:
        with report.promise("close may be called twice; read afterwards raises DeviceError"):
            camera.close()
            camera.close()
            _expect_device_error(camera)
    return report


def _expect_device_error(camera: Camera) -> None:
    try:
        camera.read()
    except DeviceError:
        return
    expect(False, "read() did not raise")


def _wait_for_newer(camera: Camera, sequence: int, timeout_s: float):  # type: ignore[no-untyped-def]
    deadline_s = time.monotonic() + timeout_s
    while (frame := camera.read()).sequence <= sequence:
        expect(time.monotonic() < deadline_s, f"no new image within {timeout_s} s")
        time.sleep(0.005)
    return frame


def check_teleop(teleop: Teleop, spec: RobotSpec, observation: Observation) -> Report:
    """Try a device that is not connected yet; no person needs to touch it.

    Args:
        teleop: The device.
        spec: Of the robot that it would drive.
        observation: Any observation of that robot.
    """
    report = Report(f"teleop {type(teleop).__module__}.{type(teleop).__qualname__}")
    try:
        with report.promise("connect opens the device"):
            teleop.connect(spec)
        with report.promise("commands fit the robot's action spec, within its bounds"):
            command = teleop.read(observation)
            spec.action.check(command.action, "action")
            expect(bool((command.action >= spec.action.low_array).all()), "below the bounds")
            expect(bool((command.action <= spec.action.high_array).all()), "above the bounds")
        with report.promise("read does not block the control loop") as seen:
            times_s = []
            for _ in range(20):
                start_s = time.perf_counter()
                teleop.read(observation)
                times_s.append(time.perf_counter() - start_s)
            median_ms = sorted(times_s)[10] * 1e3
            seen.append(f"median {median_ms:.2f} ms")
            expect(median_ms < 10, f"median {median_ms:.1f} ms a read")
    finally:
        with report.promise("close may be called twice"):
            teleop.close()
            teleop.close()
    return report
