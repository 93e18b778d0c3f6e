"""A gripper that is closed, held or opened, in place of an opening; and how a person chooses."""

from dataclasses import replace

import numpy as np
import pytest

from user_core.errors import ConfigError, SpecError
from user_core.fakes import FakeRobot
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Observation
from user_hal.robots.gripper_choices import (
    CLOSE,
    HOLD,
    OPEN,
    RobotWithGripperChoices,
    with_gripper_choices,
)
from user_hal.teleops.hand_device import Jog, JogConfig

SPEC = RobotSpec(
    "r", {"gripper": ArraySpec((1,)), "x": ArraySpec((2,))},
    ArraySpec((3,), low=(-1.0, -1.0, 0.1), high=(1.0, 1.0, 0.9), names=("dx", "dy", "gripper")),
    ActionKind.EE_DELTA, grippers=(2,),
)  # fmt: skip


class Arm(FakeRobot):
    """Remembers what it was sent, and has a gripper that is half open at first."""

    def __init__(self):
        self.sent, self.opening, self.stops, self.notes = [], 0.5, 0, ("mine",)

    @property
    def spec(self):
        return SPEC

    def connect(self):
        pass

    def read(self):
        return Observation({"gripper": np.array([self.opening], np.float32)}, 0, 1, 1)

    def command(self, action):
        self.sent.append(action.tolist())
        return np.clip(action, SPEC.action.low_array, SPEC.action.high_array * [0.5, 1, 1]).astype(
            np.float32
        )

    def stop(self):
        self.stops += 1

    def reset(self, seed=None):
        return self.read()

    def close(self):
        pass


def act(dx, choice):
    return np.array([dx, 0, choice], np.float32)


def test_the_spec_has_a_choice_in_place_of_the_opening():
    spec = with_gripper_choices(SPEC)
    assert (spec.action.categorical, spec.action.counts, spec.hold_choices) == ((2,), (3,), (HOLD,))
    assert spec.action.low == (-1.0, -1.0, 0.0) and spec.action.high == (1.0, 1.0, 2.0)
    assert spec.grippers == (2,) and spec.action_kind is ActionKind.EE_DELTA


def test_close_hold_and_open_move_the_gripper_and_hold_keeps_what_was_commanded():
    robot = RobotWithGripperChoices(arm := Arm())
    robot.connect()
    robot.reset()
    for choice in (HOLD, OPEN, HOLD, CLOSE, HOLD):
        executed = robot.command(act(0.9, choice))
        assert executed.tolist() == pytest.approx(
            [0.5, 0, choice]
        )  # what the driver shortened, and the choice
    openings = [sent[2] for sent in arm.sent]
    assert openings == pytest.approx([0.5, 0.9, 0.9, 0.1, 0.1])  # 0.5 of 0.1 to 0.9 was measured
    arm.opening = 0.75
    robot.stop()
    robot.read()
    robot.command(act(0, HOLD))
    assert arm.sent[-1][2] == pytest.approx(0.1 + 0.75 * 0.8) and arm.stops == 1
    assert robot.notes == ("mine",)  # what else a driver has
    with pytest.raises(SpecError, match="gripper.*choices, 0 to 2"):
        robot.command(act(0, 0.5))


def test_a_robot_without_a_gripper_is_refused():
    with pytest.raises(ConfigError, match="0 grippers"):
        with_gripper_choices(replace(SPEC, grippers=()))


def test_a_persons_gripper_button_chooses_and_without_one_the_gripper_is_held():
    jog = Jog(JogConfig(), with_gripper_choices(SPEC))
    half = {"gripper": np.array([0.5], np.float32)}
    for opening, choice in ((None, HOLD), (0.0, CLOSE), (1.0, OPEN)):
        action = jog.action([1.0, 0, 0, 0, 0, 0], opening, half)
        assert action.tolist() == [1.0, 0.0, choice]


def discrete(count, hold=()):
    action = ArraySpec((1,), "int64", 5, 4 + count, categorical=(0,))
    return RobotSpec("r", SPEC.observation, action, ActionKind.DISCRETE, hold_choices=hold)


@pytest.mark.parametrize(
    ("axes", "choice"),
    [([1], 5), ([-1], 6), ([0, 1], 7), ([0, -1], 8), ([0.6, -0.9], 8), ([0, 0, 0.9], 8)],
)
def test_one_choice_is_made_by_direction(axes, choice):
    jog = Jog(JogConfig(), discrete(4))
    action = jog.action(axes, None, {})
    assert action.dtype == np.int64 and action.tolist() == [choice]
    assert jog.action([0.2], None, {}).tolist() == [choice]  # who deflects nothing goes on


def test_who_deflects_nothing_chooses_what_changes_nothing():
    assert Jog(JogConfig(), discrete(4, hold=(6,))).action([], None, {}).tolist() == [6]
    assert Jog(JogConfig(), discrete(3)).action([], None, {}).tolist() == [6]
    with pytest.raises(ConfigError, match="13 choices.*twelve|12"):
        Jog(JogConfig(), discrete(13))


def test_several_choices_have_an_axis_each():
    action = ArraySpec((3,), "int64", 0, (1, 2, 4), categorical=(0, 1, 2))
    jog = Jog(JogConfig(), RobotSpec("r", SPEC.observation, action, ActionKind.DISCRETE))
    assert jog.action([1, 1, 1], None, {}).tolist() == [1, 2, 4]
    assert jog.action([-1, 0, 0], None, {}).tolist() == [0, 1, 4]
