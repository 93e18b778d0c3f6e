"""A robot that waits for a person's word moves when it comes, and not before."""

import numpy as np
import pytest

from user_actor.loop.start import StartSignal
from user_core.errors import DeviceError
from user_core.reasons import EMERGENCY_STOP, NO_OBSERVATIONS, NO_REASON, WAITS_FOR_GO, Reason
from user_testing.worlds.actor_loop import MS, build

SECOND = 1000 * MS
AWAY = Reason(NO_OBSERVATIONS, "the robot shows no observations")
EMERGENCY = Reason(EMERGENCY_STOP, "emergency stop: the red button")


def test_nothing_moves_before_a_person_said_go_and_the_reason_says_how():
    setup = build({"start": "operator", "max_episode_steps": 3})
    setup.loop.start.how = "`user go`"
    seen = []

    def look():
        seen.append((list(setup.arm.seeds), len(setup.arm.chunks), setup.loop.status().reason))

    setup.world.at(6 * SECOND, look)
    setup.world.at(6 * SECOND + 1, lambda: seen.append(setup.loop.start.go()))
    (result,) = setup.run()
    assert seen[0][:2] == ([], 0), "neither a reset nor a command"
    assert seen[0][2].code == WAITS_FOR_GO and "`user go`" in seen[0][2].text
    assert result.length == 3 and min(setup.arm.sent_ns) >= 6 * SECOND


def test_one_go_is_for_many_episodes():
    setup = build({"start": "operator", "max_episodes": 4, "max_episode_steps": 3})
    setup.world.at(2 * SECOND, setup.loop.start.go)
    assert len(setup.run()) == 4


@pytest.mark.parametrize("source", ["online", "demonstration", "evaluation"])
def test_every_mode_waits(source):
    setup = build({"start": "operator", "mode": source, "max_episode_steps": 3})
    setup.world.at(5 * SECOND, setup.loop.stop)
    assert setup.run() == [] and setup.arm.seeds == []


def test_after_an_emergency_stop_it_must_be_said_again():
    setup = build({"start": "operator", "max_episodes": 2, "max_episode_steps": 100})
    arm, start = setup.arm, setup.loop.start
    resets = []

    def pressed():
        arm.trouble = lambda: EMERGENCY

    def released():
        del arm.trouble
        resets.append(len(arm.seeds))

    setup.world.at(2 * SECOND, start.go)
    setup.world.at(3 * SECOND, pressed)
    setup.world.at(4 * SECOND, released)
    setup.world.at(9 * SECOND, lambda: resets.append(len(arm.seeds)))
    setup.world.at(10 * SECOND, start.go)
    setup.run()
    assert resets == [1, 1], "no reset between the release and the second go"
    assert len(arm.seeds) > 1
    quiet = np.diff(arm.sent_ns).max()
    assert quiet >= 7 * SECOND


def test_a_go_is_refused_while_the_robot_is_not_ready():
    signal = StartSignal(True, 60.0)
    signal.robot_is(EMERGENCY, 0)
    with pytest.raises(DeviceError, match="the red button"):
        signal.go()
    signal.robot_is(NO_REASON, SECOND)
    assert signal.why_waiting()
    signal.go()
    assert not signal.why_waiting()


def test_a_robot_that_was_away_for_long_waits_again_and_one_that_was_back_soon_does_not():
    signal = StartSignal(True, 60.0)
    signal.go()
    for now_s in range(59):
        signal.robot_is(AWAY, now_s * SECOND)
    signal.robot_is(NO_REASON, 60 * SECOND)
    assert not signal.why_waiting()
    for now_s in range(100, 165):
        signal.robot_is(AWAY, now_s * SECOND)
    signal.robot_is(NO_REASON, 170 * SECOND)
    assert "60 s" in signal.why_waiting().text


def test_a_robot_that_starts_at_once_waits_for_nobody():
    signal = StartSignal(False, 60.0)
    signal.robot_is(EMERGENCY, 0)
    assert not signal.why_waiting() and "by itself" in signal.go()
