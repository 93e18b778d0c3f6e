"""Recording demonstrations straight into a replay store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import MemorySink
from user_bringup.local_robot import LocalRobot
from user_core.errors import SuiteError
from user_core.interfaces import Reward
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    Outcome,
    Task,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.replay import StoreConfig, StoreWriter
from user_learner.replay.meaning import is_new, join_meaning

PRODUCER = "demos"
_log = logging.getLogger(__name__)
#: A person may judge an attempt for this long after it ended without a verdict.
_VERDICT_S = 30.0


@dataclass(frozen=True)
class Recorded:
    """What came of a recording: episodes and steps kept, and attempts that failed."""

    episodes: int
    steps: int
    failures: int


def record_demonstrations(
    robot: LocalRobot,
    reward: Reward,
    store: Path,
    episodes: int,
    *,
    robot_name: str,
    task: str,
    seed: int = 0,
    config: ActorLoopConfig | None = None,
    on_episode: Callable[[EpisodeResult], None] = lambda result: None,
    on_step: Callable[[], None] = lambda: None,
) -> Recorded:
    """Let a teleoperator solve a task this many times; keep the successes, each once it has ended.

    An episode begins to count when the person engages for the first time. It ends when the
    reward or the person says so, at a limit of the robot or of ``config``, or when the robot
    had to be stopped.

    Args:
        robot: The robot, with the device of a person or the scripted expert.
        reward: Judges success.
        store: Replay store to append to; made when it is not there.
        episodes: Successful episodes to record.
        robot_name: Recorded with each episode.
        task: Recorded with each episode.
        seed: Of the first start; each attempt takes the next.
        config: Limits of an episode; its mode is set here.
        on_episode: Called after each attempt.
        on_step: Called after each step.

    Raises:
        SuiteError: More attempts fail than succeed, by ten.
        SchemaMismatch: The store holds data of another robot.
        SafetyError: The emergency stop is latched.
        DeviceError: The robot failed and did not come back.
    """
    schema = TrajectorySchema.of(robot.hal.spec)
    incarnation, kept, steps, failures, unknown = time.time_ns(), 0, 0, 0, 0
    sink = MemorySink(PRODUCER)
    loop = EpisodeLoop(
        robot.hal, None, reward, sink, _demonstration(config or ActorLoopConfig(), robot),
        teleop=robot.teleop, task=Task(task), on_step=lambda seen: on_step(),
    )  # fmt: skip
    spec = robot.hal.spec
    before = None if is_new(store) else schema
    with StoreWriter(store, schema, StoreConfig()) as writer:
        for note in join_meaning(store, before, spec, f"{robot_name}, that is to record"):
            _log.warning("%s", note)
        while kept < episodes:
            robot.await_ready()
            result = loop.run(seed=seed + kept + failures)
            if result is None or result.outcome is not Outcome.SUCCESS:
                if result is not None:
                    on_episode(result)
                failures += 1
                unknown += result is not None and result.outcome is Outcome.UNKNOWN
                sink.rows.clear()
                if failures >= kept + 10:
                    raise SuiteError(
                        f"demonstrations of {task!r}" if task else "demonstrations",
                        got=f"{failures} failures, {kept} successes"
                        + (f"; nobody judged {unknown} attempts" if unknown else ""),
                        expected="mostly successes",
                        hint="Press the key of success, or choose a --reward that can tell"
                        if unknown
                        else "Look at it with `user sim --expert`",
                    )  # fmt: skip
                continue
            rows = schema.rows(sink.rows.pop(result.key))
            key = EpisodeKey(PRODUCER, incarnation, kept)
            kept += 1
            steps += result.length
            writer.append(
                TrajectoryChunk(
                    ChunkId(PRODUCER, incarnation, kept), key, result.source, 0, rows,
                    schema.hash, replace(result, key=key), robot_name, task,
                )
            )  # fmt: skip
            writer.commit()  # what a person has shown stays, however the recording ends
            on_episode(result)
    return Recorded(kept, steps, failures)


def _demonstration(config: ActorLoopConfig, robot: LocalRobot) -> ActorLoopConfig:
    """A person needs real time, also before a robot whose time passes by commands."""
    period_s = config.period_s or (0.0 if robot.scripted else robot.hal.spec.period_s)
    verdict_s = config.verdict_s or (0.0 if robot.scripted else _VERDICT_S)
    return config.replace(mode="demonstration", period_s=period_s, verdict_s=verdict_s)
