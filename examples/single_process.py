"""The whole of USER in one process: collect, learn, publish, swap, again. No ROS.

In the running system each part below is a process of its own: the robot with its safety gate in
``hal_node``, the episode loop in ``actor_node``, the memory in ``replay_node``, the algorithm in
``learner_node``; and what is a function call here is a message there. The classes are the same.

    python examples/single_process.py                                     # a point finds its goal
    python examples/single_process.py --env Pendulum-v1 --steps 10000     # any Gymnasium environment
"""

from __future__ import annotations

import numpy as np

from user_actor.loop import EpisodeLoop, PolicyHolder
from user_actor.loop.ports import MemorySink
from user_core import fakes, plugins, types
from user_core.command_line import Parser
from user_hal.local import LocalHal


def evaluate(robot, policies, reward, episodes=20):
    """Mean return and success rate of deterministic episodes, kept out of the memory."""
    judge = EpisodeLoop(robot, policies, reward, MemorySink("evaluation"))
    starts = range(1_000_000, 1_000_000 + episodes)
    results = [judge.run(types.EpisodeSource.EVALUATION, seed=start) for start in starts]
    success = np.mean([result.outcome is types.Outcome.SUCCESS for result in results])
    return np.mean([result.episode_return for result in results]), success


def main() -> float:
    """Learn; return the mean return of the last evaluation."""
    parser = Parser(description=__doc__.splitlines()[0])
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

    robot = LocalHal(plugins.build("robots", *environment))  # behind the safety gate
    reward = plugins.build("rewards", "task")

    def make_policy():
        return plugins.build("policies", policy, shape, robot.spec)

    algorithm = plugins.build("algorithms", arguments.algorithm, fast, robot.spec, make_policy())
    memory, mailbox = fakes.MemoryReplay(), fakes.PolicyMailbox()
    policies = PolicyHolder(make_policy, robot.spec, mailbox)
    actor = EpisodeLoop(robot, policies, reward, MemorySink("actor", to=memory))
    version, due, mean_return = 0, 0, 0.0
    with robot:
        while True:
            if len(memory) >= min(due, arguments.steps):
                mean_return, success = evaluate(robot, policies, reward)
                print(
                    f"{len(memory):6} steps, version {version:3}: "
                    f"return {mean_return:8.2f}, success {success:4.0%} |{'#' * round(20 * success)}"
                )
                due += max(100, arguments.steps // 10)
            if len(memory) >= arguments.steps:
                break
            steps = actor.run(seed=version).length  # collect an episode; before version 1 at random
            for _ in range(-(-steps // algorithm.updates_per_call)):  # learn: one update a step
                algorithm.update(memory.sample(128 * algorithm.updates_per_call))
            version += 1
            mailbox.publish(types.PolicyVersion(version, algorithm.policy_arrays()))
            policies.load_newest()  # the loop swaps it in before its next step
    return float(mean_return)


if __name__ == "__main__":
    main()
