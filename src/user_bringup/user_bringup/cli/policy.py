"""Policies of runs and trainings, for others: `user policy save RUN FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from user_core.command_line import Parser

if TYPE_CHECKING:
    from user_core.interfaces import Policy


def main(argv: Sequence[str]) -> int:
    """Write what was asked for; exit code 0."""
    arguments = _parser().parse_args(argv)
    from user_bringup.offline import CONFIG_FILE, policy_of_training
    from user_core.errors import ConfigError

    if arguments.folder.exists() and not arguments.folder.is_dir():
        raise ConfigError(
            f"{arguments.folder}",
            got="a file",
            expected="a folder, or a name that is not taken yet",
        )
    if (arguments.run / CONFIG_FILE).exists():
        policy, version = policy_of_training(arguments.run, arguments.policy)
    else:
        policy, version = _of_run(arguments.run, arguments.policy)
    if not hasattr(policy, "save"):
        raise ConfigError(
            f"policy of {arguments.run}", got=f"{type(policy).__name__}, which only we read",
            expected="one that another library reads: policy lerobot",
            hint="Its weights are in learner/policy.safetensors",
        )  # fmt: skip
    policy.save(arguments.folder)
    print(f"policy version {version} of {arguments.run} is in {arguments.folder}")
    return 0


def _of_run(folder: Path, file: Path | None) -> tuple[Policy, int]:
    """The newest policy of a run, made for the robot that it had."""
    from user_bringup.run_parts import RunParts
    from user_hal.robot_file import build_robot, spec_of

    parts = RunParts.load(folder)
    robot = parts.robot_file()
    driver = build_robot(robot)
    try:
        return parts.policy(spec_of(robot, driver), file)
    finally:
        driver.close()


def _parser() -> Parser:
    parser = Parser(prog="user policy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    save = commands.add_parser(
        "save",
        help="write the newest policy of a run or training as a checkpoint that LeRobot opens",
        description="Write the newest policy of a run or training (policy lerobot) as a checkpoint of LeRobot: configuration, "
        "weights, and processors with the statistics that it normalises with.",
    )
    save.add_argument(
        "run", type=Path, help="folder of the run, runs/<id>, or of a training (`user train --out`)"
    )
    save.add_argument("folder", type=Path, help="folder to write")
    save.add_argument(
        "--policy",
        type=Path,
        help="the learner's policy file, where it is not in the run's folder; of a training also best.safetensors",
    )
    return parser
