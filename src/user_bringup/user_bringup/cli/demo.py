"""Watch a policy being learned: demonstrations, training, evaluation and report in one go."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from user_bringup.cli import demos, evaluate, up
from user_core.command_line import Parser

_EXPERT_NOISE = 0.3
"""A person's demonstrations are not perfect either, and a policy learns more from them."""


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when the final policy reaches what is required."""
    arguments = _parser().parse_args(argv)
    console = Console()
    run = (
        arguments.run or f"demo-{arguments.robot}-{arguments.task}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    folder = arguments.runs / run
    console.rule(f"{arguments.robot}, {arguments.task}: {arguments.demonstrations} demonstrations")
    store = folder / "demonstrations"
    if not store.exists():
        demos.main(
            ["record", str(_robot_file(folder, arguments)), "--out", str(store),
             "--episodes", str(arguments.demonstrations), "--noise", str(_EXPERT_NOISE),
             "--seed", str(10_000 * arguments.seed)]
        )  # fmt: skip
    console.rule("learning")
    words = [
        "sim_single", f"robot:={arguments.robot}", f"task:={arguments.task}",
        f"demonstrations:={store.resolve()}", f"seed:={arguments.seed}", "evaluate_every:=3",
        f"policy_endpoint:={arguments.policy_endpoint}", "--run", run,
        "--runs", str(arguments.runs), "--minutes", str(arguments.minutes), "--until-success", "0.9",
    ]  # fmt: skip
    result = up.main(words + ["--no-table"] * arguments.no_table)
    if result:
        return result
    console.rule("evaluation of the final policy")
    evaluate.main([str(folder), "--episodes", "20", "--require", str(arguments.require)])
    from user_bringup.report import write_report  # matplotlib takes a second to import

    console.print(f"[bold]Look at {write_report(folder)}[/bold], its plots and policy.gif")
    return 0


def _robot_file(folder: Path, arguments: argparse.Namespace) -> Path:
    """A robot file for the simulated arm."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "robot.yaml"
    params = {"robot": arguments.robot, "task": arguments.task}
    file.write_text(
        yaml.safe_dump({"robot": {"plugin": "mujoco", "params": params}, "task": arguments.task}),
        encoding="utf-8",
    )
    return file


def _parser() -> Parser:
    parser = Parser(prog="user demo", description=__doc__)
    parser.add_argument("--robot", default="panda", choices=["panda", "ur5e"])
    parser.add_argument(
        "--task", default="peg_insertion", choices=["reach", "pick_place", "peg_insertion"]
    )
    parser.add_argument(
        "--demonstrations", type=int, default=20, help="demonstrations of the expert to record"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="longest time to learn")
    parser.add_argument(
        "--require", type=int, default=18, help="successes of 20 that the final policy must reach"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--run", default="", help="name of the run; an existing one is continued")
    parser.add_argument("--policy-endpoint", default="tcp/127.0.0.1:7457")
    parser.add_argument("--no-table", action="store_true", help="print lines instead of a table")
    return parser
