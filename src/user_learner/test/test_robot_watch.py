"""Which robots are flagged, and how seldom without a cause."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from user_core.reasons import ACTIONS_CLIPPED, BELOW_PEERS, REWARDS_CONSTANT
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ActedBy,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.robot_watch import (
    RobotWatch,
    RobotWatchConfig,
    WatchedEpisode,
    fisher_at_most,
    judge,
)

SCHEMA = TrajectorySchema.of(
    RobotSpec("arm", {"x": ArraySpec((1,))}, ArraySpec((2,), low=-0.1, high=0.1))
)


class Fleet:
    """Robots that bring episodes."""

    def __init__(self, **config):
        self.now_s = 0.0
        self.watch = RobotWatch(RobotWatchConfig(**config), lambda: self.now_s)
        self.numbers = {}

    def episode(
        self, robot, success, *, reward=None, clipped=0.0, steps=10,
        source=EpisodeSource.ONLINE, acted_by=ActedBy.POLICY, cut=5, again=1,
    ):  # fmt: skip
        """One episode, in two chunks; 1 for success unless all rewards are ``reward``."""
        number = self.numbers[robot] = self.numbers.get(robot, 0) + 1
        key = EpisodeKey(f"{robot}.actor", 1, number)
        columns = {n: np.zeros((steps + 1, *c.shape), c.dtype) for n, c in SCHEMA.columns.items()}
        columns["final"][-1] = True
        columns["acted_by"][:] = int(acted_by)
        columns["reward"][:-1] = 0.0 if reward is None else reward
        if reward is None and success:
            columns["reward"][-2] = 1.0
        columns["proposed_action"][:-1] = 0.1
        columns["action"][:-1] = 0.1
        columns["action"][: round(clipped * steps), 1] = 0.02
        outcome = (
            Outcome.UNKNOWN if success is None else Outcome.SUCCESS if success else Outcome.TIMEOUT
        )
        result = EpisodeResult(key, source, outcome, steps, 0.0, 0)
        for start, stop in ((0, cut), (cut, steps + 1)):
            rows = {name: column[start:stop] for name, column in columns.items()}
            last = result if stop == steps + 1 else None
            chunk = TrajectoryChunk(
                ChunkId(key.producer, 1, 2 * number + bool(start)), key, source, start, rows,
                SCHEMA.hash, last, robot, "task",
            )  # fmt: skip
            for _ in range(again):
                self.watch.take(chunk, SCHEMA)

    @property
    def codes(self):
        return {name: [f.code for f in flags] for name, flags in self.watch.flags().items()}


def test_a_robot_that_fails_where_its_peers_succeed_is_flagged_and_cleared_again():
    fleet = Fleet()
    for i in range(20):
        for robot in ("a", "b"):
            fleet.episode(robot, i % 4 > 0)
        fleet.episode("bad", i == 7)
    assert fleet.codes == {"bad": [BELOW_PEERS]}
    [reason] = fleet.watch.reasons()
    assert reason.text.startswith("bad: 1 of its last 20 episodes succeeded, and 79% of its peers'")
    for i in range(20):  # somebody has mended it
        for robot in ("a", "b", "bad"):
            fleet.episode(robot, i % 4 > 0)
    assert not fleet.codes


def test_who_is_gone_is_not_flagged_for_ever():
    fleet = Fleet(forget_s=60.0)
    for _ in range(20):
        fleet.episode("good", True)
        fleet.episode("bad", False)
    assert fleet.codes
    fleet.now_s = 61.0
    assert not fleet.codes


def test_what_comes_again_after_a_failing_disk_counts_once():
    fleet = Fleet()
    for i in range(20):
        assert not fleet.codes
        fleet.episode("only", i % 3 == 0, reward=0.0, again=2)
    assert "its last 20 episodes" in fleet.watch.reasons()[0].text


def test_early_in_learning_nobody_succeeds_and_nobody_is_flagged():
    fleet = Fleet()
    for _ in range(60):
        for robot in ("a", "b", "c"):
            fleet.episode(robot, False)
    assert not fleet.codes, "neither success nor constant rewards"


def test_a_policy_that_improves_while_a_slow_robot_collects_is_no_alarm():
    """Peers are compared over the same time, however fast they are."""
    rng = np.random.default_rng(0)
    fleet = Fleet()
    for i in range(400):
        share = i / 400
        fleet.episode("fast", rng.random() < share)
        if i % 10 == 0:
            fleet.episode("slow", rng.random() < share)
    assert not fleet.codes


def test_constant_rewards_among_others_that_vary():
    fleet = Fleet()
    for i in range(20):
        fleet.episode("a", i % 2 == 0)
        fleet.episode("dead", None, reward=-0.5)
    assert fleet.codes == {"dead": [REWARDS_CONSTANT]}
    assert "every reward of its last 20 episodes was -0.5" in fleet.watch.reasons()[0].text


def test_constant_rewards_of_a_robot_alone_that_succeeds_now_and_then():
    fleet = Fleet()
    for i in range(20):
        fleet.episode("only", i % 3 == 0, reward=0.0)
    assert fleet.codes == {"only": [REWARDS_CONSTANT]}
    fleet = Fleet()
    for _ in range(40):
        fleet.episode("only", False)
    assert not fleet.codes, "a sparse reward before the first success"


@pytest.mark.parametrize(
    ("share", "flagged"), [(1.0, True), (0.9, True), (0.8, False), (0.0, False)]
)
def test_actions_that_are_clipped_all_the_time(share, flagged):
    fleet = Fleet()
    for _ in range(20):
        fleet.episode("r", True, clipped=share)
    assert fleet.codes == ({"r": [ACTIONS_CLIPPED]} if flagged else {})


def test_persons_evaluations_and_less_than_a_block_do_not_count():
    fleet = Fleet()
    for i in range(40):
        fleet.episode("a", True)
        fleet.episode("a", True, acted_by=ActedBy.HUMAN, clipped=1.0)
        fleet.episode("b", True, source=EpisodeSource.EVALUATION, clipped=1.0)
        if i < 19:
            fleet.episode("c", False)
    assert not fleet.codes
    off = Fleet(block=0)
    for _ in range(40):
        off.episode("b", True, clipped=1.0)
    assert not off.codes


def test_fishers_test_is_that_of_the_book():
    # Fisher's lady tasting tea: 3 or more of 4 right by chance is 17/70; so at most 1 wrong one
    assert fisher_at_most(1, 4, 3, 4) == pytest.approx(17 / 70)
    assert fisher_at_most(0, 20, 20, 20) == pytest.approx(1 / math.comb(40, 20))
    assert fisher_at_most(20, 20, 3, 9) == pytest.approx(1.0)
    assert fisher_at_most(0, 5, 0, 5) == 1.0


def test_false_alarms_are_as_rare_as_was_asked_for():
    """Equal robots, by the thousand blocks: no more alarms than the significance allows, with
    its binomial spread; and a robot with a quarter of the success is found at once."""
    rng = np.random.default_rng(1)
    alarms = found = 0
    rounds, limit = 1000, 0.01

    def flagged(shares: dict[str, float], config: RobotWatchConfig) -> set[str]:
        """Robots that are flagged when each has brought a block, with these shares of success."""
        blocks = {
            robot: [
                WatchedEpisode(robot, 1, bool(x < share), None, math.nan) for x in rng.random(20)
            ]
            for robot, share in shares.items()
        }
        return {
            robot
            for robot, block in blocks.items()
            if judge(robot, block, [e for r, b in blocks.items() if r != robot for e in b], config)
        }

    for _ in range(rounds):
        equal = dict.fromkeys("abcd", rng.uniform(0.2, 0.9))
        alarms += bool(flagged(equal, RobotWatchConfig(significance=limit, fewer=1.0)))
        found += "bad" in flagged({"a": 0.9, "b": 0.9, "c": 0.9, "bad": 0.2}, RobotWatchConfig())
    assert alarms <= rounds * limit + 3 * math.sqrt(rounds * limit)
    assert found >= 0.95 * rounds


def test_an_episode_that_never_ends_is_forgotten():
    fleet = Fleet()
    for _ in range(3):
        fleet.episode("a", True)
    watch = fleet.watch
    key = EpisodeKey("x.actor", 1, 0)
    rows = {n: np.zeros((1, *c.shape), c.dtype) for n, c in SCHEMA.columns.items()}
    chunk = TrajectoryChunk(
        ChunkId("x.actor", 1, 1), key, EpisodeSource.ONLINE, 0, rows, SCHEMA.hash, None, "x", "t"
    )
    for number in range(1, 3001):
        key = EpisodeKey("x.actor", 1, number)
        watch.take(replace(chunk, id=ChunkId("x.actor", 1, number), episode=key), SCHEMA)
    assert len(watch._open) == 1000
