"""The devices: what comes out when somebody moves them."""

from __future__ import annotations

import os
import pty
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from user_core.conformance import check_teleop
from user_core.errors import DeviceError, DeviceNotConnected, DeviceTimeout, PluginError
from user_hal.fakes.local_topics import LocalTopics
from user_hal.teleops.hand_device import ButtonsConfig, EngagementConfig, JogConfig
from user_hal.teleops.keyboard import KeyboardConfig, KeyboardTeleop
from user_hal.teleops.spacemouse import SpaceMouseConfig, SpaceMouseTeleop
from user_hal.teleops.topics import JoyConfig, JoyTeleop, TwistConfig, TwistTeleop
from user_testing.waiting import wait_until
from user_testing.worlds.robots.teleop import Seconds, robot, seen

NO_BAND = JogConfig(deadband=0.0)


def joy(axes: list[float], pressed: tuple[int, ...] = ()) -> SimpleNamespace:
    """A message of sensor_msgs/Joy."""
    return SimpleNamespace(axes=axes, buttons=[int(i in pressed) for i in range(11)])


def twist(x: float, rz: float = 0.0) -> SimpleNamespace:
    """A message of geometry_msgs/TwistStamped."""
    vector = SimpleNamespace
    return SimpleNamespace(
        twist=SimpleNamespace(linear=vector(x=x, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=rz))
    )


def joy_teleop(clock: Seconds, **options: object) -> JoyTeleop:
    teleop = JoyTeleop(JoyConfig(jog=NO_BAND, **options), clock_s=clock)
    teleop.attach(LocalTopics())
    teleop.connect(robot())
    return teleop


def test_joy_drives_while_the_dead_man_button_is_held() -> None:
    teleop = joy_teleop(Seconds())
    stick = [0.0, 1.0, 0.0, 0.0, -0.5]
    teleop.take(joy([0.0] * 5))
    teleop.take(joy(stick))
    assert not teleop.read(seen()).engaged
    teleop.take(joy(stick, pressed=(5,)))
    command = teleop.read(seen())
    assert command.engaged
    np.testing.assert_allclose(command.action, [0.5, 0.0, -0.25, 0.0, 1.0])
    teleop.take(joy(stick))
    command = teleop.read(seen())
    assert not command.engaged and not command.action[:4].any()


def test_a_joy_that_falls_silent_drives_no_more() -> None:
    clock = Seconds()
    teleop = joy_teleop(clock)
    teleop.take(joy([0.0, 1.0], pressed=(5,)))
    assert teleop.read(seen()).engaged
    clock.now_s += 0.6
    command = teleop.read(seen())
    assert not command.engaged and not command.action[:4].any()


def test_buttons_count_once_when_they_go_down() -> None:
    teleop = joy_teleop(Seconds())
    teleop.take(joy([], pressed=(3,)))
    teleop.take(joy([], pressed=(3, 0)))
    first, second = teleop.read(seen()), teleop.read(seen())
    assert first.success and not first.failure and not second.success
    assert first.action[-1] == 0.0  # closed, and stays so
    assert second.action[-1] == 0.0
    teleop.take(joy([], pressed=(1, 6, 2)))
    command = teleop.read(seen())
    assert command.failure and command.abort and command.action[-1] == 1.0


def test_a_joy_with_few_axes_and_buttons_is_taken_as_it_is() -> None:
    teleop = joy_teleop(Seconds(), signs=(-1.0,) * 6)
    teleop.take(SimpleNamespace(axes=[0.0, 0.0], buttons=[0, 0, 0, 0, 0, 0]))
    teleop.take(SimpleNamespace(axes=[0.0, 0.5], buttons=[0, 0, 0, 0, 0, 1]))
    np.testing.assert_allclose(teleop.read(seen()).action[:4], [-0.25, 0, 0, 0])


def test_twist_takes_over_by_deflection_and_hands_back_after_a_while() -> None:
    clock = Seconds()
    config = TwistConfig(
        full_linear_m_s=0.2,
        jog=NO_BAND,
        engagement=EngagementConfig(enter=0.2, leave=0.1, hold_s=0.3),
        buttons_topic="joy",
    )
    io = LocalTopics()
    teleop = TwistTeleop(config, clock_s=clock)
    with pytest.raises(DeviceNotConnected, match="attach"):
        teleop.connect(robot())
    teleop.attach(io)
    teleop.connect(robot())
    out = io.publisher("twist", "geometry_msgs/msg/TwistStamped")

    def publish(x: float) -> None:
        message = out.new()
        message.twist.linear.x = x
        out.publish(message)

    publish(0.02)
    assert not teleop.read(seen()).engaged
    publish(0.1)
    command = teleop.read(seen())
    assert command.engaged and command.action[0] == pytest.approx(0.25)
    publish(0.0)
    assert teleop.read(seen()).engaged
    clock.now_s += 0.31
    publish(0.0)
    assert not teleop.read(seen()).engaged
    teleop.take_buttons(joy([], pressed=(1,)))
    assert teleop.read(seen()).action[-1] == 0.0
    teleop.close()
    publish(0.2)
    teleop.connect(robot())
    assert not teleop.read(seen()).engaged


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A pseudo terminal: the end that types, and the name of the other."""
    master, slave = pty.openpty()
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_keys_in_a_real_terminal_drive(terminal) -> None:
    master, name = terminal
    teleop = KeyboardTeleop(KeyboardConfig(device=name, release_s=0.15, jog=NO_BAND,
                                           engagement=EngagementConfig(hold_s=0.05)))  # fmt: skip
    teleop.connect(robot())
    try:
        os.write(master, b"wq")
        wait_until(lambda: teleop.read(seen()).engaged)
        np.testing.assert_allclose(teleop.read(seen()).action[:3], [0.5, 0, 0.5])
        wait_until(lambda: not teleop.read(seen()).engaged)  # nobody types: the keys went up
        os.write(master, b" 1")
        labels = []
        wait_until(lambda: labels.append(teleop.read(seen())) or labels[-1].success)
        assert labels[-1].action[-1] == 0.0 and not labels[-1].engaged
    finally:
        teleop.close()


def test_opposite_keys_cancel(terminal) -> None:
    clock = Seconds()
    teleop = KeyboardTeleop(KeyboardConfig(device=terminal[1]), clock_s=clock)
    teleop._jog = None
    for key in "wsA".lower():
        teleop.press(key)
    teleop.settle()
    assert teleop._state is not None
    assert list(teleop._state.axes) == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_the_terminal_is_given_back_as_it_was(terminal) -> None:
    import termios

    fd = os.open(terminal[1], os.O_RDONLY | os.O_NOCTTY)
    before = termios.tcgetattr(fd)
    teleop = KeyboardTeleop(KeyboardConfig(device=terminal[1]))
    teleop.connect(robot())
    assert termios.tcgetattr(fd)[3] != before[3]
    teleop.close()
    assert termios.tcgetattr(fd)[3] == before[3]
    os.close(fd)


def test_without_a_terminal_the_error_says_what_to_do(tmp_path) -> None:
    teleop = KeyboardTeleop(KeyboardConfig(device=str(tmp_path / "none")))
    with pytest.raises(DeviceError, match="terminal of its own"):
        teleop.connect(robot())


def fake_pyspacemouse(state: SimpleNamespace) -> types.ModuleType:
    """The part of pyspacemouse 2.1 that is used, with a device that shows ``state``."""
    module = types.ModuleType("pyspacemouse")

    class Device:
        closed = False

        def read(self) -> SimpleNamespace:
            if state.unplugged:
                raise OSError("No such device")
            return state

        def close(self) -> None:
            self.closed = True

    module.AxisConvention = SimpleNamespace(ROS="ros")
    module.get_connected_devices = lambda: ["SpaceMouse Compact"]
    module.opened = []

    def open_device(**options: object) -> Device:
        module.opened.append((options, Device()))
        return module.opened[-1][1]

    module.open = open_device
    return module


def test_a_spacemouse_drives_and_says_when_it_is_unplugged(monkeypatch) -> None:
    state = SimpleNamespace(
        x=0.5, y=0.0, z=-1.0, roll=0.0, pitch=0.0, yaw=0.0, buttons=[0, 0], unplugged=False
    )
    module = fake_pyspacemouse(state)
    monkeypatch.setitem(sys.modules, "pyspacemouse", module)
    assert [found.name for found in SpaceMouseTeleop.discover()] == ["SpaceMouse Compact"]
    teleop = SpaceMouseTeleop(SpaceMouseConfig(jog=NO_BAND, buttons=ButtonsConfig(close=1)))
    teleop.connect(robot())
    try:
        assert module.opened[0][0] == {"device": None, "axis_convention": "ros"}
        wait_until(lambda: teleop.read(seen()).engaged)
        np.testing.assert_allclose(teleop.read(seen()).action[:3], [0.25, 0, -0.5])
        state.buttons = [0, 1]
        wait_until(lambda: teleop.read(seen()).action[-1] == 0.0)
        state.unplugged = True

        def unplugged() -> bool:
            try:
                teleop.read(seen())
            except DeviceTimeout as error:
                return "No such device" in str(error)
            return False

        wait_until(unplugged)
    finally:
        teleop.close()
    assert module.opened[0][1].closed


def test_without_pyspacemouse_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspacemouse", None)
    with pytest.raises(PluginError, match="pip install 'pyspacemouse"):
        SpaceMouseTeleop(SpaceMouseConfig()).connect(robot())
    assert SpaceMouseTeleop.discover() == ()


def test_the_devices_keep_the_promises_of_a_teleop(terminal) -> None:
    joy_device, twist_device = JoyTeleop(JoyConfig()), TwistTeleop(TwistConfig())
    for device in (joy_device, twist_device):
        device.attach(LocalTopics())
        check_teleop(device, robot(), seen()).require()
    check_teleop(KeyboardTeleop(KeyboardConfig(device=terminal[1])), robot(), seen()).require()
