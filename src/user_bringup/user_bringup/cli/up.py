"""Run a deployment, watch it, and keep it running: `user up DEPLOYMENT [name:=value ...]`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from user_bringup.monitor import History, render
from user_bringup.monitor.state import EVALUATION, ONLINE, SystemState
from user_bringup.running import (
    PreparedRun,
    explain,
    find_deployment,
    prepare_run,
    read_deployment,
    ros_domains,
)
from user_fleet.deployment import Faults, parse_overrides
from user_fleet.deployment.check import node_config
from user_fleet.supervisor import Child, ChildState, Supervisor

_REFRESH_S = 0.5
_EVALUATIONS = 20


def main(argv: Sequence[str]) -> int:
    """Run until Ctrl-C, ``--minutes``, ``--steps`` or ``--until-success``; then write the report.

    In a terminal, `g` and Enter say go to robots that wait for a person's word.

    Exit code 0, or 1 when a process was given up.
    """
    arguments = _parser().parse_intermixed_args(argv)
    console = Console()
    overrides = parse_overrides(arguments.arguments)
    file = find_deployment(arguments.deployment)
    if arguments.explain:
        return _explain(file, overrides, arguments.runs / (arguments.run or "RUN"))
    run = prepare_run(file, overrides, arguments.runs, arguments.run)
    console.print(f"run folder: {run.folder}")
    for note in run.notes:
        console.print(note)
    good = asyncio.run(_Up(run, arguments, console).run())
    if run.history.exists():
        from user_bringup.report import write_report  # matplotlib takes a second to import

        console.print(f"report: {write_report(run.folder)}")
    return 0 if good else 1


def check(argv: Sequence[str]) -> int:
    """Check a deployment whole, without starting anything: parameters, plugins, robots, files.

    Exit code 0 when all is well, 1 when something is not; says everything that is wrong.
    """
    parser = argparse.ArgumentParser(prog="user check deployment", description=check.__doc__)
    parser.add_argument("deployment", help="name of an installed deployment, or a .yaml file")
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="as for `user up`")
    parser.add_argument(
        "--elsewhere", action="store_true",
        help="the deployment will run on another machine: files that it names need not be here",
    )  # fmt: skip
    arguments = parser.parse_intermixed_args(argv)
    file, faults = find_deployment(arguments.deployment), Faults()
    overrides = parse_overrides(arguments.arguments)
    folder = (Path("runs") / "RUN").resolve()
    composition = read_deployment(file, overrides, folder, faults, not arguments.elsewhere)
    for fault in faults.found:
        print(fault)
    processes = composition.deployment.processes
    unchecked = [p.name for p in processes if p.ros and node_config(p.executable) is None]
    if unchecked:
        print(f"parameters not checked, because no Config is registered: {', '.join(unchecked)}")
    wrong = f"{len(faults.found)} faults" if faults.found else "no faults"
    print(f"{file}: {len(processes)} processes, {wrong}")
    return 1 if faults.found else 0


def _explain(file: Path, overrides: Mapping[str, Any], folder: Path) -> int:
    """Print what would run; exit code 1 when something is wrong with it."""
    faults = Faults()
    composition = read_deployment(file, overrides, folder.resolve(), faults)
    print(explain(composition))
    for fault in faults.found:
        print(f"user up: {fault}", file=sys.stderr)
    return 1 if faults.found else 0


class _Up:
    def __init__(self, run: PreparedRun, arguments: argparse.Namespace, console: Console) -> None:
        self.prepared, self.arguments, self.console = run, arguments, console
        self.history = History(run.history)
        self.supervisor = Supervisor(
            run.deployment.processes, run.commands, run.log_dir, self._tell_change
        )
        self.stopping = ""

    async def run(self) -> bool:
        """Run everything; whether no process was given up."""
        from user_bringup.nodes.monitor import Monitor

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, "asked to stop")
        with ExitStack() as stack:
            stack.callback(self.history.close)
            domains = ros_domains(self.prepared.deployment)
            monitor = stack.enter_context(Monitor(self.history.episode, domains))
            task = asyncio.create_task(self.supervisor.run())
            live = None
            if not self.arguments.no_table and self.console.is_terminal:
                live = stack.enter_context(Live(console=self.console, screen=False))
            next_line_s = time.monotonic()
            if live is not None and sys.stdin.isatty():
                loop.add_reader(sys.stdin, self._typed, domains)
                stack.callback(loop.remove_reader, sys.stdin)
            while not task.done():
                await asyncio.wait({task}, timeout=_REFRESH_S)
                with monitor.lock:
                    state = monitor.state
                    state.processes = self._process_words()
                    if live is not None:
                        live.update(render(state, f"{self.prepared.deployment.name}  "
                                           f"{self.prepared.folder.name}  {self.stopping}"))  # fmt: skip
                    self._stop_when_done(state)
                    if time.monotonic() >= next_line_s:
                        self.history.state(state)
                        next_line_s += 1.0 if live is not None else 5.0
                        if live is None:
                            print(one_line(state), flush=True)
            return task.result()

    def _stop_when_done(self, state: SystemState) -> None:
        minutes, share = self.arguments.minutes, self.arguments.until_success
        if minutes and state.elapsed_s > 60 * minutes:
            self._stop(f"{minutes:g} minutes are over")
        wanted = self.arguments.steps
        if wanted and any(m.message.environment_steps >= wanted for m in state.learners.values()):
            self._stop(f"{wanted} steps were learned from")
        rate, count = state.rate_of(EVALUATION)
        if share and count >= _EVALUATIONS and rate >= share:
            self._stop(f"{rate:.0%} of the last {count} evaluation episodes succeeded")

    def _stop(self, reason: str) -> None:
        if not self.stopping:
            self.stopping = f"stopping: {reason}"
            self.console.print(self.stopping)
            self.supervisor.request_stop()

    def _typed(self, domains: list[int]) -> None:
        """A line was typed: ``g`` says go to the robots that wait for it."""
        line = sys.stdin.readline()
        if not line:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(sys.stdin)
        elif line.strip().lower() in ("g", "go"):
            self._going = asyncio.create_task(asyncio.to_thread(self._say_go, domains))

    def _say_go(self, domains: list[int]) -> None:
        from user_bringup.nodes.go_caller import GoCaller

        for domain in domains:
            with GoCaller(domain) as caller:
                for actor in caller.actors(2.0):
                    self.console.print(f"{actor}: {caller.say_go(actor).text}")

    def _tell_change(self, child: Child) -> None:
        worth_saying = child.state in (ChildState.WAITING, ChildState.GIVEN_UP)
        if worth_saying and child.detail and not self.stopping:
            self.console.print(f"{child.spec.name}: {child.state.value}, {child.detail}")

    def _process_words(self) -> dict[str, str]:
        fine = (ChildState.RUNNING, ChildState.STOPPING, ChildState.ENDED)
        return {
            name: "" if child.state in fine else f"{child.state.value}, {child.detail}"
            for name, child in self.supervisor.children.items()
        }


def one_line(state: SystemState) -> str:
    """The state for a log, where no table can be drawn."""
    from user_bringup.monitor.table import number, percent

    learner = next((latest.message for latest in state.learners.values()), None)
    steps = sum(latest.message.steps for latest in state.actors.values())
    rate, count = state.rate_of(EVALUATION)
    text = f"{state.elapsed_s:6.0f} s  {steps:6} steps"
    if learner is not None:
        text += f"  {learner.update:6} updates at {learner.updates_per_s:5.1f}/s"
        text += f"  policy v{learner.policy_version}"
    returns = [e.mean_return for (_, kind), e in state.episodes.items() if kind == ONLINE]
    if returns:
        text += f"  return {number(sum(returns) / len(returns), 2)}"
    text += f"  success {percent(state.rate_of(ONLINE)[0])}, evaluation {percent(rate)} of {count}"
    warnings = state.warnings()
    return text + (f"  ! {warnings[0]}" if warnings else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="user up", description=__doc__)
    parser.add_argument("deployment", help="name of an installed deployment, or a .yaml file")
    parser.add_argument(
        "arguments", nargs="*", metavar="name:=value",
        help="its arguments, and parameters of its processes by path (learner.training.batch_size:=64)",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true",
        help="print what would run, and where each value comes from; start nothing",
    )  # fmt: skip
    parser.add_argument("--run", default="", help="name of the run; an existing one is continued")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after this many minutes")
    parser.add_argument(
        "--steps", type=int, default=0, help="stop after this many environment steps"
    )
    parser.add_argument(
        "--until-success", type=float, default=0.0, metavar="SHARE",
        help=f"stop when this share of the last {_EVALUATIONS} evaluation episodes succeeded",
    )  # fmt: skip
    parser.add_argument("--no-table", action="store_true", help="print lines instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
