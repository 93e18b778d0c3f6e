import numpy as np
import pytest

from user_core.errors import PluginError, StoreError, SuiteError
from user_core.fakes import FakeRobot, FakeRobotConfig, MemoryReplay, PolicyMailbox
from user_core.types import (
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    PolicyVersion,
    Step,
)


def step(value, **changes):
    return Step({"x": np.full(1, value)}, np.zeros(1), np.zeros(1), reward=value, **changes)


def result(length):
    return EpisodeResult(EpisodeKey("a", 0, 0), EpisodeSource.ONLINE, Outcome.TIMEOUT, length, 0.0)


def test_memory_pairs_each_step_with_what_came_next():
    memory = MemoryReplay(discount=0.9)
    with pytest.raises(StoreError, match="empty"):
        memory.sample(1)
    for episode in (0, 10):
        memory.append(step(episode))
        memory.append(step(episode + 1, terminated=episode == 0, truncated=episode == 10))
        memory.append(FinalObservation({"x": np.full(1, episode + 2)}))
        memory.end_episode(result(2))
    assert len(memory) == 4
    batch = memory.sample(200)
    now, after = batch.observation["x"][:, 0], batch.next_observation["x"][:, 0]
    assert set(now) == {0, 1, 10, 11}
    assert (after == now + 1).all()
    assert (batch.discount == np.where(now == 1, 0, np.float32(0.9))).all()  # not at truncation


def test_a_step_without_successor_is_not_drawn():
    memory = MemoryReplay()
    memory.append(step(0))
    memory.append(step(1))
    assert len(memory) == 1
    memory.end_episode(result(2))
    memory.append(step(5))
    memory.append(step(6))
    assert set(memory.sample(100).observation["x"][:, 0]) == {0, 5}


def test_a_mailbox_never_goes_back():
    box = PolicyMailbox()
    assert box.newest(after=0) is None
    box.publish(PolicyVersion(2, {}))
    box.publish(PolicyVersion(1, {}))
    assert box.newest(after=1).number == 2
    assert box.newest(after=2) is None


def test_a_fake_episode_ends_both_ways():
    robot = FakeRobot(FakeRobotConfig(episode_steps=5))
    robot.connect()
    observation = robot.reset(seed=1)
    for _ in range(5):
        assert not observation.task.truncated
        robot.command(np.zeros(2, np.float32))
        observation = robot.read()
    assert observation.task.truncated
    assert not observation.task.terminated
    observation = robot.reset(seed=1)
    while not (observation.task.terminated or observation.task.truncated):
        way = observation.arrays["goal"] - observation.arrays["position"]
        robot.command(np.clip(way * 10, -1, 1))
        observation = robot.read()
    assert observation.task.terminated
    assert observation.task.success


def test_an_error_says_what_came_what_was_expected_and_what_to_do():
    error = PluginError("colour", got="bleu", expected="blue", hint="Write it in English")
    assert str(error) == "colour: got bleu, expected blue. Write it in English"
    assert str(SuiteError("colour", expected="blue")) == "colour: expected blue"
    assert error.code == "plugin"
