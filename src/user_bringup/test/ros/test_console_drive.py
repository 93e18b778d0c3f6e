"""A person's page as a device of a robot: what he does reaches the robot at once, not with its next observation."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import rclpy

pytest.importorskip("nicegui", reason="nicegui is not installed")

from user_bringup.nodes.console_drive import Drive
from user_comm import topics
from user_comm.converters import intervention_from_message, observation_to_message
from user_comm.topics import interface_class, profile
from user_core.interfaces import TeleopCommand
from user_core.types import Observation
from user_hal.teleops.browser import BrowserConfig, BrowserInput
from user_testing.spinning import spinning
from user_testing.waiting import wait_until
from user_testing.worlds.robots.teleop import robot

#: So slow that no second observation is due.
SPEC = replace(robot(), period_s=100.0)


@pytest.fixture
def nodes(ros_domain):
    """The console's node and the robot's; one thread spins both."""
    names = ("console", "robot")
    with spinning(*(partial(rclpy.create_node, name) for name in names)) as made:
        yield made


class Arm:
    """The robot's side: says what it sees, and hears interventions."""

    def __init__(self, node):
        self.heard = []
        topic, seen = topics.INTERVENTION, topics.OBSERVATION
        node.create_subscription(
            interface_class(topic.type), f"/r/{topic.name}",
            lambda message: self.heard.append(intervention_from_message(message)), profile(topic.quality),
        )  # fmt: skip
        self._observations = node.create_publisher(
            interface_class(seen.type), f"/r/{seen.name}", profile(seen.quality)
        )

    def observe(self, sequence: int) -> None:
        arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in SPEC.observation.items()}
        observation = Observation(arrays, stamp_ns=1, sequence=sequence, episode=1)
        self._observations.publish(observation_to_message(observation))

    def is_answered(self) -> bool:
        self.observe(7)
        return bool(self.heard)


def test_what_a_person_does_is_answered_before_the_next_observation(nodes):
    console, arm = nodes[0], Arm(nodes[1])
    heard = arm.heard

    def forward() -> list[TeleopCommand]:
        engaged = [one.command for one in heard if one.command.engaged]
        return [command for command in engaged if command.action[0] > 0]

    config = BrowserConfig(max_age_s=1000.0, press_again_s=1000.0)
    with Drive(console, "/r", SPEC, config, "browser") as place:
        place.take(BrowserInput(1, (0.0,) * 6, held=True))
        assert not heard, "nothing is answered before the robot was seen"
        wait_until(arm.is_answered, "an answer to an observation")
        place.take(BrowserInput(2, (0.0,) * 6, held=True))  # nothing new
        place.take(BrowserInput(3, (1.0,) + (0.0,) * 5, held=True))
        place.take(BrowserInput(4, (1.0,) + (0.0,) * 5, held=True))
        wait_until(forward, "an answer at once")
        place.take(BrowserInput(5, (0.0,) * 6, held=False))
        wait_until(lambda: not heard[-1].command.engaged, "he lets go at once")
        assert len(heard) <= place.sent + 2, "what is not new waits for the next observation"
        assert {one.observation_sequence for one in heard} == {7}


def test_the_first_of_many_inputs_is_answered_at_once_and_then_the_newest_now_and_then(nodes):
    console, arm = nodes[0], Arm(nodes[1])
    config = BrowserConfig(max_age_s=1000.0, press_again_s=1000.0)
    with Drive(console, "/r", SPEC, config, "browser") as place:
        place.take(BrowserInput(1, (0.0,) * 6, held=True))
        wait_until(arm.is_answered, "an answer to an observation")
        before, published, begin_s = place.sent, [], time.monotonic()
        usual = place._answer
        place._answer = lambda *given: (published.append(place._input[0][0]), usual(*given))
        for number in range(200):
            place.take(BrowserInput(2 + number, ((number + 1) / 200,) + (0.0,) * 5, held=True))
            assert published, "the first does not wait"
        took_s = time.monotonic() - begin_s
        wait_until(lambda: published[-1] == 1.0, "an answer to the last")
        between = len(published) - (place.sent - before)
        assert between <= 3 + took_s / 0.01, "inputs share an answer"
        place.take(BrowserInput(500, (0.5,) + (0.0,) * 5, held=True))
        place.take(BrowserInput(501, (0.5,) + (0.0,) * 5, held=False))
        assert not place.engaged, "he lets go at once"


def test_a_message_that_was_overtaken_does_not_make_the_next_one_old(nodes):
    console, arm = nodes[0], Arm(nodes[1])
    heard, config = arm.heard, BrowserConfig(max_age_s=1000.0, press_again_s=1000.0)
    with Drive(console, "/r", SPEC, config, "browser") as place:
        place.take(BrowserInput(1, (0.0,) * 6, held=True))
        # None is under way any more when one was answered: it would be answered later, with what he does then.
        wait_until(lambda: heard or arm.observe(7), "an answer to an observation", 20, period_s=0.5)
        place.take(BrowserInput(3, (0.5,) + (0.0,) * 5, held=True))
        place.take(BrowserInput(2, (1.0,) + (0.0,) * 5, held=True))  # too late: it does not count
        place.take(BrowserInput(4, (1.0,) + (0.0,) * 5, held=True))
        wait_until(
            lambda: any(one.command.action[0] == SPEC.action.high_array[0] for one in heard),
            "an answer at once", 10,
        )  # fmt: skip
