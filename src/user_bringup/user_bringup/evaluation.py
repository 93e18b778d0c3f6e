"""The final evaluation of a run: the newest policy, deterministic, on starts of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from user_actor.loop import ActorLoopConfig, EpisodeLoop, FixedPolicy
from user_actor.loop.ports import MemorySink
from user_bringup.local_robot import LocalRobot
from user_bringup.monitor.shares import Share
from user_core.interfaces import Policy, Reward
from user_core.specs import Array
from user_core.types import EpisodeResult, Outcome, Task
from user_hal.robots.mujoco import MujocoRobot
from user_hal.sim.rendering import Renderer, Snapshot, write_images


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        episodes: Number of episodes.
        successes: How many ended in success.
        mean_return: Mean of the undiscounted returns.
        mean_length: Mean number of steps.
        policy_version: Version that acted.
        aborted: How many were not judged: the robot was stopped, or a person took over.
        unknown: How many nobody could judge: robot and reward do not say.
        gate: What the safety gate did: commands ``passed``, ``limited``, ``refused``, and by
            each code.
    """

    episodes: int
    successes: int
    mean_return: float
    mean_length: float
    policy_version: int
    aborted: int = 0
    unknown: int = 0
    gate: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> Share:
        """Successes among the episodes that were judged."""
        return Share(self.successes, self.episodes - self.aborted - self.unknown)

    def write(self, file: Path) -> None:
        """Write as JSON, where the report looks for it."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def evaluate(
    robot: LocalRobot,
    policy: Policy,
    reward: Reward,
    *,
    episodes: int = 20,
    seed: int = 1_000_000,
    policy_version: int = 0,
    task: str = "",
    config: ActorLoopConfig | None = None,
    film: Film | None = None,
    on_episode: Callable[[EpisodeResult | None], None] = lambda result: None,
    on_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run deterministic episodes, without exploration or intervention.

    A person beside the robot may judge an episode; who takes it over ends it.

    Args:
        robot: The robot.
        policy: With its weights.
        reward: Judges success.
        episodes: How many.
        seed: Of the first start; far from those of training.
        policy_version: For the record.
        task: Name of the task, for policies that want to know.
        config: Limits of an episode, rows of a chunk; its mode is set here.
        film: Films the first episodes.
        on_episode: Called after each; with None after one that had no step.
        on_step: Called after each step.

    Raises:
        SafetyError: The emergency stop is latched.
        SuiteError: Robot, policy or reward failed.
    """

    def step() -> None:
        if film is not None:
            film.take()
        on_step()

    config = (config or ActorLoopConfig()).replace(mode="evaluation")
    sink = MemorySink("evaluation")
    loop = EpisodeLoop(
        robot.hal, FixedPolicy(policy, policy_version), reward, sink, config,
        teleop=robot.teleop, task=Task(task), on_step=lambda seen: step(),
    )  # fmt: skip
    results: list[EpisodeResult] = []
    aborted = 0
    for number in range(episodes):
        robot.await_ready()
        if film is not None:
            film.begin_episode()
        result = loop.run(seed=seed + number)
        sink.rows.clear()
        aborted += result is None or result.outcome is Outcome.ABORTED
        if result is not None:
            results.append(result)
        on_episode(result)
    status = robot.hal.status()
    return Evaluation(
        episodes,
        sum(result.outcome is Outcome.SUCCESS for result in results),
        sum(result.episode_return for result in results) / episodes,
        sum(result.length for result in results) / episodes,
        policy_version,
        aborted,
        sum(result.outcome is Outcome.UNKNOWN for result in results),
        {
            "passed": status.passed, "limited": status.limited, "refused": status.refused,
            **status.reasons,
        },
    )  # fmt: skip


class Film:
    """Films the first episodes of a simulated arm from outside: the policy need not see images.

    Args:
        robot: Made; it is filmed while it is connected.
        episodes: How many episodes to film.
        width: Of the images, pixels.
        height: Of the images, pixels.
    """

    def __init__(
        self, robot: MujocoRobot, episodes: int = 4, width: int = 240, height: int = 180
    ) -> None:
        self._robot, self._episodes_left = robot, episodes
        self._renderer = Renderer(robot.scene.model, height, width)
        self.images: list[Array] = []

    def begin_episode(self) -> None:
        """Before each episode."""
        self._episodes_left -= 1

    def take(self) -> None:
        """After each step: one image."""
        if self._episodes_left >= 0:
            moment = Snapshot.of(self._robot.scene.data)
            self.images += self._renderer.render(moment, ["front"])

    def write(self, file: Path, fps: float = 15.0) -> None:
        """Write what was filmed, as GIF or MP4 by the ending of the name."""
        if self.images:
            write_images(file, self.images, fps)

    def close(self) -> None:
        """Let go of the renderer. Idempotent."""
        self._renderer.close()
