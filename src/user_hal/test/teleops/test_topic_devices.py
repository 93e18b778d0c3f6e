"""Devices on topics as people really have them: triggers, silence, wrong types, turned mounts."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.errors import ConfigError
from user_core.reasons import DEVICE_MISFITS, DEVICE_SILENT
from user_hal.fakes.local_topics import LocalTopics
from user_hal.teleops.hand_device import AxisButtonsConfig, ButtonsConfig, JogConfig
from user_hal.teleops.topics import JoyConfig, JoyTeleop, TwistConfig, TwistTeleop
from user_testing.worlds.robots.teleop import Seconds, robot, seen

NO_BAND = JogConfig(deadband=0.0)
TRIGGERS = {"axes": (1, 0, 5), "rest": (0, 0, 1, 0, 0, 1)}


class Pad:
    """A gamepad of LocalTopics, and the teleop that listens to it."""

    def __init__(self, **options: Any) -> None:
        self.io, self.clock = LocalTopics(), Seconds()
        self.teleop = JoyTeleop(JoyConfig(jog=NO_BAND, **options), clock_s=self.clock)
        self.teleop.attach(self.io)
        self.teleop.connect(robot())
        self.publisher = self.io.publisher("joy", "sensor_msgs/msg/Joy")

    def says(self, axes: list[float], *pressed: int, buttons: int = 11) -> Any:
        message = SimpleNamespace(axes=axes, buttons=[int(i in pressed) for i in range(buttons)])
        self.publisher.publish(message)
        return self.teleop.read(seen())


def test_a_trigger_counts_from_its_rest_and_only_after_it_was_touched() -> None:
    pad = Pad(**TRIGGERS)
    assert not pad.says([0, 0, 0, 0, 0, 0], 5).action[:4].any()  # drivers show 0 before a touch
    assert pad.says([0, 0, 0, 0, 0, -1], 5).action[2] == pytest.approx(0.5)  # pressed fully
    assert pad.says([0, 0, 0, 0, 0, 0], 5).action[2] == pytest.approx(0.25)
    assert not pad.says([0, 0, 0, 0, 0, 1], 5).action[:4].any()  # let go


def test_an_axis_whose_range_nobody_told_stands_still_at_its_first_value() -> None:
    pad = Pad(axes=(1, 0, 5))
    for _ in range(3):
        assert not pad.says([0, 0, 0, 0, 0, 1], 5).action[:4].any()


def test_two_triggers_are_one_axis() -> None:
    pad = Pad(axes=(1, 0, 5), minus_axes=(-1, -1, 2), rest=(0, 0, 1, 0, 0, 1))
    pad.says([0, 0, 1, 0, 0, 1], 5)
    assert pad.says([0, 0, 1, 0, 0, -1], 5).action[2] == pytest.approx(0.5)
    assert pad.says([0, 0, -1, 0, 0, 1], 5).action[2] == pytest.approx(-0.5)
    assert not pad.says([0, 0, -1, 0, 0, -1], 5).action[:4].any()


def test_ranges_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="axis 1"):
        JoyConfig(rest=(0.0, 1.0), full=(1.0, 1.0))
    with pytest.raises(ConfigError, match="open"):
        AxisButtonsConfig(open="7")


def test_gripper_and_labels_on_a_d_pad_and_the_dead_man_on_a_trigger() -> None:
    axis_buttons = AxisButtonsConfig(deadman="+5", open="+7", close="-7", success="+6")
    pad = Pad(rest=(0, 0, 1, 0, 0, 1), axis_buttons=axis_buttons, buttons=ButtonsConfig())
    at_rest = [0.0, 0, 1, 0, 0, 1, 0, 0]
    assert not pad.says([0.0] * 8).engaged  # never touched
    assert not pad.says(at_rest).engaged
    command = pad.says([0, 0, 1, 0, 0, -1, 0, -1])
    assert command.engaged and command.action[-1] == 0.0
    assert pad.says([0, 0, 1, 0, 0, -1, 0, 1]).action[-1] == 1.0
    assert pad.says([0, 0, 1, 0, 0, 1, 1, 0]).success
    assert not pad.says([0, 0, 1, 0, 0, 1, 1, 0]).success


def test_a_gripper_follows_an_axis_and_a_button_toggles_it() -> None:
    pad = Pad(gripper_axis=5, rest=(0, 0, 0, 0, 0, 1), buttons=ButtonsConfig(deadman=5, toggle=2))
    assert pad.says([0, 0, 0, 0, 0, 0], 5).action[-1] == 1.0  # as it is: nobody touched it
    assert pad.says([0, 0, 0, 0, 0, -1], 5).action[-1] == pytest.approx(0.0)
    assert pad.says([0, 0, 0, 0, 0, 0.5], 5).action[-1] == pytest.approx(0.75)
    pad.says([0, 0, 0, 0, 0, 1], 5)
    assert pad.says([0, 0, 0, 0, 0, 1], 5, 2).action[-1] == 0.0
    assert pad.says([0, 0, 0, 0, 0, 1], 5, 2).action[-1] == 0.0


def test_a_device_that_does_not_repeat_is_held_while_its_publisher_lives() -> None:
    pad = Pad(repeats=False)
    pad.says([0.0] * 6)
    pad.says([0, 1.0, 0, 0, 0, 0], 5)
    pad.clock.now_s += 30.0
    command = pad.teleop.read(seen())
    assert command.engaged and command.action[0] == pytest.approx(0.5)
    assert not pad.teleop.trouble()
    pad.publisher.close()
    command = pad.teleop.read(seen())
    assert not command.engaged and not command.action[:4].any()
    assert "nobody publishes joy any more" in str(pad.teleop.trouble())


def test_silence_of_a_device_that_should_repeat_is_explained(caplog) -> None:
    pad = Pad()
    pad.says([0.0] * 6)
    assert pad.says([0, 1.0, 0, 0, 0, 0], 5).engaged
    pad.clock.now_s += 0.6
    assert not pad.teleop.read(seen()).engaged
    assert pad.teleop.trouble().code == DEVICE_SILENT
    assert "autorepeat_rate" in str(pad.teleop.trouble()) and "autorepeat_rate" in caplog.text


def test_a_device_is_not_well_until_it_is_heard_and_the_reason_is_said() -> None:
    io = LocalTopics()
    teleop = JoyTeleop(JoyConfig(), clock_s=Seconds())
    assert not teleop.trouble()  # not open
    teleop.attach(io)
    teleop.connect(robot())
    assert teleop.trouble().code == DEVICE_SILENT
    assert "nobody publishes joy" in str(teleop.trouble())
    wrong = io.publisher("joy", "std_msgs/msg/Float64")
    assert "carries std_msgs/msg/Float64, not sensor_msgs/msg/Joy" in str(teleop.trouble())
    wrong.close()
    right = io.publisher("joy", "sensor_msgs/msg/Joy")
    assert "no message came yet" in str(teleop.trouble())
    right.publish(SimpleNamespace(axes=[0.0] * 5, buttons=[0] * 7))
    assert not teleop.trouble()


def test_buttons_and_axes_that_the_device_has_not_are_named() -> None:
    pad = Pad()
    pad.says([0.0, 0.0], buttons=4)
    reason = pad.teleop.trouble()
    assert reason.code == DEVICE_MISFITS
    assert "deadman is button 5 of 4" in str(reason) and "z is axis 4 of 2" in str(reason)


@pytest.mark.parametrize("kind", ["Twist", "TwistStamped"])
@pytest.mark.parametrize("before", [True, False])
def test_the_twist_teleop_takes_both_types(kind: str, before: bool) -> None:
    io, clock = LocalTopics(), Seconds()
    teleop = TwistTeleop(TwistConfig(topic="/spacenav/twist", jog=NO_BAND), clock_s=clock)
    teleop.attach(io)
    if not before:
        teleop.connect(robot())
    publisher = io.publisher("/spacenav/twist", f"geometry_msgs/msg/{kind}")
    if before:
        teleop.connect(robot())
    clock.now_s += 1.1
    teleop.read(seen())
    message = publisher.new()
    getattr(message, "twist", message).linear.x = 0.5
    publisher.publish(message)
    command = teleop.read(seen())
    assert command.engaged and command.action[0] == pytest.approx(0.25)
    assert not teleop.trouble()


def test_buttons_that_nobody_publishes_are_named() -> None:
    buttons = ButtonsConfig(deadman=3)
    teleop = TwistTeleop(TwistConfig(buttons_topic="pedal", buttons=buttons), clock_s=Seconds())
    teleop.attach(LocalTopics())
    teleop.connect(robot())
    still = SimpleNamespace(x=0.0, y=0.0, z=0.0)
    teleop.take(SimpleNamespace(linear=still, angular=still))
    assert "nobody publishes pedal" in str(teleop.trouble())
    teleop.take_buttons(SimpleNamespace(buttons=[0, 0]))
    assert "deadman is button 3 of 2" in str(teleop.trouble())


def test_a_mouse_that_is_mounted_turned_moves_the_robot_where_it_is_pushed() -> None:
    config = TwistConfig(jog=NO_BAND, mounted_rpy_rad=(0.0, 0.0, math.pi / 2))
    teleop = TwistTeleop(config, clock_s=Seconds())
    teleop.attach(LocalTopics())
    teleop.connect(robot())
    vector = SimpleNamespace
    push = vector(linear=vector(x=1.0, y=0.0, z=0.2), angular=vector(x=0.0, y=0.0, z=-0.4))
    teleop.take(push)
    np.testing.assert_allclose(teleop.read(seen()).action[:4], [0, 0.5, 0.1, -0.2], atol=1e-6)
    flipped = TwistTeleop(TwistConfig(jog=NO_BAND, signs=(-1, 1, 1, 1, 1, 1)), clock_s=Seconds())
    flipped.attach(LocalTopics())
    flipped.connect(robot())
    flipped.take(push)
    assert flipped.read(seen()).action[0] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("layout", "axes", "deadman", "success", "abort"),
    [
        ("xbox", [0, 1, 0, 0, 0, 0, 0, 0], 5, 3, 6),
        ("playstation", [0, 1, 1, 0, 0, 1, 0, 0], 5, 2, 8),
        ("game_controller", [0, 1, 0, 0, 0, 0], 10, 3, 4),
    ],
)
def test_pads_of_each_kind_work_as_they_are(
    layout: str, axes: list[float], deadman: int, success: int, abort: int
) -> None:
    pad = Pad(layout=layout)
    rest = [0.0 if number == 1 else value for number, value in enumerate(axes)]
    pad.says(rest, buttons=21)
    command = pad.says(axes, deadman, buttons=21)
    assert command.engaged and command.action[0] > 0
    assert not any((command.success, command.failure, command.abort))
    assert pad.says(axes, deadman, success, buttons=21).success
    assert pad.says(axes, deadman, abort, buttons=21).abort
    assert not pad.teleop.trouble()


def test_what_is_given_wins_over_the_layout() -> None:
    config = JoyConfig(layout="playstation", axes=(1, 0, 5)).laid_out()
    assert config.axes == (1, 0, 5) and config.rest[2] == 1.0 and config.buttons.abort == 8


def test_a_publisher_that_does_not_fit_is_named_with_the_policy() -> None:
    class Unfit(LocalTopics):
        def endpoints(self, topic: str) -> Any:
            return [SimpleNamespace(
                node="/pad/joy", type_name="sensor_msgs/msg/Joy", reliability="reliable",
                durability="volatile", deadline_s=0.0, liveliness="unknown"
            )], []  # fmt: skip

    teleop = JoyTeleop(JoyConfig())
    teleop.attach(Unfit())
    teleop.connect(robot())
    assert "nobody publishes" in teleop.trouble().text

    class Other(Unfit):
        def endpoints(self, topic: str) -> Any:
            publishers, subscriptions = super().endpoints(topic)
            publishers[0].type_name = "sensor_msgs/msg/JoyFeedback"
            return publishers, subscriptions

    teleop = JoyTeleop(JoyConfig())
    teleop.attach(Other())
    teleop.connect(robot())
    text = teleop.trouble().text
    assert "/pad/joy" in text and "quality of service" in text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_let_go_and_are_told(bad: float) -> None:
    pad = Pad()
    pad.says([0.0] * 6, 5)
    assert pad.says([0, 1, 0, 0, 0, 0], 5).engaged
    odd = pad.says([0, bad, 0, 0, 0, 0], 5)
    assert not odd.engaged and np.isfinite(odd.action).all() and not odd.action[:4].any()
    assert pad.teleop.trouble().code == DEVICE_MISFITS
    assert pad.says([0, 1, 0, 0, 0, 0], 5).engaged

    mouse = Mouse()
    assert mouse.says(1.0).engaged
    assert not mouse.says(bad).action[:4].any()
    assert "not finite" in mouse.teleop.trouble().text


class Mouse:
    """A twist of LocalTopics, and the teleop that listens to it."""

    def __init__(self, **options: Any) -> None:
        self.io = LocalTopics()
        self.teleop = TwistTeleop(TwistConfig(jog=NO_BAND, **options), clock_s=Seconds())
        self.teleop.attach(self.io)
        self.teleop.connect(robot())
        self.publisher = self.io.publisher("twist", "geometry_msgs/msg/TwistStamped")

    def says(self, x: float, turn: float = 0.0) -> Any:
        message = self.publisher.new()
        message.twist.linear.x, message.twist.angular.z = x, turn
        self.publisher.publish(message)
        return self.teleop.read(seen())


def test_a_device_in_other_units_is_told() -> None:
    """Raw counts of a SpaceMouse (to 350), raw axes of a joystick (to 32767)."""
    mouse = Mouse()
    mouse.says(0.9)
    assert not mouse.teleop.trouble()
    mouse.says(350.0)
    assert "a touch is full speed" in mouse.teleop.trouble().text
    mouse = Mouse(full_linear_m_s=350.0)
    mouse.says(350.0)
    assert not mouse.teleop.trouble()

    pad = Pad()
    pad.says([0.0] * 6, 5)
    assert not pad.teleop.trouble()
    pad.says([0, 20000.0, 0, 0, 0, 0], 5)
    assert "beyond -1 to 1 (axis 1: 20000)" in pad.teleop.trouble().text
