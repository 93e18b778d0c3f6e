"""Evaluate the newest policy of a run: success over fresh starts, and a film of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from user_bringup.cli.demos import add_robot_options
from user_core.command_line import Parser, many
from user_core.errors import SuiteError


def main(argv: Sequence[str]) -> int:
    """Evaluate; exit code 0 unless fewer succeed than ``--require``."""
    arguments = _parser().parse_intermixed_args(argv)
    from user_bringup.episode_display import EpisodeDisplay
    from user_bringup.evaluation import Film, evaluate
    from user_bringup.local_robot import gate_summary, open_robot, settings
    from user_bringup.run_parts import RunParts
    from user_core.plugins import build
    from user_hal.robot_file import build_robot, spec_of
    from user_hal.robots.mujoco import MujocoRobot

    parts = RunParts.load(arguments.run)
    given = settings(arguments.settings, "hal", "actor")
    file = parts.robot_file(given["hal"])
    config = parts.limits(given["actor"].get("loop"))
    driver = build_robot(file)
    policy, version = parts.policy(spec_of(file, driver), arguments.policy)
    teleop = build("teleops", arguments.teleop) if arguments.teleop else None
    with ExitStack() as stack:
        robot = stack.enter_context(
            open_robot(
                file,
                teleop,
                resource=parts.resource if arguments.resource is None else arguments.resource,
                state_dir=arguments.state_dir or parts.state_dir,
                reset_emergency_stop=arguments.reset_emergency_stop,
                driver=driver,
            )
        )
        film = None
        if isinstance(driver, MujocoRobot) and not arguments.no_film:
            film = Film(driver)
            stack.callback(film.close)
        display = stack.enter_context(
            EpisodeDisplay("evaluation", arguments.episodes, robot.hal, robot.device_trouble)
        )
        result = evaluate(
            robot, policy, parts.reward(), episodes=arguments.episodes, policy_version=version,
            task=file.task, config=config, film=film, on_episode=display.ended,
            on_step=display.refresh,
        )  # fmt: skip
        if film is not None:
            film.write(arguments.run / "policy.gif")
        gate = gate_summary(robot.hal.status())
    result.write(arguments.run / "evaluation.json")
    print(
        f"{result.successes} of {many(result.episodes, 'episode')} succeed with policy version {version}, "
        f"mean return {result.mean_return:.2f}, mean length {result.mean_length:.1f} steps"
        + (f"; {result.aborted} were aborted" if result.aborted else "")
        + (f"; nobody could judge {result.unknown}" if result.unknown else "")
        + f"; success {result.share}"
    )
    print(gate)
    if result.successes < arguments.require:
        raise SuiteError(
            f"evaluation of {arguments.run.name}",
            got=f"{result.successes} of {result.episodes} successes",
            expected=f"at least {arguments.require}",
        )
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="user evaluate",
        description=f"{__doc__} The robot is driven behind its safety gate; Ctrl-\\ is the "
        "emergency stop.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, runs/<id>")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="process.key:=value",
        help="hal.KEY and actor.loop.KEY that win over the run's, for instance "
        "actor.loop.max_episode_steps:=100",
    )
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--require", type=int, default=0, help="successes that are required")
    parser.add_argument("--no-film", action="store_true", help="do not film the first episodes")
    parser.add_argument(
        "--policy", type=Path, help="policy file of the learner, where it ran on another host"
    )
    parser.add_argument(
        "--teleop", default="", help="teleop plugin by which a person judges the episodes"
    )
    add_robot_options(parser)
    parser.set_defaults(resource=None)
    return parser
