"""Which robots an inference node acts for, whatever it hears first."""

from types import SimpleNamespace

import pytest

from user_actor.config import InferenceConfig
from user_actor.nodes import inference
from user_actor.nodes.inference import _Robot, configuration_that_counts
from user_core.config import from_mapping
from user_core.errors import ConfigError


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


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"robots": ["arm", "/arm/"]}, "arm more than once"),
        ({"robots": ["arm 1"]}, "robots: got 'arm 1'"),
        ({"robots": ["site/2nd"]}, "robots: got 'site/2nd'"),
        ({"versions": {"arm": "pour policy"}}, "versions: got 'pour policy', expected topics"),
    ],
)
def test_robots_and_topics_that_cannot_be_are_refused(wrong, why):
    from_mapping(InferenceConfig, {"robots": ["arm", "/site/arm2/"], "versions": {"arm": "/l/policy"}})  # fmt: skip
    with pytest.raises(ConfigError, match=why):
        from_mapping(InferenceConfig, wrong)
