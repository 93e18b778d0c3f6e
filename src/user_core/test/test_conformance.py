"""Our own plugins keep the promises, and a plugin that breaks one is caught at it."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from user_core import fakes
from user_core.config import Config
from user_core.conformance import (
    check_algorithm,
    check_camera,
    check_policy,
    check_reward,
    check_robot,
    check_teleop,
)
from user_core.errors import DeviceError, PluginError
from user_core.fakes import (
    FakeCameraConfig,
    FakeRobotConfig,
    FakeTeleopConfig,
    LinearGaussianConfig,
)
from user_core.interfaces import RewardOutcome
from user_core.rewards import TaskReward
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import NO_TASK, AppliedAction

SPEC = fakes.FakeRobot(FakeRobotConfig()).spec


def make_robot(cls=fakes.FakeRobot):
    return cls(FakeRobotConfig(image_size=16))


def make_policy():
    return fakes.LinearGaussianPolicy(LinearGaussianConfig(), SPEC)


def make_algorithm(cls=fakes.RewardWeightedRegression):
    return cls(cls.Config(), SPEC, make_policy())


def broken_promises(report):
    assert not report.passed
    with pytest.raises(PluginError, match="breaks promises"):
        report.require()
    return " | ".join(f"{c.promise}: {c.detail}" for c in report.checks if c.passed is False)


def test_the_fakes_keep_all_promises():
    check_robot(make_robot()).require()
    check_camera(fakes.FakeCamera(FakeCameraConfig())).require()
    robot = make_robot()
    robot.connect()
    check_teleop(fakes.FakeTeleop(FakeTeleopConfig()), SPEC, robot.reset()).require()
    check_policy(make_policy(), SPEC).require()
    check_reward(TaskReward(Config()), SPEC).require()
    check_algorithm(make_algorithm(), make_algorithm(), make_policy(), SPEC).require()


class Reusing(fakes.FakeRobot):
    """Gives the same memory with every observation."""

    def read(self):
        observation = super().read()
        self.kept = getattr(self, "kept", None) or dict(observation.arrays)
        for name, array in observation.arrays.items():
            self.kept[name][...] = array
        object.__setattr__(observation, "arrays", self.kept)
        return observation


class Swallowing(fakes.FakeRobot):
    """Takes NaN."""

    def command(self, action):
        return super().command(np.nan_to_num(action))


class Silent(fakes.FakeRobot):
    """Says that it reports a reward, and does not."""

    def read(self):
        observation = super().read()
        object.__setattr__(observation.task, "reward", math.nan)
        return observation


class Unseeded(fakes.FakeRobot):
    """Ignores the seed."""

    def reset(self, seed=None):
        return super().reset(None)


class Immortal(fakes.FakeRobot):
    """Can be read when closed."""

    def close(self):
        pass


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (Reusing, "shares memory"),
        (Swallowing, "wrong NaN"),
        (Silent, "task_reward is True"),
        (Unseeded, "differs after two resets"),
        (Immortal, "after close"),
    ],
)
def test_a_robot_that_breaks_a_promise_is_caught(cls, promise):
    assert promise in broken_promises(check_robot(make_robot(cls)))


class Late(fakes.FakeRobot):
    """In real time; a new reading comes every ``every_s`` seconds."""

    every_s = 0.0

    def __init__(self, config):
        super().__init__(config)
        self._spec = replace(self._spec, lockstep=False, period_s=0.05)
        self.made_ns = time.time_ns()

    def read(self):
        every_ns, age_ns = round(self.every_s * 1e9), time.time_ns() - self.made_ns
        return replace(super().read(), stamp_ns=self.made_ns + age_ns // every_ns * every_ns)


@pytest.mark.parametrize(("every_s", "caught"), [(0.3, False), (1e9, True)])
def test_a_reading_that_comes_late_is_not_an_old_one_for_ever(every_s, caught, monkeypatch):
    monkeypatch.setattr(Late, "every_s", every_s)
    text = str(check_robot(make_robot(Late), steps=1).checks)
    assert ("the stamp is still the same" in text) == caught, text


def test_a_camera_with_an_old_image_is_caught():
    class Stalled(fakes.FakeCamera):
        def read(self):
            self._sequence = 1
            return super().read()

    report = check_camera(Stalled(FakeCameraConfig()), timeout_s=0.05)
    assert "no new image" in broken_promises(report)


def test_a_policy_out_of_bounds_is_caught():
    class Wild(fakes.LinearGaussianPolicy):
        def act(self, observation, *, deterministic=False):
            return super().act(observation, deterministic=deterministic) + np.float32(2)

    assert "above the bounds" in broken_promises(
        check_policy(Wild(LinearGaussianConfig(), SPEC), SPEC)
    )


def test_a_reward_with_a_memory_is_caught():
    class Counting(TaskReward):
        count = 0

        def __call__(self, *step):
            self.count += 1
            return RewardOutcome(self.count)

    assert "depend on what was judged before" in broken_promises(
        check_reward(Counting(Config()), SPEC)
    )


def test_an_algorithm_that_forgets_is_caught():
    class Forgetful(fakes.RewardWeightedRegression):
        def load_state(self, state):
            pass

    report = check_algorithm(make_algorithm(), make_algorithm(Forgetful), make_policy(), SPEC)
    assert "goes on exactly alike" in broken_promises(report)


class Unreachable(fakes.FakeRobot):
    """Is not there."""

    def connect(self):
        raise DeviceError("nobody answers")


def test_a_robot_that_is_not_there_breaks_one_promise_only():
    report = check_robot(make_robot(Unreachable))
    assert broken_promises(report) == "connect reaches the robot: DeviceError: nobody answers"
    assert report.checks[-1].promise.startswith("close")


class Absolute(fakes.FakeRobot):
    """Goes to joint positions within wide bounds; starts near one end of them."""

    def __init__(self, config):
        super().__init__(config)
        joints = ArraySpec((2,), "float32", unit="rad")
        self._spec = RobotSpec(
            "absolute",
            {"joint_position": joints},
            ArraySpec((3,), "float32", (-6.0, -6.0, 0.0), (6.0, 6.0, 1.0)),
            ActionKind.JOINT_POSITION,
            lockstep=True,
        )
        self.at, self.farthest = np.array([5.0, -5.0], np.float32), 0.0

    def read(self):
        observation = super().read()
        return replace(observation, arrays={"joint_position": self.at.copy()}, task=NO_TASK)

    def command(self, action):
        self._require_connection()
        self._spec.action.check(action, "action")
        self.farthest = max(self.farthest, float(np.abs(action[:2] - [5.0, -5.0]).max()))
        self.at = action[:2].copy()
        self._applied = AppliedAction(action, 1)
        return action


def test_absolute_targets_stay_near_the_start():
    robot = make_robot(Absolute)
    check_robot(robot, motion=1.0).require()
    assert 0.05 < robot.farthest < 0.101
