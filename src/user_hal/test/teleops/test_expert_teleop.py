"""The scripted expert in a person's place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from user_core.conformance import check_teleop
from user_core.errors import DeviceNotConnected, SpecError
from user_core.types import AppliedAction, Observation
from user_hal.teleops.expert import ExpertConfig, ExpertTeleop

mujoco = pytest.importorskip("mujoco", reason="the simulator is not installed")

from user_hal.robots.mujoco import MujocoConfig, MujocoRobot  # noqa: E402
from user_hal.sim.experts import ScriptedExpert  # noqa: E402
from user_testing.worlds.robots.teleop import robot  # noqa: E402


@pytest.fixture
def reach() -> MujocoRobot:
    arm = MujocoRobot(MujocoConfig(task="reach"))
    arm.connect()
    yield arm
    arm.close()


def engaged(config: ExpertConfig, observations: list[Observation], arm: MujocoRobot) -> list[bool]:
    teleop = ExpertTeleop(config)
    teleop.connect(arm.spec)
    return [teleop.read(observation).engaged for observation in observations]


def test_the_expert_solves_the_task_through_the_teleop(reach) -> None:
    teleop = ExpertTeleop(ExpertConfig(label=True))
    teleop.connect(reach.spec)
    observation = reach.reset(3)
    command = teleop.read(observation)
    for _ in range(200):
        assert command.engaged and not command.success
        reach.command(command.action)
        observation = reach.read()
        command = teleop.read(observation)
        if observation.task.success:
            break
    assert command.success, "and says so"


def test_it_takes_over_when_it_is_told_to(reach) -> None:
    first = reach.reset(1)
    one = [first] * 400
    assert all(engaged(ExpertConfig(engage="always"), one, reach))
    assert not any(engaged(ExpertConfig(engage="never"), one, reach))
    now_and_then = engaged(ExpertConfig(engage="stretches", every=20, length=10), one, reach)
    assert 0.1 < sum(now_and_then) / 400 < 0.6
    changes = np.count_nonzero(np.diff(now_and_then))
    assert 4 < changes < 60  # in stretches, not in single steps
    episodes = [Observation(first.arrays, 1, 1, episode) for episode in range(100) for _ in "ab"]
    drives = engaged(ExpertConfig(engage="episodes", probability=0.3), episodes, reach)
    assert drives[::2] == drives[1::2] and 15 < sum(drives[::2]) < 45


def test_it_corrects_what_the_robot_does_wrong_and_lets_go_again(reach) -> None:
    """Like a person who watches: he sees what reached the robot, and what he would have done himself."""
    teleop = ExpertTeleop(ExpertConfig(engage="corrects", length=6, patience=3))
    teleop.connect(reach.spec)
    first = reach.reset(1)
    right = teleop.read(first).action
    wrong = np.where(right > 0, -1, 1).astype(np.float32)

    def drives(action, steps):
        seen = replace(first, applied=AppliedAction(action, 1))
        return [teleop.read(seen).engaged for _ in range(steps)]

    assert drives(right, 9) == [False] * 9, "who does it right is left alone"
    assert drives(wrong, 2) == [False] * 2
    assert drives(right, 1) + drives(wrong, 2) == [False] * 3, "three in a row"
    assert drives(wrong, 1) + drives(right, 8) == [True] * 6 + [False] * 3
    assert teleop.causes.total() == 1 and set(teleop.causes) <= set(reach.spec.action.names)
    drives(wrong, 2)
    assert not teleop.read(replace(first, episode=first.episode + 1)).engaged, "a new episode"


def test_who_does_the_right_thing_more_slowly_is_left_alone(reach) -> None:
    teleop = ExpertTeleop(ExpertConfig(engage="corrects"))
    teleop.connect(reach.spec)
    first = reach.reset(1)
    right = teleop.read(first).action

    def drives(action, steps=4):
        seen = replace(first, applied=AppliedAction(action, 1))
        return any(teleop.read(seen).engaged for _ in range(steps))

    assert not drives(np.float32(0.3) * right)
    assert drives(-right), "the other way"


def test_who_solves_it_in_another_way_is_left_alone() -> None:
    """The expert takes what he sees for how far it is, and not what he would have done before."""
    arm = MujocoRobot(MujocoConfig(task="pick_place"))
    arm.connect()
    teleop = ExpertTeleop(ExpertConfig(engage="corrects"))
    teleop.connect(arm.spec)
    other = ScriptedExpert(arm.spec)
    other._plan.above_m, other._plan.aligned_m, other._plan.aligned_rad = 0.05, 0.011, 0.1
    for seed in range(3):
        seen = replace(arm.reset(seed), episode=seed + 1)
        other.reset()
        while not (seen.task.terminated or seen.task.truncated):
            assert not teleop.read(seen).engaged
            action = other.act(seen.arrays)
            arm.command(action)
            seen = replace(arm.read(), episode=seed + 1, applied=AppliedAction(action, 1))
        assert seen.task.success
    arm.close()


def test_a_robot_that_gets_nowhere_is_helped(reach) -> None:
    teleop = ExpertTeleop(ExpertConfig(engage="corrects", longest=10, length=3))
    teleop.connect(reach.spec)
    first = reach.reset(1)
    seen = replace(first, applied=AppliedAction(teleop.read(first).action, 1))
    drives = [teleop.read(seen).engaged for _ in range(30)]
    assert drives[:9] == [False] * 9 and drives.count(True) == 6, "twice, for a while each"


def test_what_the_robot_did_while_it_was_not_looked_at_is_not_judged(reach) -> None:
    """On a busy host looks are missed, and what the expert would have done then is not known."""
    teleop = ExpertTeleop(ExpertConfig(engage="corrects"))
    teleop.connect(reach.spec)
    first = reach.reset(1)
    wrong = np.where(teleop.read(first).action > 0, -1, 1).astype(np.float32)

    def drives(every):
        seen = [
            replace(first, sequence=first.sequence + every * n, applied=AppliedAction(wrong, n))
            for n in range(1, 6)
        ]
        teleop.read(first)
        return any(teleop.read(observation).engaged for observation in seen)

    assert not drives(every=2)
    assert drives(every=1)


def test_it_keeps_the_promises_of_a_teleop(reach) -> None:
    check_teleop(ExpertTeleop(ExpertConfig()), reach.spec, reach.reset(1)).require()


def test_it_says_when_it_cannot_help(reach) -> None:
    teleop = ExpertTeleop(ExpertConfig())
    with pytest.raises(DeviceNotConnected):
        teleop.read(reach.reset(1))
    with pytest.raises(SpecError):
        teleop.connect(robot())
