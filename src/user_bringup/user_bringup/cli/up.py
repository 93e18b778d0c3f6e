"""Run a deployment, watch it, and keep it running: `user up DEPLOYMENT [name:=value ...]`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from user_bringup.monitor import History, render
from user_bringup.monitor.memory import MemoryWatch
from user_bringup.monitor.shares import named
from user_bringup.monitor.state import ONLINE, SystemState
from user_bringup.running import (
    PreparedRun,
    explain,
    find_deployment,
    prepare_run,
    read_deployment,
    ros_domains,
)
from user_bringup.running.fit import check_fit
from user_bringup.running.process_board import ProcessBoard, ProcessLine
from user_core.command_line import Parser, many
from user_core.config import load_yaml, shared_names
from user_core.errors import SuiteError
from user_core.reasons import STORE_REFUSED, WAITS_FOR_GO
from user_fleet.deployment import Deployment, Faults, parse_overrides
from user_fleet.deployment.check import node_config
from user_fleet.processes import own_memory
from user_fleet.supervisor import Child, ChildState, Supervisor

_REFRESH_S = 0.5
_STANDBYS_S = 5.0
_EVALUATIONS = 20


def main(argv: Sequence[str]) -> int:
    """Run until Ctrl-C, ``--minutes``, ``--steps`` or ``--until-success``; then write the report.

    SIGUSR1 asks the actors to finish (``--finish-s``): the run ends when their episodes have.

    In a terminal, `g` and Enter say go to robots that wait for a person's word.

    Exit code 0; 1 when a process was given up, or nothing was collected at all. The reason is said.
    """
    arguments = _parser().parse_intermixed_args(argv)
    console = Console()
    if not arguments.deployment:
        console.print(_deployments())
        print(
            "user up DEPLOYMENT [name:=value ...]; --explain shows what it starts, --help all options"
        )
        return 2
    overrides = parse_overrides(arguments.arguments)
    file = find_deployment(arguments.deployment)
    if arguments.explain:
        return _explain(file, overrides, arguments.runs / (arguments.run or "RUN"))
    run = prepare_run(
        file,
        overrides,
        arguments.runs,
        arguments.run,
        asks_success=bool(arguments.until_success),
    )
    console.print(f"run folder: {run.folder}")
    notes = list(run.notes)
    if arguments.until_success and (why := why_without_success(run.deployment)):
        notes.append(f"--until-success can never be reached: {why}")
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    running = _Up(run, arguments, console)
    # Ours, so that asyncio installs none: its own cancels what is just being started, which may never end.
    before = signal.signal(signal.SIGINT, lambda number, frame: running.ask_to_stop())
    signal.signal(signal.SIGUSR1, lambda number, frame: running.ask_to_finish())
    try:
        good = asyncio.run(running.run())
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it ends already
    if run.history.exists():
        from user_bringup.report import write_report  # matplotlib takes a second to import

        console.print(f"report: {write_report(run.folder)}")
    return 0 if good else 1


def check(argv: Sequence[str]) -> int:
    """Check a deployment whole, without starting anything: parameters, plugins, robots, files.

    Exit code 0 when all is well, 1 when something is not; says everything that is wrong.
    """
    parser = Parser(prog="user check deployment", description=check.__doc__)
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
    if not faults.found and not arguments.elsewhere:
        before = len(faults.found)
        for note in check_fit(composition, faults, asks_success=True):
            print(note)
        for fault in faults.found[before:]:
            print(fault)
    unchecked = [p.name for p in processes if p.ros and node_config(p.executable) is None]
    if unchecked:
        print(f"parameters not checked, because no Config is registered: {', '.join(unchecked)}")
    count = len(faults.found)
    wrong = f"{count or 'no'} fault{'' if count == 1 else 's'}"
    print(f"{file}: {len(processes)} processes, {wrong}")
    return 1 if faults.found else 0


def _deployments() -> Table:
    """The installed ones, each with its description."""
    table = Table(title="Deployments", title_justify="left")
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("runs")
    for name in shared_names("deployments"):
        try:
            description = str(load_yaml(find_deployment(name)).get("description", ""))
        except (SuiteError, OSError) as error:
            description = f"cannot be read: {error}"
        table.add_row(name, escape(description))
    return table


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
        self.board = ProcessBoard(run.folder)
        self.board.asked()  # what the run before, in this folder, did not hear any more
        self.supervisor = Supervisor(
            run.deployment.processes, run.commands, run.log_dir, self._tell_change
        )
        self.stopping = ""
        self._told_why = set[str]()  # of those that were given up
        self._finish_asked = False
        self._ending = threading.Event()  # nobody waits for the end of an episode any more
        self._finishing: asyncio.Task[None] | None = None
        self._restarts: set[asyncio.Task[None]] = set()
        self._said_unknown = False
        self._seen_standbys: dict[int, int] = {}
        self._next_standbys_s = 0.0

    async def run(self) -> bool:
        """Run everything; whether no process was given up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.ask_to_stop)
        from user_bringup.nodes.monitor import Monitor  # takes a while, and may be interrupted

        with ExitStack() as stack:
            stack.callback(self.history.close)
            domains = ros_domains(self.prepared.deployment)
            monitor = stack.enter_context(Monitor(self.history.episode, domains))
            task = asyncio.create_task(self.supervisor.run())
            memory = stack.enter_context(MemoryWatch(self._pids))
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
                    self._tend_board(state.processes)
                    state.standbys = self._standbys()
                    state.memory, state.gpu_memory = memory.of_processes, memory.of_gpus
                    if live is not None:
                        live.update(render(state, f"{self.prepared.deployment.name}  "
                                           f"{self.prepared.folder.name}  {self.stopping}"))  # fmt: skip
                    self._stop_when_done(state)
                    self._finish_when_asked(domains)
                    if time.monotonic() >= next_line_s:
                        self.history.state(state)
                        next_line_s += 1.0 if live is not None else 5.0
                        if live is None:
                            print(one_line(state), flush=True)
            with monitor.lock:
                never_ran = why_it_never_ran(self.prepared.deployment, monitor.state)
            return self._tell_end(task.result(), never_ran)

    def _pids(self) -> dict[str, int]:
        return {
            name: pid
            for name, child in list(self.supervisor.children.items())
            if (pid := child.pid)
        }

    def _standbys(self) -> dict[int, int]:
        """Those of this run, with their memory; looked at now and then."""
        now_s = time.monotonic()
        if now_s > self._next_standbys_s:
            self._next_standbys_s = now_s + _STANDBYS_S
            self._seen_standbys = {}
            for child in self.supervisor.children.values():
                with suppress(OSError):  # it has just ended
                    if pid := child.standby_pid:
                        self._seen_standbys[pid] = own_memory(pid)
        return self._seen_standbys

    def _tell_end(self, good: bool, never_ran: str) -> bool:
        """Say what went wrong, where something did; whether the run was good."""
        for child in self.supervisor.children.values():
            if child.state is ChildState.GIVEN_UP:
                name = child.spec.name
                why = "" if name in self._told_why else f": {child.detail}"
                self.console.print(
                    f"{name} was given up{why}\n  {self.prepared.log_dir / f'{name}.log'}",
                    highlight=False,
                    soft_wrap=True,
                    markup=False,
                )
        if good and never_ran:
            self.console.print(
                f"nothing was collected: {never_ran}", highlight=False, soft_wrap=True, markup=False
            )
        if not good or never_ran:
            self.history.ended(self.stopping or "by itself", self._causes(never_ran))
        return good and not never_ran

    def _causes(self, never_ran: str) -> dict[str, str]:
        causes = {
            name: child.detail
            for name, child in self.supervisor.children.items()
            if child.state is ChildState.GIVEN_UP
        }
        return {**causes, "run": f"nothing was collected: {never_ran}"} if never_ran else causes

    def _stop_when_done(self, state: SystemState) -> None:
        minutes, share = self.arguments.minutes, self.arguments.until_success
        if minutes and state.elapsed_s > 60 * minutes:
            self._stop(f"after {many(minutes, 'minute')}")
        wanted = self.arguments.steps
        if wanted and any(m.message.environment_steps >= wanted for m in state.learners.values()):
            self._stop(f"after {many(wanted, 'step')} that were learned from")
        found, versions = state.evaluations.last(_EVALUATIONS)
        if share and found.count >= _EVALUATIONS and found.rate >= share:
            self._stop(f"evaluation {found} of policy {named(versions)}")
        if (child := self.supervisor.ended_by) is not None:
            self._stop(f"{child.spec.name} was given up")  # why is told already
        unjudged = state.evaluations.unknown
        if share and unjudged >= _EVALUATIONS and not found.count and not self._said_unknown:
            self._said_unknown = True
            self.console.print(
                f"none of {unjudged} evaluation episodes could be judged: --until-success will not "
                "be reached"
            )

    def ask_to_stop(self) -> None:
        """A person, or a system, has had enough: also before anything was started."""
        self._stop("asked to stop")

    def ask_to_finish(self) -> None:
        """The robots are wanted elsewhere: end when their episodes have come to an end."""
        self._finish_asked = True

    def _finish_when_asked(self, domains: list[int]) -> None:
        if self._finish_asked and self._finishing is None and not self.stopping:
            self.console.print("asked to finish: the episodes come to their end", highlight=False)
            self._finishing = asyncio.create_task(self._finish(domains))

    async def _finish(self, domains: list[int]) -> None:
        try:
            said = await asyncio.to_thread(self._finish_actors, domains)
        except Exception as error:  # of the graph; the run ends all the same
            said = f"the actors could not be asked to finish: {error}"
        self._stop(f"asked to finish; {said}")

    def _finish_actors(self, domains: list[int]) -> str:
        from user_bringup.nodes.go_caller import GoCaller
        from user_bringup.running.finishing import finish_actors

        processes = self.prepared.deployment.processes
        actors = {p.node_name: p.name for p in processes if p.executable == "actor_node"}
        over = (ChildState.ENDED, ChildState.GIVEN_UP)

        def is_alive(actor: str) -> bool:
            return self.supervisor.children[actors[actor]].state not in over

        with ExitStack() as stack:
            callers = [stack.enter_context(GoCaller(domain)) for domain in domains]
            return finish_actors(callers, actors, self.arguments.finish_s, self._ending, is_alive)

    def _stop(self, reason: str) -> None:
        self._ending.set()
        if not self.stopping:
            self.stopping = f"stopping: {reason}"
            self.console.print(self.stopping, highlight=False, soft_wrap=True, markup=False)
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
            text = f"{child.spec.name}: {child.state.value}, {child.detail}"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)
            if child.state is ChildState.GIVEN_UP:
                self._told_why.add(child.spec.name)

    def _tend_board(self, trouble: Mapping[str, str]) -> None:
        """Tell whoever looks what runs, and start anew what somebody wants so."""
        children = self.supervisor.children
        self.board.tell(
            [
                ProcessLine(name, child.state.value, trouble[name], child.restarts, child.pid)
                for name, child in children.items()
            ]
        )
        for name in self.board.asked():
            if name in children and not self.stopping:
                text = f"{name}: somebody asks for it to be started anew"
                self.console.print(text, highlight=False, markup=False)
                task = asyncio.create_task(children[name].restart())
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)

    def _process_words(self) -> dict[str, str]:
        fine = (ChildState.RUNNING, ChildState.STOPPING, ChildState.ENDED)
        return {
            name: ""
            if child.state in fine
            else ", ".join(filter(None, (child.state.value, child.detail)))
            for name, child in self.supervisor.children.items()
        }


def why_without_success(deployment: Deployment) -> str:
    """Why no share of evaluations can ever be reached; empty where it may be."""
    actors = [p for p in deployment.processes if p.executable == "actor_node"]
    if not actors:
        return "nothing acts in this deployment"
    for actor in actors:
        loop = actor.parameters.get("loop") or {}
        every = (loop.get("evaluation") or {}).get("every", 0)
        if every or loop.get("mode") == "evaluation":
            return ""
    return "no actor evaluates (evaluate_every:=10, or loop.evaluation.every of the actor)"


def why_it_never_ran(deployment: Deployment, state: SystemState) -> str:
    """What kept a run from making a single step that was stored; empty where it made one, or was
    not to."""
    actors = [p for p in deployment.processes if p.executable == "actor_node"]
    if not actors:
        return ""
    if any(latest.message.steps for latest in state.actors.values()):
        return _why_nothing_was_stored(state)
    waits = [latest.message.code == WAITS_FOR_GO for latest in state.actors.values()]
    if (waits and all(waits)) or state.episodes:
        return ""
    said = [f"{name.strip('/')}: {latest.message.detail}" for name, latest in state.actors.items()]
    return "; ".join((state.warnings() + said)[:3]) or "no actor was heard of"


def _why_nothing_was_stored(state: SystemState) -> str:
    """Why a store has nothing of the steps that were made: it refuses all. Empty where it has some."""
    if not state.replays or any(latest.message.steps for latest in state.replays.values()):
        return ""
    return "; ".join(
        f"{name.strip('/')}: {text}"
        for name, latest in state.actors.items()
        for text, code in zip(latest.message.warnings, latest.message.warning_codes, strict=False)
        if code == STORE_REFUSED
    )


def one_line(state: SystemState) -> str:
    """The state for a log, where no table can be drawn."""
    from user_bringup.monitor.table import number, percent

    learner = next((latest.message for latest in state.learners.values()), None)
    steps = sum(latest.message.steps for latest in state.actors.values())
    text = f"{state.elapsed_s:6.0f} s  {steps:6} {'step ' if steps == 1 else 'steps'}"
    if learner is not None:
        text += f"  {learner.update:6} updates at {learner.updates_per_s:5.1f}/s"
        text += f"  policy v{learner.policy_version}"
    returns = [e.mean_return for (_, kind), e in state.episodes.items() if kind == ONLINE]
    if returns:
        text += f"  return {number(sum(returns) / len(returns), 2)}"
    evaluation, versions = state.evaluations.shown
    text += f"  success {percent(state.rate_of(ONLINE)[0])}, evaluation {evaluation}"
    text += f" of {named(versions)}" if versions else ""
    if state.corrections.total.takeovers:
        text += f", corrected {state.corrections.lately}"
    warnings = state.warnings()
    more = f" (and {len(warnings) - 1} more: user status)" if len(warnings) > 1 else ""
    return text + (f"  ! {warnings[0]}{more}" if warnings else "")


def _share(text: str) -> float:
    """A share of episodes; one above 1, a number of percent, would never be reached."""
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(
            f"{text} can never be reached: a share from 0 to 1, for instance 0.8 for 80 %"
        )
    return share


def _parser() -> Parser:
    parser = Parser(prog="user up", description=__doc__)
    parser.add_argument(
        "deployment", nargs="?", default="",
        help="name of an installed deployment, or a .yaml file; without it, those that are installed are listed",
    )  # fmt: skip
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
        "--finish-s", type=float, default=60.0, metavar="SECONDS",
        help="once SIGUSR1 has asked it to finish: how long an episode may go on; then it is cut",
    )  # fmt: skip
    parser.add_argument(
        "--until-success", type=_share, default=0.0, metavar="SHARE",
        help=f"stop when this share of {_EVALUATIONS} evaluation episodes succeeded, those of the "
        "newest policy versions",
    )  # fmt: skip
    parser.add_argument("--no-table", action="store_true", help="print lines instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
