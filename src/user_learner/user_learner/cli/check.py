"""``user check policy`` and ``user check algorithm``: do they keep their promises?"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from user_core import plugins
from user_core.command_line import Parser
from user_core.config import parse_parameters
from user_core.conformance import Report, check_algorithm, check_policy
from user_core.conformance.report import Skip, expect
from user_core.errors import SuiteError
from user_core.interfaces import Algorithm, Policy
from user_core.specs import RobotSpec

OK, BROKEN, WRONG_USE = 0, 1, 2
_MARKS = {True: "[green]ok[/]  ", False: "[bold red]FAIL[/]", None: "[yellow]skip[/]"}
_LIGHT = """
import json, sys
from user_core import plugins
from user_core.config import yaml_value
from user_core.specs import RobotSpec
import numpy as np
name, params, spec = json.loads(sys.stdin.read())
spec = RobotSpec.from_dict(spec)
policy = plugins.build("policies", name, yaml_value(params), spec)
policy.load(policy.arrays())
policy.act(spec.sample_observation(np.random.default_rng(0), policy.observation_history))
sys.exit("torch" in sys.modules)
"""


def policy(argv: Sequence[str], console: Console | None = None) -> int:
    """Try a policy for the spec of a robot: `user check policy NAME [param:=value ...]`."""
    parser = _parser("policy", "A policy, by its name or as package.module:Class.")
    parser.add_argument(
        "--algorithm", help="also try whether this algorithm can train it, for instance sac"
    )
    return _run(_check_policy, parser.parse_intermixed_args(argv), console or Console())


def algorithm(argv: Sequence[str], console: Console | None = None) -> int:
    """Try an algorithm on random batches: `user check algorithm NAME [param:=value ...]`."""
    parser = _parser("algorithm", "An algorithm, by its name or as package.module:Class.")
    parser.add_argument(
        "--policy", default="tanh_gaussian", help="what it trains (default: tanh_gaussian)"
    )
    return _run(_check_algorithm, parser.parse_intermixed_args(argv), console or Console())


def _parser(kind: str, what: str) -> Parser:
    parser = Parser(
        prog=f"user check {kind}",
        description=f"Try every promise of a {kind}'s interface on made-up data. {what} "
        "Parameters are given as name:=value; those of the other plugins with policy., "
        "algorithm. or robot. before their names.",
    )
    parser.add_argument("name", help=f"of the {kind}")
    parser.add_argument("params", nargs="*", metavar="name:=value", help="parameters")
    parser.add_argument(
        "--robot", default="fake", help="plugin whose spec it is built for (default: fake)"
    )
    return parser


def _run(check: Any, arguments: argparse.Namespace, console: Console) -> int:
    try:
        report = check(arguments)
    except SuiteError as error:
        console.print(f"[bold red]{error.code}[/]: {escape(str(error))}", soft_wrap=True)
        return WRONG_USE
    console.print(f"[bold]{escape(report.subject)}[/]")
    for one in report.checks:
        detail = f"  [dim]{escape(one.detail)}[/]" if one.detail and one.passed else ""
        console.print(
            f"  {_MARKS[one.passed]} {escape(one.promise)}{detail}", highlight=False, soft_wrap=True
        )
        if one.detail and not one.passed:
            console.print(f"         {escape(one.detail)}", highlight=False, soft_wrap=True)
    return OK if report.passed else BROKEN


def _check_policy(arguments: argparse.Namespace) -> Report:
    params = parse_parameters(arguments.params)
    robot, trainer = params.pop("robot", {}), params.pop("algorithm", {})
    spec = _spec(arguments.robot, robot)

    def build() -> Policy:
        made: Policy = plugins.build("policies", arguments.name, params, spec)
        return made

    policy = build()
    report = check_policy(policy, spec)
    with report.promise("where it says that it acts without torch, it does"):
        if not policy.acts_without_torch:
            raise Skip("it acts with torch")
        given = json.dumps([arguments.name, yaml.safe_dump(params), spec.to_dict()])
        done = subprocess.run(
            [sys.executable, "-c", _LIGHT], input=given, text=True, capture_output=True
        )
        expect(done.returncode == 0, done.stderr.strip()[-500:] or "torch is imported")
    if arguments.algorithm:
        with report.promise(f"{arguments.algorithm} can train it") as seen:
            learning = [
                plugins.build("algorithms", arguments.algorithm, trainer, spec, build())
                for _ in range(2)
            ]
            trained = check_algorithm(learning[0], learning[1], build(), spec, batch_size=8)
            expect(trained.passed, str(trained))
            seen.append(f"{len(trained.checks)} promises")
    return report


def _check_algorithm(arguments: argparse.Namespace) -> Report:
    params = parse_parameters(arguments.params)
    chosen, robot = params.pop("policy", {}), params.pop("robot", {})
    spec = _spec(arguments.robot, robot)

    def policy() -> Policy:
        made: Policy = plugins.build("policies", arguments.policy, chosen, spec)
        return made

    def build() -> Algorithm:
        made: Algorithm = plugins.build("algorithms", arguments.name, params, spec, policy())
        return made

    return check_algorithm(build(), build(), policy(), spec)


def _spec(robot: str, params: Mapping[str, Any]) -> RobotSpec:
    made = plugins.build("robots", robot, params)
    try:
        spec: RobotSpec = made.spec
        return spec
    finally:
        made.close()
