"""A robot that is not where it was told to stand: it is not thrown back, and a reset takes it over."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from user_testing.invariant.campaign import virtual_time
from user_testing.invariant.robots import HOME_JOINTS, ROBOTS
from user_testing.invariant.stand_in import ReadingFault
from user_testing.invariant.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Three joints by positions, behind the whole HAL, in virtual time."""
    with virtual_time() as time:
        made = World(ROBOTS[0], time)
        yield made
        made.close()


def step(world: World, change: float = 0.0) -> str:
    """Command a change of the joints for a period; returns why the robot is stopped, if it is."""
    world.regain()
    world.send(np.array([[change] * 3 + [0.0]], np.float32))
    world.run(0.1)
    return world.loop.status().cause.code


def test_what_others_have_moved_stays_there_until_a_reset(world: World) -> None:
    (arm,) = world.arms
    assert not step(world, 0.03)
    world.run(0.6)
    assert world.loop.status().cause.code == "watchdog"
    world.pushed([0.5, 0.0, 0.0])  # its controller is off, and has forgotten its target
    world.run(0.4)
    here = list(arm.here)
    world.press()
    world.run(0.1)
    world.release()
    assert step(world) == "implausible_reading"
    assert "told to stand" in world.loop.status().cause.text
    assert arm.here == here, "neither a stop nor a command has moved it"
    world.reset()
    np.testing.assert_allclose(arm.here, HOME_JOINTS, atol=0.03)
    assert not step(world, 0.03)


def test_a_false_reading_while_it_stands_is_no_place_to_go(world: World) -> None:
    (arm,) = world.arms
    step(world, 0.03)
    world.run(0.6)
    here = list(arm.here)
    world.reading_faults.append(ReadingFault("zeros", 4))
    world.run(0.15)
    world.press()
    world.run(0.3)
    world.release()
    assert arm.here == here
    world.run(1.0)
    assert not step(world, 0.03), "it goes on when it is measured where it stands"


def test_a_robot_that_was_told_nothing_is_not_sent_to_a_false_reading(world: World) -> None:
    (arm,) = world.arms
    here = list(arm.here)
    world.reading_faults.append(ReadingFault("zeros", 4))
    world.run(0.15)
    world.press()
    world.run(0.3)
    world.release()
    assert arm.here == here


def test_velocities_that_are_summed_up_start_from_no_false_reading() -> None:
    (robot,) = [r for r in ROBOTS if r.name == "joint_velocity by JointTrajectory"]
    with virtual_time() as time:
        world = World(robot, time)
        (arm,) = world.arms
        here = list(arm.here)
        world.reading_faults.append(ReadingFault("zeros", 1))
        world.run(0.05)
        world.send(np.zeros((1, 3), np.float32))
        world.run(0.04)
        assert world.loop.status().cause.code == "unsettled" and arm.here == here
        world.close()


def test_a_false_reading_near_home_does_not_end_the_way_there_with_a_leap(world: World) -> None:
    (arm,) = world.arms
    step(world)
    fault = ReadingFault("jump", 6, HOME_JOINTS)
    world.schedule.append(
        (world.time.monotonic() + 0.2, lambda: world.reading_faults.append(fault))
    )
    world.reset()  # the world raises where a target leaps
    world.run(2.0)
    world.reset()
    np.testing.assert_allclose(arm.here, HOME_JOINTS, atol=0.03)
