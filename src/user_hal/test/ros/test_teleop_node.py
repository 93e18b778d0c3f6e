"""The teleop node as a process, beside a hal: from a device's messages to interventions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sensor_msgs.msg import Joy

from user_comm import topics
from user_comm.converters import Intervention, intervention_from_message
from user_comm.converters.robot import label_of
from user_core.types import Label
from user_testing.worlds.hal_node import NAMESPACE, Client, HalProcess

DEADMAN, OPEN, SUCCESS = 5, 2, 3


class Pad:
    """Publishes what a gamepad's ROS driver does, at 50 Hz."""

    def __init__(self, client: Client) -> None:
        self._publisher = client.node.create_publisher(Joy, "joy", 1)
        self.axes, self.pressed = [0.0] * 6, set[int]()
        self.silent = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            if not self.silent:
                buttons = [int(i in self.pressed) for i in range(8)]
                self._publisher.publish(Joy(axes=self.axes, buttons=buttons))

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def pad(client: Client) -> Iterator[Pad]:
    pad = Pad(client)
    yield pad
    pad.close()


@pytest.fixture(scope="module")
def wishes(client: Client, pad: Pad, tmp_path_factory: Any) -> Iterator[list[Intervention]]:
    """The interventions of a teleop node that stands beside a hal."""
    wishes: list[Intervention] = []
    client.hear(topics.INTERVENTION, lambda m: wishes.append(intervention_from_message(m)))
    command = [sys.executable, "-m", "user_hal.nodes.teleop", "--ros-args"]
    command += ["-r", f"__ns:={NAMESPACE}", "-p", "autostart:=true", "-p", "teleop.plugin:=joy"]
    process = subprocess.Popen(command, env=dict(os.environ))
    try:
        with HalProcess(tmp_path_factory.mktemp("hal")):
            client.wait_for(lambda: wishes, 30.0)
            yield wishes
    finally:
        process.kill()
        process.wait()


def test_every_observation_is_answered(wishes, client) -> None:
    client.wait_for(lambda: len(wishes) > 40)
    answered = [wish.observation_sequence for wish in wishes[10:40]]
    assert answered == sorted(set(answered))  # each once, in order
    # Commands are kept one deep: on a busy machine a newer answer overtakes some.
    assert answered[-1] - answered[0] < 2 * len(answered)
    assert wishes[-1].device == "joy" and not wishes[-1].scripted


def test_a_person_drives_while_the_dead_man_button_is_held(wishes, client, pad) -> None:
    pad.axes[1] = 0.5
    client.wait_for(lambda: not wishes[-1].command.engaged)
    pad.pressed.add(DEADMAN)
    client.wait_for(lambda: wishes[-1].command.engaged)
    x = float(wishes[-1].command.action[0])
    assert 0.02 < x < 0.03  # half of the largest step, less the deadband
    pad.pressed.clear()
    client.wait_for(lambda: not wishes[-1].command.engaged)


def test_a_device_that_falls_silent_lets_go(wishes, client, pad) -> None:
    pad.pressed.add(DEADMAN)
    client.wait_for(lambda: wishes[-1].command.engaged)
    pad.silent = True
    client.wait_for(lambda: not wishes[-1].command.engaged)
    pad.silent = False
    client.wait_for(lambda: wishes[-1].command.engaged)
    pad.pressed.clear()


def test_a_verdict_is_said_once(wishes, client, pad) -> None:
    before = len(wishes)
    pad.pressed.add(SUCCESS)
    client.wait_for(lambda: any(label_of(w.command) is Label.SUCCESS for w in wishes[before:]))
    client.wait_for(lambda: len(wishes) > before + 30)
    said = [w for w in wishes[before:] if label_of(w.command) is Label.SUCCESS]
    assert len(said) == 1
    pad.pressed.clear()


def test_a_device_that_nobody_hears_is_not_called_connected(wishes, client) -> None:
    command = [sys.executable, "-m", "user_hal.nodes.teleop", "--ros-args"]
    command += ["-r", f"__ns:={NAMESPACE}", "-r", "__node:=deaf", "-p", "autostart:=true"]
    command += ["-p", "teleop.plugin:=joy", "-p", "teleop.params.topic:=nowhere"]
    process = subprocess.Popen(command, env=dict(os.environ))

    def said() -> Any:
        return client.diagnostics.get(f"{NAMESPACE.lstrip('/')}/deaf: device")

    def says(what: str) -> bool:
        return said() is not None and what in said().message

    publisher = None
    try:
        client.wait_for(lambda: says("nobody publishes /r0/nowhere"), 30.0)
        assert said().level == b"\x01"
        publisher = client.node.create_publisher(Joy, "nowhere", 1)
        client.wait_for(lambda: says("no message came yet"))

        def fits(buttons: int, what: str) -> bool:
            publisher.publish(Joy(axes=[0.0] * 6, buttons=[0] * buttons))
            return says(what)

        client.wait_for(lambda: fits(4, "deadman is button 5 of 4"))
        client.wait_for(lambda: fits(8, "joy is connected"))
    finally:
        process.kill()
        process.wait()
        if publisher is not None:
            client.node.destroy_publisher(publisher)
