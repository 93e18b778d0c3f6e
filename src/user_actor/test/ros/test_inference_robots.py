"""Which robots an inference node acts for, whatever it hears first."""

from types import SimpleNamespace

import pytest

from user_actor.nodes import inference
from user_actor.nodes.inference import _Robot, configuration_that_counts


@pytest.mark.parametrize(
    ("robots", "announced", "counts"),
    [
        (["odd", "usual", "usual"], [], "usual"),
        (["one", "other"], [], "one"),
        (["usual", "usual", "odd"], ["odd"], "odd"),
        (["usual", "odd", "usual"], ["of no robot"], "usual"),
        (["a", "b"], ["of no robot", "b"], "b"),
    ],
)
def test_the_learners_spec_counts_else_that_of_most_robots(robots, announced, counts):
    assert configuration_that_counts(robots, announced) == counts


def test_a_robot_hears_once_a_second_why_it_is_not_answered(monkeypatch):
    said, now_s = [], [100.0]
    refusals = SimpleNamespace(publish=lambda message: said.append(message.data))
    robot = _Robot("arm", None, refusals)
    monkeypatch.setattr(inference, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    for _ in range(30):  # at 20 Hz, for 1.5 s
        robot.tell("no room")
        now_s[0] += 0.05
    assert said == ["no room", "no room"]
