"""A classifier of success from labelled episodes of a simulated scene: how good on others.

Records peg insertions with two cameras: solved by the scripted expert, and failed in ways that look
alike (it aims beside the hole, lets go of its task half way, or moves at random), the same number of
each. Trains on the first, judges the others, which it never saw::

    tools/run python benchmarks/recipes/reward_classifier.py --train 40 --test 60 --out /tmp/classifier

``--beside`` also lets one network judge that learned from all episodes, with the same threshold.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from user_core.command_line import Parser
from user_core.config import from_mapping
from user_core.rewards.classifier import ClassifierConfig, ClassifierReward, write_model
from user_core.specs import Array
from user_core.types import (
    OBSERVATION,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.sim.experts import ScriptedExpert
from user_learner.edits import EditedEpisodes
from user_learner.replay import StoreConfig, StoreWriter
from user_learner.success.evaluation import Evaluation, draw_curve, draw_mistakes, evaluate
from user_learner.success.training import TrainConfig, fitted, frames_of, labelled, train

AFTER = 2
FAULTS = ("beside", "half_way", "random")


def record(path: Path, episodes: int, seed: int, size: int) -> None:
    """Record episodes, every other one to be a failure; what the simulator says is the label."""
    robot = MujocoRobot(
        MujocoConfig(cameras=("front", "wrist"), image_height=size, image_width=size)
    )
    robot.connect()
    schema, rng = TrajectorySchema.of(robot.spec), np.random.default_rng(seed)
    try:
        with StoreWriter(path, config=StoreConfig(durability="kernel")) as writer:
            for number in range(episodes):
                fault = FAULTS[number // 2 % len(FAULTS)] if number % 2 else ""
                steps, solved = one_episode(robot, fault, rng, seed * 100_000 + number)
                key = EpisodeKey("bench", seed, number)
                outcome = Outcome.SUCCESS if solved else Outcome.FAILURE
                result = EpisodeResult(key, EpisodeSource.ONLINE, outcome, len(steps) - 1, 0.0)
                chunk = TrajectoryChunk(
                    ChunkId("bench", seed, number + 1), key, EpisodeSource.ONLINE, 0,
                    schema.rows(steps), schema.hash, result, robot.spec.robot, "peg_insertion",
                )  # fmt: skip
                writer.append(chunk)
    finally:
        robot.close()


def one_episode(
    robot: MujocoRobot, fault: str, rng: np.random.Generator, seed: int
) -> tuple[list[Step | FinalObservation], bool]:
    """Steps of one episode, and whether the task was solved at its end."""
    observation = robot.reset(seed)
    expert = ScriptedExpert(robot.spec, 0.1, seed)
    expert.reset()
    low, high = robot.spec.action.low_array, robot.spec.action.high_array
    beside = rng.choice([-1, 1], 2) * rng.uniform(0.15, 0.4, 2) * high[:2]
    half_way, after, steps = int(rng.integers(8, 30)), AFTER, list[Step | FinalObservation]()
    while not observation.task.truncated and after > 0:  # time being over, the verdict stands
        action: Array = expert.act(observation.arrays)
        if fault == "random":
            action = rng.uniform(low, high).astype(np.float32)
        elif fault == "half_way" and len(steps) >= half_way:
            action = np.clip(0.1 * rng.normal(size=len(low)) * high, low, high).astype(np.float32)
        elif fault == "beside":
            action[:2] = np.clip(action[:2] + beside, low[:2], high[:2])
        robot.command(action)
        steps.append(Step(observation.arrays, action, action, 0.0, stamp_ns=observation.stamp_ns))
        observation = robot.read()
        if observation.task.success:
            after -= 1
    steps.append(FinalObservation(observation.arrays, observation.stamp_ns))
    return steps, bool(observation.task.success)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--draw", type=int, default=0, help="another number, other episodes")
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--beside", action="store_true", help="one network of all episodes, too")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    first = 1 + 2 * arguments.draw
    for name, episodes, seed in (
        ("train", arguments.train, first),
        ("test", arguments.test, first + 1),
    ):
        if not (arguments.out / name).exists():
            began = time.perf_counter()
            record(arguments.out / name, episodes, seed, arguments.image)
            print(f"{name}: {episodes} episodes in {time.perf_counter() - began:.0f} s", flush=True)
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        config = TrainConfig(seed=seed, epochs=arguments.epochs)
        began = time.perf_counter()
        with EditedEpisodes(arguments.out / "train") as view:
            model, network, about = train(view, config)
        took_s = time.perf_counter() - began
        write_model(arguments.out / f"model_{seed}.safetensors", model, network)
        found = judged(arguments.out, f"{seed}", drawn=True)
        line = {
            "draw": arguments.draw,
            "seed": seed,
            "training_s": round(took_s, 1),
            "successes_of_training": about["successes"],
            "threshold": round(model.threshold, 4),
            "promised": about["is_reached"],
            "precision_of_training": round(about["precision"], 3),
            "recall_of_training": round(about["recall"], 3),
            "test_episodes": len(found.episodes),
            "test_successes": sum(e.solved for e in found.episodes),
            **shares(found),
        }
        if arguments.beside:
            one = replace(model, networks=1)
            with EditedEpisodes(arguments.out / "train") as view:
                frames = frames_of(view, one, config, labelled(view))
            alone = fitted(frames, np.ones(len(frames.keys), bool), one, config)
            write_model(arguments.out / f"model_{seed}_one.safetensors", one, alone)
            line["one_network"] = shares(judged(arguments.out, f"{seed}_one"))
            line["step_ms"] = step_ms(arguments.out, [f"{seed}", f"{seed}_one"])
        print(json.dumps(line), flush=True)


def judged(folder: Path, name: str, drawn: bool = False) -> Evaluation:
    """What the reward with that model says of the episodes of the test."""
    reward = reward_of(folder, name)
    with EditedEpisodes(folder / "test") as view:
        found = evaluate(view, reward, labelled(view))
        if drawn:
            draw_curve(found, folder / f"curve_{name}.png")
            draw_mistakes(found, view, list(reward.model.cameras), folder / f"mistakes_{name}.png")
    return found


def reward_of(folder: Path, name: str) -> ClassifierReward:
    """The reward with that model."""
    file = folder / f"model_{name}.safetensors"
    return ClassifierReward(from_mapping(ClassifierConfig, {"model": str(file)}))


def step_ms(folder: Path, names: list[str]) -> list[float]:
    """How much of a core each takes for one step, in turns: medians, milliseconds."""
    rewards, taken = [reward_of(folder, name) for name in names], [[] for _ in names]
    with EditedEpisodes(folder / "test") as view:
        columns = view.read(labelled(view)[0])
    frame = {n: columns[OBSERVATION + n][1:2] for n in rewards[0].model.cameras}
    for _ in range(300):
        for reward, mine in zip(rewards, taken, strict=True):
            began = time.thread_time()
            reward.scores(frame)
            mine.append(1e3 * (time.thread_time() - began))
    return [round(float(np.median(mine)), 2) for mine in taken]


def shares(found: Evaluation) -> dict[str, float]:
    """Precision and recall, for people."""
    return {
        "precision": round(found.precision, 3),
        "recall": round(found.recall, 3),
        "recall_at_0.95": round(found.recall_at(0.95), 3),
    }


if __name__ == "__main__":
    main()
