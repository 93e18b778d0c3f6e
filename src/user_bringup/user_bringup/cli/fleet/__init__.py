"""Robots, GPUs and cameras of many hosts: what there is, and who would get what."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_bringup.cli.fleet.state import add_commands, open_store
from user_bringup.monitor.fleet import view_of
from user_core.command_line import Parser
from user_core.config import (
    file_meant,
    from_mapping,
    load_yaml,
    to_mapping,
)
from user_core.errors import ConfigError
from user_core.reasons import Reason
from user_fleet.resources.inventory import Graph, HostConfig, Inventory, as_table
from user_fleet.resources.model import HostReport, Problem, Resource

#: Most of the simulated robots of one driver that a table shows.
_SHOWN = 4
#: Most lines of why something is not chosen.
_REASONS_SHOWN = 20


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Robots, GPUs and cameras of many hosts: what there is, and who would get what."""
    parser = Parser(prog="user fleet", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_discover(commands)
    _add_plan(commands)
    add_commands(commands)
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace, Console], int] = arguments.run
    return run(arguments, console or Console())


def _add_discover(commands: argparse._SubParsersAction[Parser]) -> None:
    text = (
        "Show what this host has: cores, memory, GPUs, cameras, teleoperation devices, and robots, found by "
        "their drivers, described by files, or running in the ROS graph. Nothing needs to be "
        "configured, and nothing is opened or moved."
    )
    parser = commands.add_parser("discover", help="what this host has", description=text)
    parser.add_argument(
        "--host", type=Path, metavar="FILE", help="file in which the host describes itself"
    )
    parser.add_argument("--driver", action="append", help="ask this driver only (repeatable)")
    parser.add_argument("--no-ros", action="store_true", help="do not look at the ROS graph")
    parser.add_argument(
        "--wait", type=float, default=1.0,
        help="seconds without anything new after which the ROS graph counts as known (default: 1)",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, help="seconds that a driver may take (default: 20)")
    parser.add_argument("--all", action="store_true", help="all simulated robots, too")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.set_defaults(run=_discover)


def _discover(arguments: argparse.Namespace, console: Console) -> int:
    """Print the report of this host; 1 when something could not be looked at."""
    from user_fleet.resources.contracts import read_contracts
    from user_hal.robot_file import find_robot_file, ready_robot_files

    config = from_mapping(HostConfig, load_yaml(arguments.host) if arguments.host else {})
    if arguments.driver:
        config = config.replace(drivers=tuple(arguments.driver))
    if arguments.limit:
        config = config.replace(probe_limit_s=arguments.limit)
    contracts, problems = read_contracts(ready_robot_files())
    inventory = Inventory(config, find_robot_file, contracts)
    with ExitStack() as stack:
        graph = None
        if not arguments.no_ros:
            graph, trouble = _graph(stack, arguments.wait)
            if trouble:
                problems.append(Problem.of("ROS graph", trouble))
        report = inventory.report(graph)
    report = report.replace(problems=(*report.problems, *problems))
    if arguments.json:
        print(json.dumps(to_mapping(report), indent=2))
    else:
        _print(report, console, arguments.all)
    return 1 if report.problems else 0


def _add_plan(commands: argparse._SubParsersAction[Parser]) -> None:
    text = (
        "Match the roles of an experiment with what hosts have, and explain: what would be chosen, and "
        "for everything else why not. Nothing is taken or started."
    )
    parser = commands.add_parser("plan", help="what an experiment would be given", description=text)
    parser.add_argument("experiment", help="file of the experiment, or the name of a ready one")
    parser.add_argument(
        "--report", type=Path, action="append", metavar="FILE",
        help="report of a host, from `user fleet discover --json` there (repeatable); without "
        "any: this host, without its ROS graph",
    )  # fmt: skip
    parser.add_argument(
        "--fleet", action="store_true", help="with the hosts of the scheduler, as things stand"
    )
    parser.add_argument("--state", default="", metavar="FILE", help="file of the scheduler")
    parser.add_argument("--all", action="store_true", help="why not, of every resource")
    parser.add_argument("--json", action="store_true", help="the plan as JSON")
    parser.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace, console: Console) -> int:
    """Print a plan; 1 when the experiment cannot have what it asks for now."""
    from user_fleet.scheduling.experiment import load_experiment
    from user_fleet.scheduling.plan import Situation, plan
    from user_fleet.scheduling.scheduler import Scheduler

    experiment = load_experiment(file_meant("experiments", arguments.experiment))
    if arguments.fleet or arguments.state:
        store = open_store(arguments)
        situation = Scheduler(store).situation(view_of(store), experiment)
    else:
        situation = Situation(_of_reports(arguments.report))
    found = plan(experiment, situation)
    why_not = sorted(found.why_not(), key=lambda row: row[2].count("; "))  # the nearest first
    if arguments.json:
        data = {
            "experiment": experiment.name,
            "verdict": found.verdict,
            "home": found.home,
            "roles": found.roles,
            "waits_for": {item: to_plain(why) for item, why in found.waits_for.items()},
            "obstacle": found.obstacle,
            "nearest": found.nearest,
            "why_not": [{"id": i, "role": role, "text": text} for i, role, text in why_not],
        }
        print(json.dumps(data, indent=2))
        return 0 if found.verdict == "now" else 1
    for line in found.in_words():
        console.print(escape(line), soft_wrap=True)
    rows = why_not if arguments.all else _alike(why_not)
    shown = rows if arguments.all else rows[:_REASONS_SHOWN]
    if shown:
        table = Table(title="Why not the others", title_justify="left")
        for column in ("resource", "for", "why not"):
            table.add_column(column, overflow="fold")
        for row in shown:
            table.add_row(*map(escape, row))
        console.print(table)
    if len(shown) < len(why_not):
        console.print("[dim]each by itself: --all[/]")
    return 0 if found.verdict == "now" else 1


def _alike(why_not: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those that are not chosen, in one row where the same is said of several: the nearest first."""
    alike: dict[tuple[str, str], list[str]] = {}
    for item, role, text in why_not:
        alike.setdefault((role, text), []).append(item)
    rows = sorted(
        alike.items(),
        key=lambda row: (not row[0][1].startswith("it fits"), row[0][1].count("; "), len(row[1])),
    )
    return [
        (", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else ""), role, text)
        for (role, text), ids in rows
    ]


def _of_reports(files: Sequence[Path] | None) -> list[Resource]:
    """The resources of hosts whose reports are in files; of this host, where there is none."""
    from user_hal.robot_file import find_robot_file

    if files:
        reports = [read_report(file) for file in files]
    else:
        reports = [Inventory(HostConfig(), find_robot_file).report()]
    return unique([item for report in reports for item in report.resources])


def read_report(file: Path) -> HostReport:
    """The report of a host from a file. Raises CodecError or ConfigError."""
    try:
        return HostReport.from_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"report {str(file)!r}", got=error.strerror, expected="a file") from error


def unique(resources: Sequence[Resource]) -> list[Resource]:
    """Each resource once. Raises ConfigError where two hosts have the same name."""
    by_id = {item.id: item for item in resources}
    if len(by_id) != len(resources):
        ids = [item.id for item in resources]
        twice = next(item for item in ids if ids.count(item) > 1)
        raise ConfigError(
            "reports", got=f"{twice!r} in two", expected="each host once, by a name of its own"
        )
    return list(by_id.values())


def to_plain(reason: Reason) -> Mapping[str, str]:
    """A reason as plain data."""
    return {"code": reason.code, "text": reason.text}


def _graph(stack: ExitStack, wait_s: float) -> tuple[Graph | None, Reason]:
    try:
        from user_comm.topic_io import open_topic_io  # needs ROS; nothing else here does
        from user_hal.cli.robots import settle
    except ImportError as error:
        return None, Reason.of(error)
    io = stack.enter_context(open_topic_io("user_fleet_discover"))
    settle(io, wait_s)
    return (io.topics(), io.service_types()), Reason()


def _print(report: HostReport, console: Console, everything: bool) -> None:
    where = f" at {report.site}" if report.site else ""
    table = Table(title=f"Host {report.host}{where}", title_justify="left")
    table.add_column("resource", style="bold", overflow="fold")
    table.add_column("what it is")
    table.add_column("has")
    table.add_column("health")
    hidden = {} if everything else _hidden(report.resources)
    shown = [item for item in report.resources if item.id not in hidden]
    for row in as_table(report.replace(resources=tuple(shown))):
        colour = "green" if row[3] == "ready" else "yellow"
        table.add_row(*map(escape, row[:3]), f"[{colour}]{escape(row[3])}[/]")
    console.print(table)
    for driver in sorted(set(hidden.values())):
        count = list(hidden.values()).count(driver)
        console.print(f"[dim]and {count} more simulated robots of driver {driver}: --all[/]")
    for problem in report.problems:
        console.print(f"[red]{escape(problem.what)}[/]: {escape(problem.text)} [{problem.code}]")


def _hidden(resources: Sequence[Resource]) -> Mapping[str, str]:
    """Ids of simulated robots that would only fill the screen, to their drivers."""
    hidden, seen = {}, dict[str, int]()
    for item in resources:
        if item.source.startswith("driver ") and "simulated" in item.tags:
            seen[item.driver] = seen.get(item.driver, 0) + 1
            if seen[item.driver] > _SHOWN:
                hidden[item.id] = item.driver
    return hidden
