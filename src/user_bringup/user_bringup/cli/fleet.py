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

from user_core.config import from_mapping, load_yaml, to_mapping
from user_core.reasons import Reason
from user_fleet.resources.inventory import Graph, HostConfig, Inventory, as_table
from user_fleet.resources.model import HostReport, Problem, Resource

#: Most of the simulated robots of one driver that a table shows.
_SHOWN = 4


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Robots, GPUs and cameras of many hosts: what there is, and who would get what."""
    parser = argparse.ArgumentParser(prog="user fleet", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_discover(commands)
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace, Console], int] = arguments.run
    return run(arguments, console or Console())


def _add_discover(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
