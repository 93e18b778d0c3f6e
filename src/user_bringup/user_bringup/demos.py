"""Recording demonstrations straight into a replay store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from user_bringup.rollout import roll_out
from user_core.errors import SuiteError
from user_core.interfaces import Reward, Robot, Teleop
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
from user_learner.replay import StoreConfig, StoreWriter

PRODUCER = "demos"


@dataclass(frozen=True)
class Recorded:
    """What came of a recording: episodes and steps kept, and attempts that failed."""

    episodes: int
    steps: int
    failures: int


def record_demonstrations(
    robot: Robot,
    teleop: Teleop,
    reward: Reward,
    store: Path,
    episodes: int,
    *,
    robot_name: str,
    task: str,
    seed: int = 0,
    on_episode: Callable[[Outcome], None] = lambda outcome: None,
) -> Recorded:
    """Let a teleoperator solve a task so many times; keep the successes.

    Args:
        robot: Connected.
        teleop: Connected to the robot's spec; a person or the scripted expert. An episode in
            which he never engages counts as failed.
        reward: Judges success.
        store: Replay store to append to; made when it is not there.
        episodes: Successful episodes to record.
        robot_name: Recorded with each episode.
        task: Recorded with each episode.
        seed: Of the first start; each attempt takes the next.
        on_episode: Called after each attempt.

    Raises:
        SuiteError: More attempts fail than succeed, by ten.
        SchemaMismatch: The store holds data of another robot.
    """
    schema = TrajectorySchema.of(robot.spec)
    scripted = bool(getattr(teleop, "scripted", False))
    incarnation, kept, steps, failures = time.time_ns(), 0, 0, 0
    with StoreWriter(store, schema, StoreConfig()) as writer:
        while kept < episodes:
            rollout = roll_out(
                robot,
                lambda observation: teleop.read(observation).action,
                reward,
                seed + kept + failures,
                acted_by=ActedBy.SCRIPT if scripted else ActedBy.HUMAN,
            )
            on_episode(rollout.outcome)
            if rollout.outcome is not Outcome.SUCCESS:
                failures += 1
                if failures >= kept + 10:
                    raise SuiteError(
                        f"demonstrations of {task!r}", got=f"{failures} failures, {kept} successes",
                        expected="mostly successes", hint="Look at it with `user sim --expert`",
                    )  # fmt: skip
                continue
            key = EpisodeKey(PRODUCER, incarnation, kept)
            kept += 1
            steps += rollout.length
            result = EpisodeResult(
                key, EpisodeSource.DEMONSTRATION, rollout.outcome, rollout.length,
                rollout.episode_return, interventions=rollout.length,
                start_ns=rollout.start_ns, end_ns=rollout.end_ns, reason="solved",
            )  # fmt: skip
            writer.append(
                TrajectoryChunk(
                    ChunkId(PRODUCER, incarnation, kept), key, EpisodeSource.DEMONSTRATION, 0,
                    schema.rows(rollout.steps), schema.hash, result, robot_name, task,
                )
            )  # fmt: skip
    return Recorded(kept, steps, failures)
