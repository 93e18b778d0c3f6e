"""Policies of runs, for others: `user policy save RUN FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from user_core.command_line import Parser


def main(argv: Sequence[str]) -> int:
    """Write what was asked for; exit code 0."""
    arguments = _parser().parse_args(argv)
    from user_bringup.run_parts import RunParts
    from user_core.errors import ConfigError
    from user_hal.robot_file import build_robot, spec_of

    parts = RunParts.load(arguments.run)
    file = parts.robot_file()
    driver = build_robot(file)
    try:
        policy, version = parts.policy(spec_of(file, driver), arguments.policy)
    finally:
        driver.close()
    if not hasattr(policy, "save"):
        raise ConfigError(
            f"policy of {arguments.run}", got=f"{type(policy).__name__}, which only we read",
            expected="one that another library reads: policy lerobot",
            hint="Its weights are in learner/policy.safetensors",
        )  # fmt: skip
    policy.save(arguments.folder)
    print(f"policy version {version} of {arguments.run} is in {arguments.folder}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="user policy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    save = commands.add_parser(
        "save",
        help="write the newest policy of a run as a checkpoint that LeRobot opens",
        description="Write the newest policy of a run (policy lerobot) as a checkpoint of LeRobot: configuration, "
        "weights, and processors with the statistics that it normalises with.",
    )
    save.add_argument("run", type=Path, help="folder of the run, runs/<id>")
    save.add_argument("folder", type=Path, help="folder to write")
    save.add_argument(
        "--policy", type=Path, help="the learner's policy file, where it is not in the run's folder"
    )
    return parser
