"""Runs under stress: `user chaos` kills processes at random, `user soak` looks for what grows."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from user_bringup.chaos.evidence import Evidence
from user_bringup.chaos.faults import LINK, Link, PlanSize, make_plan
from user_bringup.chaos.figures import describe_growth, draw_growth, draw_recovery, recovery_table
from user_bringup.chaos.promises import lost_blows, promises
from user_bringup.chaos.trial import Trial
from user_bringup.chaos.verdict import Check
from user_bringup.running import find_deployment, read_deployment, ros_domains
from user_core.command_line import Parser
from user_core.errors import ConfigError, SuiteError
from user_fleet.deployment import Deployment, Faults, ProcessSpec, parse_overrides

_WRITERS = ("actor_node", "replay_node", "learner_node")
_HUNGRY = ("learner_node",)
#: Argument of deployments of several hosts: where the robots' side reaches the learner's router.
ROBOT_ROUTER = "robot_router"


def chaos(argv: Sequence[str]) -> int:
    """Kill the processes of a real run at random, and prove that nothing was lost.

    Exit code 0 when every promise was kept.
    """
    arguments = _chaos_parser().parse_intermixed_args(argv)
    if arguments.fleet:
        return _chaos_fleet(arguments)
    has_link = ROBOT_ROUTER in _load(arguments, Path()).arguments  # or what is wrong with it
    if arguments.networks and not has_link:
        raise ConfigError(
            f"--networks {arguments.networks}",
            got=f"a deployment without the argument {ROBOT_ROUTER!r}",
            expected="one of several hosts, as two_hosts",
        )
    size = _size(arguments, has_link)
    run = arguments.run or f"chaos-{arguments.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    trial, checks = run_trial(arguments, run, size, resource_period_s=10.0)
    return _write(trial, checks, arguments, size, run)


def _chaos_fleet(arguments: argparse.Namespace) -> int:
    """The same to an experiment on a fleet."""
    from user_bringup.cli.chaos.fleet import run_fleet_trial

    if arguments.arguments or arguments.only or arguments.pairs or arguments.memories:
        raise ConfigError(
            "--fleet", got="arguments of a deployment, --only, --pairs or --memories",
            expected="an experiment alone, with --kills, --suspends and --networks",
        )  # fmt: skip
    arguments.disks = 0
    size = _size(arguments, has_link=True)
    run = arguments.run or f"fleet-{arguments.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    trial, checks = run_fleet_trial(arguments, run, size)
    return _write(trial, checks, arguments, size, run)


def _write(
    trial: Trial, checks: Sequence[Check], arguments: argparse.Namespace, size: PlanSize, run: str
) -> int:
    """Write and print what was found; the exit code."""
    folder = (arguments.runs / run).resolve()
    text = _report(trial, checks, arguments, size)
    (folder / "chaos.md").write_text(text, encoding="utf-8")
    (folder / "chaos.json").write_text(
        json.dumps(
            {
                "seed": arguments.seed,
                "blows": [blow.to_dict() for blow in trial.blows],
                "checks": [vars(check) for check in checks],
            },
            indent=1,
        ),
        encoding="utf-8",
    )
    print(text)
    return 0 if all(check.good for check in checks) else 1


def _size(arguments: argparse.Namespace, has_link: bool) -> PlanSize:
    def one_in(kills: int, given: int | None) -> int:
        return arguments.kills // kills if given is None else given

    return PlanSize(
        seconds=60 * arguments.minutes,
        kills=arguments.kills,
        suspends=one_in(5, arguments.suspends),
        disks=one_in(10, arguments.disks),
        networks=one_in(5, arguments.networks) if has_link else 0,
        memories=arguments.memories,
        longest_s=arguments.longest,
        apart_s=arguments.apart,
        pairs=arguments.pairs,
    )


def run_trial(
    arguments: argparse.Namespace, run: str, size: PlanSize, resource_period_s: float
) -> tuple[Trial, list[Check]]:
    """Start a run, let things happen to it, end it, judge it."""
    from user_bringup.nodes.graph_recorder import GraphRecorder

    folder = (arguments.runs / run).resolve()
    words = [
        arguments.deployment, *arguments.arguments,
        "--runs", str(arguments.runs), "--run", run,
    ]  # fmt: skip
    said: list[str] = []
    deployment = _load(arguments, folder)

    def tell(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    # A run must not be left behind, also when this was started in the background of a script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    evidence = Evidence()
    with ExitStack() as stack:
        for domain in ros_domains(deployment):
            stack.enter_context(GraphRecorder(evidence, domain))
        link = None
        if size.networks:
            host, _, port = str(_values(deployment, arguments)["router"]).rpartition(":")
            link = stack.enter_context(Link(host.rpartition("/")[2], int(port)))
            through = f"{ROBOT_ROUTER}:="
            words = [word for word in words if not word.startswith(through)]
            words.insert(1, f"{through}tcp/127.0.0.1:{link.port}")
        trial = Trial(words, folder, evidence, tell, resource_period_s, link)
        failure = ""
        try:
            trial.start()
            assert trial.deployment is not None
            only = getattr(arguments, "only", [])
            victims, writers, hungry = _cast(trial.deployment, only)
            partners = pairs_of(trial.deployment.processes, victims)
            plan = make_plan(arguments.seed, victims, writers, size, hungry, partners)
            trial.follow(plan, size.seconds)
        except SuiteError as error:
            failure = str(error)
        finally:
            left = trial.end()
    folder.mkdir(parents=True, exist_ok=True)  # also where user up refused to start
    (folder / "chaos.log").write_text("\n".join(said) + "\n", encoding="utf-8")
    hits = _describe_blows(trial)
    checks = [
        *promises(trial, evidence, folder, failure, hits, left),
        learned(folder, arguments.require_success),
    ]
    return trial, checks


def learned(folder: Path, share: float) -> Check:
    """Whether it was trained throughout, and the policy succeeds as often as is required."""
    from user_bringup.monitor.history import read_history
    from user_bringup.monitor.shares import success_of
    from user_bringup.monitor.state import EVALUATION, ONLINE

    lines = read_history(folder / "history.jsonl") if (folder / "history.jsonl").exists() else []
    updates = [line["update"] for line in lines if line["kind"] == "state" and "update" in line]
    episodes = [line for line in lines if line["kind"] == "episode"]
    kind = EVALUATION if any(e["source"] == EVALUATION for e in episodes) else ONLINE
    judged = [success_of(e["outcome"], kind) for e in episodes if e["source"] == kind]
    last = [success for success in judged if success is not None][-20:]
    rate = sum(last) / len(last) if last else 0.0
    detail = (
        f"{max(updates, default=0)} updates; {rate:.0%} of the last {len(last)} "
        f"{'evaluation ' if kind == EVALUATION else ''}episodes succeeded, {share:.0%} required"
    )
    return Check("it learned", max(updates, default=0) > 0 and rate >= share, detail)


def _load(arguments: argparse.Namespace, folder: Path) -> Deployment:
    faults = Faults()
    file, overrides = find_deployment(arguments.deployment), parse_overrides(arguments.arguments)
    deployment = read_deployment(file, overrides, folder, faults).deployment
    faults.check()
    return deployment


def _values(deployment: Deployment, arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a deployment, as they were chosen."""
    defaults = {name: argument.default for name, argument in deployment.arguments.items()}
    return {**defaults, **parse_overrides(arguments.arguments)}


def _cast(deployment: Deployment, only: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Who may be killed, whose disk may be full, and who may get no more memory."""
    chosen = [deployment.process(name) for name in only] or deployment.processes
    victims = [process.name for process in chosen]
    writers = [process.name for process in chosen if process.executable in _WRITERS]
    return victims, writers, [p.name for p in chosen if only or p.executable in _HUNGRY]


def pairs_of(processes: Sequence[ProcessSpec], victims: Sequence[str]) -> list[tuple[str, str]]:
    """Those whose faults are worst together: a robot's hal and its actor, a node and the lifecycle
    manager that would bring it up again. Robots first."""
    chosen = [process for process in processes if process.name in victims]
    found: list[tuple[str, str]] = []
    for hal in (p for p in chosen if p.executable == "hal_node"):
        found += [
            (hal.name, other.name)
            for other in chosen
            if other.executable == "actor_node" and other.namespace == hal.namespace
        ]
    managers = [p for p in chosen if p.executable == "lifecycle_manager"]
    found += [
        (process.name, manager.name)
        for manager in managers
        for process in chosen
        if process.lifecycle and process.ros and process not in managers
        if process.host == manager.host
    ]
    return found


def _describe_blows(trial: Trial) -> str:
    hits = [blow for blow in trial.blows if blow.hit_s is not None]
    kills = sum(blow.fault.kind == "kill" for blow in hits)
    again = sum(blow.overtaken and blow.works_s is None for blow in hits)
    said = [f"{kills} kills, {len(hits) - kills} other faults, {again} on those not back yet"]
    return "; ".join([*said, *lost_blows(trial)])


def _report(
    trial: Trial, checks: Sequence[Check], arguments: argparse.Namespace, size: PlanSize
) -> str:
    parts = [f"# Chaos, seed {arguments.seed}"]
    good = all(check.good for check in checks)
    fleet = ["--fleet"] if getattr(arguments, "fleet", False) else []
    parts.append(
        f"`user chaos {' '.join([arguments.deployment, *arguments.arguments, *fleet])} --minutes "
        f"{arguments.minutes:g} --kills {size.kills} --suspends {size.suspends} --disks "
        f"{size.disks} --networks {size.networks} --memories {size.memories} --longest "
        f"{size.longest_s:g} --apart {size.apart_s:g} --pairs {size.pairs} --seed {arguments.seed}`: "
        + ("every promise was kept." if good else "**a promise was broken.**")
    )
    rows = [f"| {'yes' if c.good else '**NO**'} | {c.name} | {c.detail} |" for c in checks]
    parts.append("\n".join(["| kept | promise | seen |", "|---|---|---|", *rows]))
    if trial.deployment is not None and any(blow.hit_s is not None for blow in trial.blows):
        names = {p.name: p.executable for p in trial.deployment.processes}
        names |= {b.fault.victim: LINK for b in trial.blows if b.fault.kind == "network"}
        parts.append(recovery_table(trial.blows, names))
        draw_recovery(trial.blows, names, trial.folder / "recovery.png")
        parts.append("![recovery](recovery.png)")
    return "\n\n".join(parts) + "\n"


def add_common(parser: Parser) -> None:
    """Arguments of `user chaos` and `user soak`."""
    parser.add_argument("deployment", help="name of an installed deployment, or a .yaml file")
    parser.add_argument(
        "arguments", nargs="*", metavar="name:=value",
        help="its arguments, and parameters of its processes by path",
    )  # fmt: skip
    parser.add_argument("--run", default="", help="name of the run; an existing one is continued")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument(
        "--require-success", type=float, default=0.0, metavar="SHARE",
        help="success rate that the last 20 episodes must have",
    )  # fmt: skip


def _chaos_parser() -> Parser:
    parser = Parser(prog="user chaos", description=chaos.__doc__)
    add_common(parser)
    parser.add_argument(
        "--fleet", action="store_true",
        help="what is named is an experiment, which a fleet of three simulated arms at two sites, with two schedulers, "
        "runs; agents and schedulers are hit too, and a site's links are cut",
    )  # fmt: skip
    parser.add_argument(
        "--domains",
        type=int,
        nargs=5,
        default=[44, 45, 46, 47, 48],
        metavar="DOMAIN",
        help="with --fleet: ROS domains of schedulers, three robots' hosts, and the learner's (default: 44 to 48)",
    )
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="time over which the faults are spread"
    )
    parser.add_argument("--kills", type=int, default=20, help="how many processes are killed")
    parser.add_argument(
        "--suspends", type=int, help="how many are suspended (a fifth of the kills)"
    )
    parser.add_argument("--disks", type=int, help="how many disks are full (a tenth of the kills)")
    parser.add_argument(
        "--networks", type=int,
        help="how often the link to the learner's host is cut (a fifth of the kills where there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--memories",
        type=int,
        default=0,
        help="how often the learner, or a process of --only, is refused further memory (default: 0)",
    )
    parser.add_argument(
        "--longest", type=float, default=6.0, help="longest suspension, cut or full disk, seconds"
    )
    parser.add_argument(
        "--apart", type=float, default=0.0, help="least time between two faults, seconds"
    )
    parser.add_argument(
        "--pairs", type=int, default=0,
        help="how often two are killed within 2 s that need each other: hal and actor of a robot, a "
        "node and its lifecycle manager; the first of them right after the start (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PROCESS",
        help="processes that are hit (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same plan")
    return parser


def soak(argv: Sequence[str]) -> int:
    """Let a deployment run for long, and see whether anything grows.

    Exit code 0 when every promise was kept.
    """
    arguments = _soak_parser().parse_intermixed_args(argv)
    find_deployment(arguments.deployment)
    run = arguments.run or f"soak-{time.strftime('%Y%m%d-%H%M%S')}"
    size = PlanSize(60 * arguments.minutes, 0)
    _, checks = run_trial(arguments, run, size, resource_period_s=arguments.period)
    folder = (arguments.runs / run).resolve()
    rows = [f"| {'yes' if c.good else '**NO**'} | {c.name} | {c.detail} |" for c in checks]
    text = "\n\n".join(
        [
            f"# Soak of {arguments.minutes:g} minutes",
            "\n".join(["| kept | promise | seen |", "|---|---|---|", *rows]),
            describe_growth(folder),
            "![resources](soak.png)",
        ]
    )
    (folder / "soak.md").write_text(text + "\n", encoding="utf-8")
    draw_growth(folder, folder / "soak.png")
    print(text)
    return 0 if all(check.good for check in checks) else 1


def _soak_parser() -> Parser:
    parser = Parser(prog="user soak", description=soak.__doc__)
    add_common(parser)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the run lasts")
    parser.add_argument(
        "--period", type=float, default=10.0, help="time between two measurements, seconds"
    )
    parser.set_defaults(seed=0)
    return parser
