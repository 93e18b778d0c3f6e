"""The invariant of docs/explanation/safety.md: gate and driver together, whatever is measured."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from user_core.config import from_mapping
from user_core.errors import DeviceError
from user_core.specs import Array
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import Header, JointState, Time
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.safety import SafetyConfig, SafetyGate

JOINTS = ["a", "b", "c"]
PERIOD_S, LEAD_RAD = 0.1, 0.2
STEP_RAD = 0.06  # what the gate lets pass in a period
ROUNDING = 1e-5
CONTRACT: dict[str, Any] = {
    "robot": "toy",
    "joints": JOINTS,
    "period_s": PERIOD_S,
    "observation": {
        "joint_position": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
        },
    },
    "action": {
        "kind": "joint_delta", "low": -0.1, "high": 0.1, "max_lead_rad": LEAD_RAD,
        "command": {
            "topic": "/commands", "type": "std_msgs/msg/Float64MultiArray",
            "require_subscriber": False,
        },
    },
    "timing": {"max_age_s": 10.0},
}  # fmt: skip
SAFETY = {"step": {"each": [STEP_RAD]}, "velocity": {"each": [0.8]}}

vectors = st.lists(st.floats(-3.1, 3.1), min_size=3, max_size=3).map(np.array)
changes = st.lists(st.floats(-0.12, 0.12), min_size=3, max_size=3).map(np.array)


class GateAndDriver(RuleBasedStateMachine):
    """Readings, commands and stops in any order, to an arm that goes where it is told."""

    extra: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.io = LocalTopics()
        self.sent: list[Array] = []
        self.io.subscribe(
            "/commands",
            "std_msgs/msg/Float64MultiArray",
            lambda message: self.sent.append(np.array(message.data)),
        )
        self.joints = self.io.publisher("/joint_states", "sensor_msgs/msg/JointState")
        self.true: Array = np.array([0.5, -1.2, 1.4])
        self.reading: Array = np.zeros(3)
        self.robot = Ros2Robot(from_mapping(Ros2Config, {**CONTRACT, **self.extra}))
        self.gate = SafetyGate(from_mapping(SafetyConfig, SAFETY), self.robot.spec)
        self.robot.attach(self.io)
        # The bus delivers at once to whoever is there: the first reading comes while it waits.
        subscribe = self.io.subscribe

        def subscribe_and_speak(*args: Any, **options: Any) -> Any:
            subscription = subscribe(*args, **options)
            self.measure(self.true)
            return subscription

        self.io.subscribe = subscribe_and_speak  # type: ignore[method-assign]
        self.robot.connect()
        self.io.subscribe = subscribe  # type: ignore[method-assign]
        self.now_ns = 0
        self.target: Array | None = None
        self.look()

    def teardown(self) -> None:
        self.robot.close()

    def measure(self, positions: Array) -> None:
        if np.isfinite(positions).all():
            self.reading = positions.copy()
        stamp = Time(*divmod(self.io.now_ns(), 10**9))
        self.joints.publish(JointState(Header(stamp), list(JOINTS), positions.tolist()))

    def look(self) -> None:
        with contextlib.suppress(DeviceError):
            self.gate.observe(self.robot.read().arrays)

    @rule()
    def a_good_reading(self) -> None:
        if self.target is not None:
            self.true = self.true + np.clip(self.target - self.true, -0.05, 0.05)
        self.measure(self.true)
        self.look()

    @rule(positions=vectors)
    def a_jump(self, positions: Array) -> None:
        self.measure(positions)
        self.look()

    @rule()
    def zeros(self) -> None:
        self.measure(np.zeros(3))
        self.look()

    @rule()
    def joints_swapped(self) -> None:
        self.measure(self.true[::-1])
        self.look()

    @rule(which=st.integers(0, 2))
    def not_a_number(self, which: int) -> None:
        broken = self.true.copy()
        broken[which] = np.nan
        self.measure(broken)
        self.look()

    @rule(change=changes)
    def a_command(self, change: Array) -> None:
        self.now_ns += int(PERIOD_S * 1e9)
        verdict = self.gate.judge(change.astype(np.float32), self.now_ns)
        if verdict.action is None:
            return
        count = len(self.sent)
        try:
            applied = self.robot.command(verdict.action)
        except DeviceError:
            assert len(self.sent) == count, "refused, and sent"
            self.a_stop()
            return
        target = self.sent[-1]
        spec = self.robot.spec.action
        assert (applied >= spec.low_array).all() and (applied <= spec.high_array).all()
        start = self.reading if self.target is None else self.target
        moved = target - start
        assert (np.abs(moved) <= STEP_RAD + ROUNDING).all(), "faster than the limits"
        assert (np.abs(moved) <= np.abs(verdict.action) + ROUNDING).all()
        np.testing.assert_allclose(applied, moved, atol=ROUNDING, err_msg="sent, not reported")
        self.target = target

    @precondition(lambda self: self.sent)
    @rule()
    def a_stop(self) -> None:
        self.robot.stop()
        self.gate.hold()
        if self.target is not None:
            way = np.abs(self.sent[-1] - self.target)
            assert (way <= LEAD_RAD + ROUNDING).all(), "a stop that goes somewhere"
        self.target = None

    @invariant()
    def what_is_sent_is_finite(self) -> None:
        assert all(np.isfinite(values).all() for values in self.sent[-1:])


class WithJumpsFound(GateAndDriver):
    """The same with velocity limits: a jump is a fault."""

    extra: ClassVar[dict[str, Any]] = {
        "joint_velocity_limits": 2.0,
        "timing": {"max_age_s": 10.0, "settled_readings": 3},
    }


GateAndDriver.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
WithJumpsFound.TestCase.settings = GateAndDriver.TestCase.settings
TestWhateverIsMeasured = GateAndDriver.TestCase
TestWhateverIsMeasuredWithJumpsFound = WithJumpsFound.TestCase
