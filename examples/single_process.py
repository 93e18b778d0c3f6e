"""The whole of USER in one process: collect, learn, publish, swap, again. No ROS, no threads.

In the running system each part below is a process of its own: the robot in ``hal_node``, the
acting half of the loop in ``actor_node``, the memory in ``replay_node``, the learning half in
``learner_node``; and what is a function call here is a message there. The words are the same.

    python examples/single_process.py                                     # a point finds its goal
    python examples/single_process.py --env Pendulum-v1 --steps 10000     # any Gymnasium environment
"""

from __future__ import annotations

import argparse

import numpy as np

from user_core import fakes, plugins, types


def run_episode(robot, policy, reward, sink, key, version, deterministic=False):
    """Act until the episode ends; give every step to ``sink``; return what came of it."""
    rewards, ended = [], False
    policy.reset()
    observation = robot.reset(seed=key.number)
    while not ended:
        proposed = policy.act(observation.arrays, deterministic=deterministic)[0]
        executed = robot.command(proposed)  # what the motors really got
        after = robot.read()
        outcome = reward(observation.arrays, executed, after.arrays, after.task)
        truncated = after.task.truncated and not outcome.terminated
        sink.append(
            types.Step(observation.arrays, executed, proposed, outcome.reward,
                       outcome.terminated, truncated, policy_version=version)
        )  # fmt: skip
        rewards.append(outcome.reward)
        observation, ended = after, outcome.terminated or truncated
    sink.append(types.FinalObservation(observation.arrays))  # kept also at a time-out
    source = types.EpisodeSource.EVALUATION if deterministic else types.EpisodeSource.ONLINE
    verdict = types.Outcome.SUCCESS if outcome.success else types.Outcome.TIMEOUT
    result = types.EpisodeResult(key, source, verdict, len(rewards), float(np.sum(rewards)))
    sink.end_episode(result)
    return result


def evaluate(robot, policy, reward, version, episodes=20):
    """Mean return and success rate of deterministic episodes, kept out of the memory."""
    keys = [types.EpisodeKey("evaluation", 0, 1_000_000 + start) for start in range(episodes)]
    aside = fakes.MemoryReplay()
    results = [run_episode(robot, policy, reward, aside, key, version, True) for key in keys]
    success = np.mean([result.outcome is types.Outcome.SUCCESS for result in results])
    return np.mean([result.episode_return for result in results]), success


def main() -> float:
    """Learn; return the mean return of the last evaluation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", help="a Gymnasium environment instead of the fake robot")
    parser.add_argument("--algorithm", default="sac", help="algorithm plugin: sac, rlpd, rwr")
    parser.add_argument("--steps", type=int, default=1200, help="steps to collect")
    arguments = parser.parse_args()
    environment = ("gymnasium", {"env_id": arguments.env}) if arguments.env else ("fake", {})
    policy, shape, fast = "tanh_gaussian", {}, {"initial_temperature": 0.1}
    fast |= {f"{network}_learning_rate": 1e-3 for network in ("actor", "critic", "temperature")}
    if arguments.env:  # a longer task: slower and steadier, and on the scale of what it sees
        shape, fast = {"normalization": "data"}, {"critic_learning_rate": 1e-3}
    if arguments.algorithm == "rwr":  # the shortest honest algorithm, for reading
        policy, shape, fast = "linear_gaussian", {}, {}
    robot = plugins.build("robots", *environment)
    reward = plugins.build("rewards", "task")
    actor_policy = plugins.build("policies", policy, shape, robot.spec)
    learner_policy = plugins.build("policies", policy, shape, robot.spec)
    algorithm = plugins.build("algorithms", arguments.algorithm, fast, robot.spec, learner_policy)
    memory, mailbox = fakes.MemoryReplay(), fakes.PolicyMailbox()
    robot.connect()
    version, due, mean_return = 0, 0, 0.0
    for number in range(arguments.steps):
        if newest := mailbox.newest(after=version):  # the actor, between two steps
            actor_policy.load(newest.arrays)
            version = newest.number
        if len(memory) >= min(due, arguments.steps):
            mean_return, success = evaluate(robot, actor_policy, reward, version)
            print(
                f"{len(memory):6} steps, version {version:3}: "
                f"return {mean_return:8.2f}, success {success:4.0%} |{'#' * round(20 * success)}"
            )
            due += max(100, arguments.steps // 10)
        if len(memory) >= arguments.steps:
            break
        key = types.EpisodeKey("actor", 0, number)  # the actor
        steps = run_episode(robot, actor_policy, reward, memory, key, version).length
        for _ in range(-(-steps // algorithm.updates_per_call)):  # the learner: one update a step
            algorithm.update(memory.sample(128 * algorithm.updates_per_call))
        mailbox.publish(types.PolicyVersion(number + 1, algorithm.policy_arrays()))
    robot.close()
    return float(mean_return)


if __name__ == "__main__":
    main()
