"""The teleop ``browser``: what a page says, and what counts of it."""

from __future__ import annotations

import numpy as np
import pytest

from user_core import fakes
from user_core.errors import SpecError
from user_core.reasons import DEVICE_SILENT
from user_hal.teleops.browser import BrowserConfig, BrowserInput, BrowserTeleop


class Page:
    """A page, and the robot it drives; time is set by the test."""

    def __init__(self):
        self.now_s, self.number = 10.0, 0
        robot = fakes.FakeRobot(fakes.FakeRobot.Config())
        robot.connect()
        self.observation = robot.reset(0)
        self.teleop = BrowserTeleop(BrowserConfig(), clock_s=lambda: self.now_s, stamp_ns=lambda: 7)
        self.teleop.connect(robot.spec)

    def says(self, axes, held, acts=(), number=None):
        number = self.number if number is None else number
        self.number = max(self.number, number) + 1
        return self.teleop.take(
            BrowserInput.read({"number": number, "axes": axes, "held": held, "acts": list(acts)})
        )

    @property
    def command(self):
        return self.teleop.read(self.observation)


@pytest.fixture
def page():
    return Page()


def test_the_switch_must_be_held(page):
    page.says([1.0, 0, 0, 0, 0, 0], held=False)
    assert not page.command.engaged
    page.says([1.0, 0, 0, 0, 0, 0], held=True)
    command = page.command
    assert command.engaged
    assert np.any(command.action != 0)
    page.says([1.0, 0, 0, 0, 0, 0], held=False)
    assert not page.command.engaged


def test_silence_of_200_ms_lets_go_although_the_switch_was_held(page):
    page.says([1.0, 0, 0, 0, 0, 0], held=True)
    page.now_s += 0.19
    assert page.command.engaged
    page.now_s += 0.02
    assert not page.command.engaged
    assert page.teleop.trouble().code == DEVICE_SILENT


def test_a_message_that_was_overtaken_does_not_count(page):
    page.says([0.0] * 6, held=False, number=5)
    assert not page.says([1.0] * 6, held=True, number=4)
    assert not page.command.engaged
    assert page.teleop.late == 1


def test_another_page_counts_from_its_own_start(page):
    page.says([0.0] * 6, held=True, number=500)
    page.teleop.let_go()
    assert not page.command.engaged
    assert page.says([0.0] * 6, held=True, number=0)
    assert page.command.engaged


def test_a_verdict_is_given_once(page):
    page.says([0.0] * 6, held=False, acts=["success"])
    assert page.command.success
    assert not page.command.success


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"axes": [float("nan")]}, "axes"),
        ({"axes": ["1"]}, "axes"),
        ({"axes": [0.0] * 7}, "axes"),
        ({"axes": [True]}, "axes"),
        ({"held": 1}, "held"),
        ({"number": -1}, "number"),
        ({"number": 1.0}, "number"),
        ({"acts": ["explode"]}, "acts"),
        ({"acts": "success"}, "acts"),
        ({"sent_ms": float("inf")}, "sent_ms"),
    ],
)
def test_what_no_page_of_ours_sends_is_refused_by_name(change, named):
    message = {"number": 0, "axes": [0.0], "held": False, **change}
    with pytest.raises(SpecError, match=named):
        BrowserInput.read(message)
    with pytest.raises(SpecError, match="an object"):
        BrowserInput.read([message])


def test_deflections_beyond_the_full_one_are_the_full_one():
    said = BrowserInput.read({"number": 0, "axes": [7, -7], "held": True})
    assert said.axes == (1.0, -1.0)
