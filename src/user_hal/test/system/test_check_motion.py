"""Moves when told: what a small known motion tells about robots that do it, and that do not.

Robot, gate and check live in a test's time: on a busy machine a robot is stopped for what comes late, and one that is
told a velocity goes further than it was told.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from user_core.errors import DeviceTimeout
from user_core.specs import ActionKind, ArraySpec
from user_core.types import ActionChunk, Observation
from user_hal.checking.motion import MotionCheck, MotionReport, Moved, grippers_that_open
from user_hal.checking.tables import motion_section
from user_hal.safety import SafetyConfig
from user_testing.worlds.robots.small_arm import SmallArm, SmallArmConfig, hal_in_test_time


def run(safety: SafetyConfig | None = None, **params: Any) -> tuple[MotionReport, SmallArm]:
    robot = SmallArm(SmallArmConfig(**params))
    safety = safety or SafetyConfig()
    with hal_in_test_time(robot, safety) as hal:
        return MotionCheck(hal, safety, seconds=0.16).run(), robot


def verdicts(report: MotionReport) -> list[str]:
    return [moved.verdict for moved in report.moved]


@pytest.mark.parametrize(
    "kind", [ActionKind.JOINT_DELTA, ActionKind.JOINT_POSITION, ActionKind.JOINT_VELOCITY]
)
def test_a_robot_that_follows_is_back_where_it_was(kind: ActionKind) -> None:
    report, _ = run(kind=kind, gripper=True)
    assert verdicts(report) == ["moved"] * 3, report
    assert [moved.name for moved in report.moved] == ["j1", "j2", "hand"]
    for moved in report.moved[:2]:
        assert moved.told == pytest.approx(0.05, rel=0.1)
        assert moved.went == pytest.approx(moved.told, rel=0.1)
        assert moved.back == pytest.approx(0.0, abs=2e-3)
    assert report.moved[2].went == pytest.approx(-0.2, abs=0.01), "an open gripper closes a little"
    assert not motion_section(report).failed


def test_each_fault_has_its_name() -> None:
    report, _ = run(follows=(0.0, -1.0, 1.8, 1.0))
    assert verdicts(report) == ["did not move", "wrong way", "other scale", "moved"]
    section = motion_section(report)
    text = "\n".join(f"{f.text} {f.detail} {f.hint}" for f in section.findings)
    assert section.failed
    assert "did not move: j1" in text and "controller active" in text
    assert "wrong way: j2" in text and "sign" in text
    assert "1.8 times what it was told" in text


def test_degrees_for_radians_stop_it_before_it_goes_far() -> None:
    """With 57 times the motion the joint would go through 2.9 rad."""
    report, _ = run(follows=(math.degrees(1.0), 1.0))
    assert verdicts(report) == ["stopped", "not tried"]
    assert abs(report.moved[0].went) < 0.6, report
    assert "units" in report.trouble and motion_section(report).failed
    tiny, _ = run(follows=(math.radians(1.0), 1.0))
    assert verdicts(tiny) == ["did not move", "moved"]


def test_joints_in_another_order_are_told() -> None:
    report, _ = run(swapped=True)
    assert verdicts(report) == ["did not move"] * 2
    assert "j2 moved instead" in report.moved[0].detail


def test_it_stays_below_the_limits_of_the_robots_file() -> None:
    safety = SafetyConfig.model_validate({"velocity": {"each": [0.1]}, "step": {"each": [0.004]}})
    report, _ = run(safety)
    assert verdicts(report) == ["moved"] * 2
    for moved in report.moved:  # 60 periods of 0.02 s at 0.08 rad/s
        assert moved.told == pytest.approx(0.048, rel=0.05)


def test_a_joint_at_its_limit_goes_the_other_way() -> None:
    robot = SmallArm(SmallArmConfig())
    robot._told = np.array([2.99, -2.99])
    with hal_in_test_time(robot, SafetyConfig()) as hal:
        report = MotionCheck(hal, SafetyConfig(), seconds=0.16).run()
    assert [round(moved.went, 2) for moved in report.moved] == [-0.05, 0.05]


def test_a_gate_that_stops_the_robot_ends_it() -> None:
    safety = SafetyConfig.model_validate(
        {"joint_limits": {"low": [1.0, 1.0], "high": [2.0, 2.0], "tolerance": 0.01}}
    )
    report, _ = run(safety)
    assert report.trouble and "joint" in report.trouble


def test_a_robot_that_was_stopped_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that fails stops the robot; it goes on with the next one."""
    robot = SmallArm(SmallArmConfig())
    real, fails = robot.read, [False]

    def read() -> Observation:
        if fails.pop() if fails else False:
            raise DeviceTimeout("small arm", got="a late message")
        return real()

    monkeypatch.setattr(robot, "read", read)
    with hal_in_test_time(robot, SafetyConfig()) as hal:
        check = MotionCheck(hal, SafetyConfig(), seconds=0.16)
        report = check.run(lambda name: fails.append(name == "j2"))
    assert verdicts(report) == ["moved", "moved"], report
    assert [moved.interrupted for moved in report.moved] == [False, True]
    texts = [finding.text for finding in motion_section(report).findings]
    assert texts[-1] == f"stopped meanwhile, and tried again: {report.moved[1].name}"


def test_a_gripper_that_nothing_measures_is_announced() -> None:
    spec = SmallArm(SmallArmConfig(gripper=True)).spec
    assert grippers_that_open(spec) == []
    joints = {"joint_position": spec.observation["joint_position"]}
    assert grippers_that_open(replace(spec, observation=joints)) == ["hand"]


class Base(SmallArm):
    """A base that is driven by (vx, wz), and has an odometry."""

    def __init__(self, follows: tuple[float, ...] = (1.0, 1.0)) -> None:
        super().__init__(SmallArmConfig(follows=follows))
        names = ("x", "y", "z", "qx", "qy", "qz", "qw")
        self._spec = replace(
            self._spec,
            observation={"pose": ArraySpec((7,), "float64", unit="m", frame="odom", names=names)},
            action=ArraySpec((2,), "float32", (-0.1, -0.4), (0.3, 0.4), names=("vx", "wz")),
            action_kind=ActionKind.BASE_TWIST,
        )
        self.place = np.array([3.0, 1.0, 2.0])  # x, y, heading: it does not start at zero

    def read(self) -> Observation:
        x, y, heading = self.place
        pose = [x, y, 0.0, 0.0, 0.0, math.sin(heading / 2), math.cos(heading / 2)]
        return replace(super().read(), arrays={"pose": np.array(pose)})

    def command(self, action: np.ndarray) -> np.ndarray:
        speed, turning = np.asarray(action, float) * self.config.follows * self.config.period_s
        heading = self.place[2]
        self.place += [speed * math.cos(heading), speed * math.sin(heading), turning]
        return super().command(action)


def check_base(robot: Base) -> MotionReport:
    safety = SafetyConfig.model_validate({"velocity": {"linear": 0.2, "angular": 0.3}})
    with hal_in_test_time(robot, safety) as hal:
        return MotionCheck(hal, safety, seconds=0.16).run()


def test_a_base_goes_forward_and_turns_a_little_by_its_own_axes() -> None:
    robot = Base()
    report = check_base(robot)
    assert verdicts(report) == ["moved", "moved"], report
    assert [(moved.name, moved.unit) for moved in report.moved] == [("vx", "m"), ("wz", "rad")]
    for moved, amount in zip(report.moved, (0.05, 0.1)):
        assert moved.told == pytest.approx(amount, rel=0.05)
        assert moved.went == pytest.approx(moved.told, rel=0.05)
    np.testing.assert_allclose(robot.place, [3.0, 1.0, 2.0], atol=0.05)


def test_a_base_that_goes_backwards_or_stands_is_told() -> None:
    assert verdicts(check_base(Base((-1.0, 0.0)))) == ["wrong way", "did not move"]


def test_what_is_not_measured_is_said() -> None:
    section = motion_section(
        MotionReport([Moved("vx", "m", detail="nothing in the observation measures it")])
    )
    assert not section.failed
    assert section.findings[0].text == "not tried: vx"


class Late(SmallArm):
    """An arm that goes where it is told, and shows a while later that it did: its simulator had no time."""

    late_s = 0.4

    def read(self) -> Observation:
        seen = super().read()
        self._seen = [*getattr(self, "_seen", []), seen]
        then = [one for one in self._seen if one.stamp_ns <= seen.stamp_ns - self.late_s * 1e9]
        return replace(seen, arrays=(then or self._seen[:1])[-1].arrays)


class Changing(SmallArm):
    """An arm that makes another share of what it is told each time that it has been back at its start."""

    shares = (1.0,)

    def command(self, action: np.ndarray) -> np.ndarray:
        was = abs(self._told[0]) > 1e-6
        applied = super().command(action)
        if was and abs(self._told[0]) <= 1e-6 and self.shares:
            self.shares = self.shares[1:]
        return applied

    def read(self) -> Observation:
        seen, share = super().read(), self.shares[0] if self.shares else 1.0
        return replace(seen, arrays={"joint_position": seen.arrays["joint_position"] * share})


def check_of(robot: SmallArm) -> MotionReport:
    with hal_in_test_time(robot, SafetyConfig()) as hal:
        return MotionCheck(hal, SafetyConfig(), seconds=0.16).run()


@pytest.mark.parametrize("late_s", [0.2, 0.4, 1.0])
def test_what_shows_late_is_waited_for(late_s: float) -> None:
    robot = Late(SmallArmConfig())
    robot.late_s = late_s
    report = check_of(robot)
    assert verdicts(report) == ["moved"] * 2, report
    assert [moved.went for moved in report.moved] == pytest.approx([0.05] * 2, rel=0.1)


def test_two_measurements_must_agree_before_a_robot_is_said_to_move_wrongly() -> None:
    robot = Changing(SmallArmConfig())
    robot.shares = (0.26, 1.0)
    moved = check_of(robot).moved[0]
    assert moved.verdict == "moved" and "at first 0.26" in moved.detail
    robot = Changing(SmallArmConfig())
    robot.shares = (0.26, 0.52)
    report = check_of(robot)
    assert verdicts(report) == ["not measured", "moved"] and report.moved[0].good is None
    section = motion_section(report)
    text = "\n".join(f"{f.level.name} {f.text} {f.detail} {f.hint}" for f in section.findings)
    assert not section.failed and "WARN not measured: j1 0.26 of what it was told, and 0.52" in text
    assert "too busy" in text
    robot = Changing(SmallArmConfig())
    robot.shares = (0.0, 5.0)
    report = check_of(robot)
    assert verdicts(report) == ["stopped", "not tried"] and "went +0." in report.trouble, report
    robot = Changing(SmallArmConfig())
    robot.shares = (0.5, 0.5)
    assert verdicts(check_of(robot)) == ["other scale", "moved"]


class Held(SmallArm):
    """An arm that holds a velocity until the next one comes."""

    speed, since_ns, now_ns = 0.0, 0, staticmethod(lambda: 0)

    def command(self, action: np.ndarray) -> np.ndarray:
        before = self._told.copy()
        now_ns = self.now_ns()
        applied = super().command(action)
        self._told = before + self.speed * (now_ns - self.since_ns) * 1e-9
        self.speed, self.since_ns = np.asarray(action, float), now_ns
        return applied


def test_velocities_that_are_held_for_longer_on_a_busy_machine_are_no_other_scale() -> None:
    def moved_with(late_s: float) -> list[str]:
        robot = Held(SmallArmConfig(kind=ActionKind.JOINT_VELOCITY))
        with hal_in_test_time(robot, SafetyConfig()) as hal:
            robot.now_ns, robot.since_ns = lambda: hal._time.now_ns, hal._time.now_ns
            send = hal.send

            def late(chunk: ActionChunk) -> None:
                hal.run(late_s)
                send(chunk)

            hal.send = late  # type: ignore[method-assign]
            return verdicts(MotionCheck(hal, SafetyConfig(), seconds=0.16).run())

    assert moved_with(0.0) == ["moved"] * 2
    assert moved_with(0.035) == ["not measured"] * 2
