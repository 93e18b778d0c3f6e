"""Record demonstrations: `user demos record ROBOT`, by the scripted expert or a teleoperator."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from user_core.plugins import build
from user_core.types import Outcome
from user_hal.robot_file import build_robot, find_robot_file, load_robot_file


def main(argv: Sequence[str]) -> int:
    """Record; print where the store is."""
    arguments = _parser().parse_args(argv)
    from user_bringup.demos import record_demonstrations

    file = load_robot_file(find_robot_file(arguments.robot))
    overrides = json.loads(arguments.params) if arguments.params else {}
    reward_params = json.loads(arguments.reward_params) if arguments.reward_params else {}
    if overrides:
        params = {**file.robot.params, **overrides}
        file = file.replace(robot=file.robot.replace(params=params))
    with ExitStack() as stack:
        robot = stack.enter_context(closing(build_robot(file)))
        robot.connect()
        params = {"noise": arguments.noise} if arguments.teleop == "expert" else {}
        teleop = stack.enter_context(closing(build("teleops", arguments.teleop, params)))
        teleop.connect(robot.spec)
        progress = stack.enter_context(
            Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        )
        bar = progress.add_task("demonstrations", total=arguments.episodes)

        def show(outcome: Outcome) -> None:
            progress.advance(bar, 1 if outcome is Outcome.SUCCESS else 0)

        recorded = record_demonstrations(
            robot, teleop, build("rewards", arguments.reward, reward_params), arguments.out,
            arguments.episodes,
            robot_name=arguments.robot, task=file.task, seed=arguments.seed, on_episode=show,
        )  # fmt: skip
    print(
        f"{recorded.episodes} demonstrations, {recorded.steps} steps, in {arguments.out}"
        + (f" ({recorded.failures} attempts failed)" if recorded.failures else "")
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="user demos", description=__doc__)
    record = parser.add_subparsers(dest="what", required=True).add_parser(
        "record", help="record demonstrations into a replay store"
    )
    record.add_argument("robot", help="robot configuration: a path, or the name of a ready one")
    record.add_argument("--out", type=Path, required=True, help="replay store to append to")
    record.add_argument("--episodes", type=int, default=20, help="successes to record")
    record.add_argument("--teleop", default="expert", help="teleop plugin that demonstrates")
    record.add_argument("--noise", type=float, default=0.0, help="noise of the expert's hand")
    record.add_argument("--reward", default="task", help="reward plugin that judges")
    record.add_argument("--reward-params", default="", help="JSON with its parameters")
    record.add_argument("--params", default="", help="JSON that overrides the driver's parameters")
    record.add_argument("--seed", type=int, default=0, help="seed of the first start")
    return parser
