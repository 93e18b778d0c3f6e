"""Evaluate the newest policy of a run: success over fresh starts, and a film of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from user_core.errors import SuiteError
from user_core.types import Outcome


def main(argv: Sequence[str]) -> int:
    """Evaluate; exit code 0 unless fewer succeed than ``--require``."""
    parser = argparse.ArgumentParser(prog="user evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, runs/<id>")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--require", type=int, default=0, help="successes that are expected")
    parser.add_argument("--no-film", action="store_true", help="do not film the first episodes")
    arguments = parser.parse_args(argv)
    from user_bringup.evaluation import evaluate
    from user_bringup.run_parts import RunParts

    parts = RunParts.load(arguments.run)
    with ExitStack() as stack:
        robot = stack.enter_context(closing(parts.robot()))
        robot.connect()
        policy, version = parts.policy(robot.spec)
        film = None
        if not arguments.no_film:
            film = parts.film(robot)
            if film is not None:
                stack.callback(film.close)
        progress = stack.enter_context(
            Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        )
        bar = progress.add_task("evaluation", total=arguments.episodes)
        successes = 0

        def show(outcome: Outcome) -> None:
            nonlocal successes
            successes += outcome is Outcome.SUCCESS
            progress.update(bar, advance=1, description=f"evaluation, {successes} succeeded")

        result = evaluate(
            robot, policy, parts.reward(), episodes=arguments.episodes, policy_version=version,
            film=film, on_episode=show,
        )  # fmt: skip
        if film is not None:
            film.write(arguments.run / "policy.gif")
    result.write(arguments.run / "evaluation.json")
    print(
        f"{result.successes} of {result.episodes} episodes succeed with policy version {version}, "
        f"mean return {result.mean_return:.2f}, mean length {result.mean_length:.1f} steps"
    )
    if result.successes < arguments.require:
        raise SuiteError(
            f"evaluation of {arguments.run.name}",
            got=f"{result.successes} of {result.episodes} successes",
            expected=f"at least {arguments.require}",
        )
    return 0
