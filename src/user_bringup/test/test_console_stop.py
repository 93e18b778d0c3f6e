"""An emergency stop of the console reaches each robot, by one way or another, and waits behind nothing."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from user_bringup.console import shared
from user_bringup.console.access import LOCAL
from user_bringup.console.config import ConsoleConfig
from user_bringup.console.shared import Console


class Arms:
    """A graph of robots that are asked to stop: at once, by a call that waits, or both.

    Args:
        ready: Robots that can be asked at once.
        silent: Of these, those that do not answer.
    """

    def __init__(self, *names, ready=(), silent=()):
        self.robots = {n: SimpleNamespace(services={"emergency_stop": f"{n}/stop"}) for n in names}
        self.ready, self.silent, self.called = ready, silent, []

    def stop(self, name, answered):
        if name not in self.ready:
            return False
        if name not in self.silent:
            threading.Thread(
                target=answered, args=(SimpleNamespace(ok=True, text="at once"),)
            ).start()
        return True

    def call(self, service):
        self.called.append(service)
        return SimpleNamespace(ok=True, text="by a call")


@pytest.fixture
def stop(tmp_path, monkeypatch):
    """Press it at a console for robots, and return what it says."""
    monkeypatch.setattr(shared, "_ANSWER_S", 0.2)
    monkeypatch.setattr(shared, "_FIRST_S", 0.3)

    def press(arms, meanwhile=None):
        config = ConsoleConfig(run_dir=str(tmp_path), tokens_file=str(tmp_path / "tokens"))
        console = Console(config, lambda: None, arms)

        async def pressed():
            if meanwhile is not None:
                meanwhile(asyncio.get_running_loop())
            return await console.emergency_stop(LOCAL)

        return (*asyncio.run(pressed()), [act.whom for act in console.acts.last])

    return press


def test_a_robot_that_is_connected_is_asked_at_once_the_others_by_a_call(stop):
    arms = Arms("/a", "/b", ready=("/a",))
    ok, said, whom = stop(arms)
    assert ok and said == "a: at once; b: by a call"
    assert arms.called == ["/b/stop"] and whom == ["/a", "/b"]


def test_one_that_does_not_answer_is_asked_in_another_way(stop):
    arms = Arms("/a", "/b", ready=("/a", "/b"), silent=("/b",))
    assert stop(arms)[:2] == (True, "a: at once; b: by a call")
    assert arms.called == ["/b/stop"]


def test_it_waits_for_no_other_work_of_the_console(stop):
    over = threading.Event()

    def much_to_do(loop):
        for _ in range(200):  # more than threads: pictures, lists, meshes
            loop.run_in_executor(None, over.wait, 60)

    timer = threading.Timer(20.0, over.set)  # without the answer the test ends, too, and fails
    timer.start()
    arms = Arms("/a")

    def call(service):
        was_over = over.is_set()
        over.set()
        return SimpleNamespace(ok=not was_over, text="stopped")

    arms.call = call
    try:
        assert stop(arms, much_to_do)[0], "it came after all the other work"
    finally:
        timer.cancel()
        over.set()


def test_a_console_that_has_just_come_up_stops_the_robots_that_it_hears_of_soon(stop):
    arms = Arms("/a")
    there, arms.robots = arms.robots, {}

    def hears_of_it(loop):
        loop.call_later(0.05, setattr, arms, "robots", there)

    assert stop(arms, hears_of_it) == (True, "a: by a call", ["/a"])


def test_without_a_robot_it_says_so(stop):
    assert stop(Arms())[:2] == (False, "no robot is heard of")
