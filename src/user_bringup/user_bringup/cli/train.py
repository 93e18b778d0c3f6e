"""Train a policy from stored data, without robots: `user train STORE`, and a run can begin with it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from user_core.command_line import Parser

if TYPE_CHECKING:
    from user_bringup.evaluation import Evaluation
    from user_bringup.offline import Evaluator
    from user_core.specs import RobotSpec
    from user_learner.training.progress import Progress

_LINE_S = 10.0


def main(argv: Sequence[str]) -> int:
    """Train; print how it went, where it is, and how to go on from it."""
    arguments = _parser().parse_intermixed_args(argv)
    from rich.console import Console

    from user_bringup.local_robot import settings
    from user_bringup.offline import (
        OfflineTraining,
        config_of,
        solved,
        spec_of_store,
    )
    from user_bringup.report import write_report
    from user_core.config import file_meant
    from user_core.errors import ConfigError
    from user_learner.cli.running import counting, list_lines
    from user_learner.data.importing import stores_of

    console, out = Console(highlight=False), arguments.out
    data = [word for word in arguments.words if ":=" not in word]
    given = settings([w for w in arguments.words if ":=" in w], "learner", "hal", "actor")
    if not data:
        raise ConfigError("user train", got="no data", expected="a store, a run or a data set")
    if arguments.evaluate and not arguments.robot:
        raise ConfigError(
            "--evaluate",
            got="no robot",
            expected="a simulated one to try policies on: --robot FILE",
        )
    if arguments.every and not arguments.evaluate:
        raise ConfigError(
            "--every", got="no --evaluate", expected="how many episodes: --evaluate EPISODES"
        )
    algorithm = file_meant("algorithms", arguments.algorithm)
    with counting(console, "importing") as update:
        stores, notes = stores_of(data, out / "data", arguments.map, update)
    list_lines(console, "note", notes, "yellow")
    changes: dict[str, Any] = given["learner"]
    if arguments.updates is not None:
        changes = {
            **changes,
            "training": {**changes.get("training", {}), "max_updates": arguments.updates},
        }
    config = config_of(algorithm, stores, out, changes)
    with ExitStack() as stack:
        evaluator, spec = None, None
        if arguments.robot:
            evaluator, spec = stack.enter_context(_robot(arguments, given))
        shown = stack.enter_context(_shown(console, config.training.max_updates))
        training = OfflineTraining(
            out,
            config,
            spec or spec_of_store(stores[0]),
            evaluator,
            shown.progress,
            shown.evaluation,
        )
        if config.training.max_updates is None and arguments.minutes is None:
            console.print(
                f"{algorithm.stem} does not end by itself: Ctrl-C ends it, and keeps what was learned"
            )
        limit_s = None if arguments.minutes is None else 60 * arguments.minutes
        try:
            trained = training.run(limit_s)
        except KeyboardInterrupt:
            console.print(
                f"interrupted; the same command goes on from the newest checkpoint in {out}"
            )
            return 130
    report = write_report(out)
    console.print(f"{trained.update} updates; {report}")
    best = trained.best
    if best is not None:
        console.print(
            f"best after {best} updates: success {solved(trained.evaluations[best])}, {out / 'best.safetensors'}"
        )
    console.print(
        "go on with it on a robot:  user up DEPLOYMENT "
        f"algorithm:={arguments.algorithm} start_from:={out.resolve()}",
        soft_wrap=True,  # it is to be copied
    )
    return 0


class _Shown:
    """Progress on a terminal as a bar, elsewhere as a line now and then."""

    def __init__(self, bar: Any, task: Any, total: int | None) -> None:
        self._bar, self._task, self._total, self._reported_s = bar, task, total, 0.0
        self._warned: set[str] = set()

    def progress(self, progress: Progress) -> None:
        """The training has got on; what a person should look at is told once of each kind."""
        for reason in progress.warnings:
            if reason.code not in self._warned:
                self._warned.add(reason.code)
                self._say(f"look at: {reason.text} [{reason.code}]")
        losses = sorted(progress.metrics.items(), key=lambda item: "loss" not in item[0])
        said = "  ".join(f"{name} {value:.4g}" for name, value in losses[:3])
        text = f"{progress.updates_per_s:.0f}/s  {said}"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.update, said=text)
        elif time.monotonic() - self._reported_s > _LINE_S:
            self._reported_s = time.monotonic()
            print(f"update {progress.update} of {self._total or 'many'}  {text}", flush=True)

    def evaluation(self, update: int, result: Evaluation) -> None:
        """A policy was tried."""
        from user_bringup.offline import solved

        text = f"update {update}: success {solved(result)}, mean return {result.mean_return:.2f}"
        self._say(text)

    def _say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, soft_wrap=True)


@contextmanager
def _shown(console: Any, total: int | None) -> Iterator[_Shown]:
    if not sys.stdout.isatty():
        yield _Shown(None, None, total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Shown(bar, bar.add_task("training", total=total, said=""), total)


@contextmanager
def _robot(
    arguments: argparse.Namespace, given: dict[str, dict[str, Any]]
) -> Iterator[tuple[Evaluator | None, RobotSpec]]:
    """The robot that is named, to try policies on where it is simulated, and its spec."""
    from user_actor.loop import ActorLoopConfig
    from user_bringup.local_robot import in_lockstep, open_robot, overlaid, robot_file_with
    from user_bringup.offline import Evaluator
    from user_core.config import from_mapping
    from user_core.errors import ConfigError
    from user_core.plugins import PluginChoice
    from user_hal.robot_file import build_robot, find_robot_file, load_robot_file, spec_of

    file = load_robot_file(find_robot_file(arguments.robot))
    file = in_lockstep(robot_file_with(file, given["hal"]))
    driver = build_robot(file)
    if not arguments.evaluate:
        try:
            spec = spec_of(file, driver)
        finally:
            driver.close()
        yield None, spec
        return
    if not driver.simulated:
        driver.close()
        raise ConfigError(
            "--evaluate", got=f"robot {arguments.robot}, which moves for real", expected="a simulated one",
            hint="user up, then user evaluate, with a person beside it",
        )  # fmt: skip
    actor = overlaid({"reward": {"plugin": "task"}, "loop": {}}, given["actor"])
    reward = from_mapping(PluginChoice, actor["reward"], "actor.reward").build("rewards")
    loop = from_mapping(ActorLoopConfig, actor["loop"], "actor.loop")
    with open_robot(file, None, state_dir=None, driver=driver) as robot:
        more = {"config": loop, "task": file.task}
        yield Evaluator(robot, reward, arguments.evaluate, arguments.every, more), robot.hal.spec


def _parser() -> Parser:
    parser = Parser(prog="user train", description=__doc__)
    parser.add_argument(
        "words", nargs="+", metavar="DATA or process.key:=value",
        help="stores, runs, or data sets of other formats, which are imported first; learner.KEY that win over "
        "the algorithm's file; hal.KEY, actor.reward.KEY and actor.loop.KEY of the robot that policies are tried on",
    )  # fmt: skip
    parser.add_argument(
        "--algorithm",
        default="bc_flow",
        help="a file of config/algorithms, or a path (default: bc_flow)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the training; it goes on there"
    )
    parser.add_argument(
        "--updates", type=int, help="gradient updates in all (default: the algorithm's)"
    )
    parser.add_argument("--minutes", type=float, help="end after this long")
    parser.add_argument(
        "--map", default="", metavar="FILE", help="what the arrays of data sets are, in YAML"
    )
    parser.add_argument(
        "--robot",
        default="",
        help="robot configuration: to try policies on, or where the data do not say",
    )
    parser.add_argument(
        "--evaluate",
        type=int,
        default=0,
        metavar="EPISODES",
        help="try the policy in simulation, at the end",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=0,
        metavar="UPDATES",
        help="and each time after this many updates",
    )
    return parser
