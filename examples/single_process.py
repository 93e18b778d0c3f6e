"""The whole of USER in one process: collect, learn, publish, swap, again. No ROS, no threads.

In the running system each part below is a process of its own: the robot in ``hal_node``, the
acting half of the loop in ``actor_node``, the memory in ``replay_node``, the learning half in
``learner_node``; and what is a function call here is a message there. The words are the same.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from user_core import fakes, plugins
from user_core.types import (
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    PolicyVersion,
    Step,
)


def run_episode(robot, policy, reward, sink, key, version, deterministic=False):
    """Act until the episode ends; give every step to ``sink``; return what came of it."""
    start_ns, rewards, outcome = time.time_ns(), [], None
    policy.reset()
    observation = robot.reset(seed=key.number)
    while True:
        proposed = policy.act(observation.arrays, deterministic=deterministic)[0]
        action_stamp_ns = time.time_ns()
        executed = robot.command(proposed)
        after = robot.read()
        outcome = reward(observation.arrays, executed, after.arrays, after.task)
        truncated = after.task.truncated and not outcome.terminated
        sink.append(
            Step(
                observation.arrays,
                executed,
                proposed,
                outcome.reward,
                terminated=outcome.terminated,
                truncated=truncated,
                policy_version=version,
                stamp_ns=observation.stamp_ns,
                action_stamp_ns=action_stamp_ns,
            )
        )
        rewards.append(outcome.reward)
        observation = after
        if outcome.terminated or truncated:
            break
    sink.append(FinalObservation(observation.arrays, observation.stamp_ns))
    result = EpisodeResult(
        key,
        EpisodeSource.EVALUATION if deterministic else EpisodeSource.ONLINE,
        Outcome.SUCCESS if outcome.success else Outcome.TIMEOUT,
        length=len(rewards),
        episode_return=float(np.sum(rewards)),
        first_version=version,
        last_version=version,
        start_ns=start_ns,
        end_ns=time.time_ns(),
    )
    sink.end_episode(result)
    return result


def main() -> float:
    """Learn; return the success rate of the last evaluation."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=10, help="rounds of acting and learning")
    rounds = arguments.parse_args().rounds
    robot = plugins.build("robots", "fake")
    reward = plugins.build("rewards", "task")
    actor_policy = plugins.build("policies", "linear_gaussian", {}, robot.spec)
    learner_policy = plugins.build("policies", "linear_gaussian", {}, robot.spec)
    algorithm = plugins.build("algorithms", "rwr", {}, robot.spec, learner_policy)
    memory, mailbox = fakes.MemoryReplay(), fakes.PolicyMailbox()
    robot.connect()
    version = number = success = 0
    for turn in range(rounds + 1):
        if newest := mailbox.newest(after=version):  # the actor, between two steps
            actor_policy.load(newest.arrays)
            version = newest.number
        trials = [
            run_episode(robot, actor_policy, reward, fakes.MemoryReplay(),
                        EpisodeKey("evaluation", 0, start), version, deterministic=True)
            for start in range(20)
        ]  # fmt: skip
        success = np.mean([trial.outcome is Outcome.SUCCESS for trial in trials])
        mean_return = np.mean([trial.episode_return for trial in trials])
        bar = "#" * round(20 * success)
        print(f"version {version:2}  success {success:4.0%} |{bar:<20}|  return {mean_return:7.2f}")
        for _ in range(5):  # the actor
            key = EpisodeKey("actor", 0, 1000 + number)
            run_episode(robot, actor_policy, reward, memory, key, version)
            number += 1
        for _ in range(20):  # the learner
            algorithm.update(memory.sample(1024))
        arrays = algorithm.policy_arrays()
        mailbox.publish(PolicyVersion(turn + 1, arrays, created_ns=time.time_ns()))
    robot.close()
    return float(success)


if __name__ == "__main__":
    main()
