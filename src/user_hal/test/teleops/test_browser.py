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

    def says(self, axes, held, acts=(), number=None, sent_s=0.0):
        number = self.number if number is None else number
        self.number = max(self.number, number) + 1
        message = {"number": number, "axes": axes, "held": held, "acts": list(acts)}
        return self.teleop.take(BrowserInput.read({**message, "sent_ms": 1000 * sent_s}))

    def drives(self, seconds, sent_s, way_s=0.3):
        """Thirty messages a second with the switch held, each on the way for ``way_s``."""
        for _ in range(int(seconds * 30)):
            sent_s += 1 / 30
            self.now_s += 1 / 30
            self.says([1.0, 0, 0, 0, 0, 0], held=True, sent_s=sent_s)
        return sent_s

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


def test_a_link_of_300_ms_drives_however_far_apart_the_clocks_are(page):
    sent_s = page.drives(2.0, sent_s=1e6)
    assert page.command.engaged
    assert page.teleop.late == 0
    assert page.says([0.0] * 6, held=False, sent_s=sent_s + 0.05)


def test_what_a_cut_link_brings_all_at_once_does_not_move_the_robot(page):
    """TCP keeps what was sent; when the link is back, a robot must not do what was wanted seconds ago."""
    sent_s = page.drives(2.0, sent_s=50.0)
    page.now_s += 3.0  # the link is cut for three seconds, in which the page goes on sending
    for number in range(1, 80):
        assert not page.says([1.0] * 6, held=True, acts=["success"], sent_s=sent_s + number / 30)
        assert not page.command.engaged
        assert not page.command.success
    page.now_s += 1 / 30
    assert page.says([1.0] * 6, held=True, sent_s=sent_s + 3.03)
    assert not page.command.engaged, "he must let go first"
    assert page.teleop.must_release
    assert page.says([0.0] * 6, held=False, sent_s=sent_s + 3.04)
    assert page.says([1.0] * 6, held=True, sent_s=sent_s + 3.05)
    assert page.command.engaged


def test_clocks_that_drift_apart_do_not_make_messages_late(page):
    sent_s = 0.0
    for _ in range(3600):  # an hour; the page's clock is slow by 100 millionths: 0.36 s in the end
        page.now_s += 1.0
        sent_s += 0.9999
        assert page.says([0.0] * 6, held=False, sent_s=sent_s + 1.0)
    assert page.teleop.late == 0


def test_a_short_silence_ends_by_itself_and_a_long_one_takes_the_switch_anew(page):
    page.says([1.0] * 6, held=True)
    page.now_s += 0.4
    assert not page.command.engaged
    page.says([1.0] * 6, held=True)
    assert page.command.engaged
    page.now_s += 1.1
    page.says([1.0] * 6, held=True)
    page.says([1.0] * 6, held=True)
    assert not page.command.engaged


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
