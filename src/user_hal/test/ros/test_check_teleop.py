"""`user check teleop` with a device on real topics, and without a terminal."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from user_comm.topic_io import open_topic_io
from user_core.config import parse_parameters
from user_hal.cli.check_teleop import main


@pytest.fixture(scope="module")
def pad() -> Iterator[dict[str, Any]]:
    """A gamepad that is moved all the time, on /pad/joy; its stick 1 and button 4 are used."""
    end = threading.Event()
    with open_topic_io("pad") as topics:
        publisher = topics.publisher("/pad/joy", "sensor_msgs/msg/Joy")

        def play() -> None:
            count = 0
            while not end.wait(0.05):
                count += 1
                message = publisher.new()
                message.axes = [0.0, 0.5 if count % 20 > 10 else 0.0, 0.0, 0.0, 0.0, 0.0]
                message.buttons = [0, 0, 0, int(count % 20 == 15), 1, 0, 0]
                publisher.publish(message)

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        try:
            yield {}
        finally:
            end.set()
            thread.join()
            publisher.close()


def check(*argv: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    status = main(list(argv), console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def test_it_shows_what_axes_and_buttons_do(pad) -> None:
    status, text = check("joy", "topic:=/pad/joy", "buttons.deadman:=4", "--seconds", "4")
    assert status == 0, text
    assert "axis 1 (x) +0.5" in text and "button 4 (deadman) +1.0" in text
    assert "-> drives" in text and "dx +0.47" in text and "success" in text


def test_ros_arguments_are_taken(pad) -> None:
    status, text = check(
        "joy", "buttons.deadman:=4", "--seconds", "2", "--ros-args", "-r", "joy:=/pad/joy"
    )
    assert status == 0 and "axis 1 (x)" in text, text


def test_it_says_why_nothing_is_heard() -> None:
    status, text = check("joy", "topic:=/nobody", "--seconds", "0.5")
    assert status == 1 and "device_silent: nobody publishes /nobody" in text
    status, text = check("leader", "topic:=/nobody", "joints:=[a, b]", "--seconds", "0.2")
    assert status == 1 and "nobody publishes /nobody" in text


def test_a_wrong_spelling_is_refused() -> None:
    assert check("joy", "topic=/pad/joy")[0] == 2
    assert check("joy", "topik:=/pad/joy")[0] == 2
    assert check("no_such_device")[0] == 2
    assert check("joy", "buttons:=1", "buttons.open:=1")[0] == 2
    assert parse_parameters(["a.b:=1", "a.c:=[x, 2]"]) == {"a": {"b": 1, "c": ["x", 2]}}
