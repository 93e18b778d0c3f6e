"""A robot with action groups, driven in this process by a person with a device for each group."""

from __future__ import annotations

import time

import numpy as np

from user_core.config import from_mapping
from user_core.interfaces import Robot
from user_core.plugins import PluginChoice
from user_core.specs import ActionGroup, ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import ActionChunk, Observation
from user_hal.fakes.local_topics import JointState, Joy, LocalTopics
from user_hal.local import LocalHal
from user_hal.safety import SafetyConfig
from user_hal.teleops.groups import GroupsConfig, GroupsTeleop

GROUPS = (
    ActionGroup("arm", ActionKind.JOINT_DELTA, 2),
    ActionGroup("base", ActionKind.BASE_TWIST, 2),
)


class MobileArm(Robot):
    """Two joints on a base that goes ahead and turns; time passes by commands."""

    def __init__(self) -> None:
        self.joints, self.base, self.count = np.zeros(2), np.zeros(2), 0

    @property
    def spec(self) -> RobotSpec:
        observation = {
            "arm.joint_position": ArraySpec((2,), names=("a1", "a2")),
            "base.travelled": ArraySpec((2,)),
        }
        action = ArraySpec((4,), low=-1.0, high=1.0, names=("a1", "a2", "base.vx", "base.wz"))
        return RobotSpec(
            "mobile",
            observation,
            action,
            ActionKind.MIXED,
            0.1,
            lockstep=True,
            action_groups=GROUPS,
        )

    def connect(self) -> None: ...

    def read(self) -> Observation:
        arrays = {
            "arm.joint_position": self.joints.astype(np.float32),
            "base.travelled": self.base.astype(np.float32),
        }
        return Observation(arrays, time.time_ns(), self.count, 1)

    def command(self, action: Array) -> Array:
        self.count += 1
        self.joints = self.joints + action[:2]
        self.base = self.base + 0.1 * action[2:]
        return action

    def stop(self) -> None: ...

    def reset(self, seed: int | None = None) -> Observation:
        return self.read()

    def close(self) -> None: ...


def test_the_arm_follows_its_leader_within_its_limits_and_the_base_stands() -> None:
    safety = from_mapping(
        SafetyConfig,
        {
            "groups": {
                "arm": {"step": {"each": [0.05]}},
                "base": {"velocity": {"linear": 0.2, "angular": 0.5}},
            }
        },
    )
    robot, io = MobileArm(), LocalTopics()
    device = PluginChoice(
        plugin="leader",
        params={"topic": "/lead", "buttons_topic": "/pedal", "buttons": {"deadman": 0}},
    )
    teleop = GroupsTeleop(GroupsConfig(devices={"arm": device}))
    teleop.attach(io)
    lead = io.publisher("/lead", "sensor_msgs/msg/JointState")
    pedal = io.publisher("/pedal", "sensor_msgs/msg/Joy")
    with LocalHal(robot, safety) as hal:
        teleop.connect(hal.spec)
        pedal.publish(Joy(buttons=[1]))
        for step in range(1, 41):
            lead.publish(JointState(name=["a1", "a2"], position=[0.04 * min(step, 4), -0.1]))
            newest = hal.observations.newest
            assert newest is not None
            command = teleop.read(newest)
            assert command.engaged
            chunk = ActionChunk(command.action[None], 100_000_000, sequence=step)
            hal.send(chunk)
        np.testing.assert_allclose(robot.joints, [0.16, -0.1], atol=5e-3)
        np.testing.assert_array_equal(robot.base, 0)
        status = hal.status()
        assert status.reasons["step"] >= 1 and not status.refused

        go = np.array([0, 0, 0.9, 0.9], np.float32)
        hal.send(ActionChunk(go[None], 100_000_000, sequence=100))
        np.testing.assert_allclose(robot.base, [0.02, 0.05], atol=1e-5)
    teleop.close()
