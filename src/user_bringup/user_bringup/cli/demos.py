"""Record demonstrations: `user demos record ROBOT`, by the scripted expert or a teleoperator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from user_core.command_line import Parser, many
from user_core.config import from_mapping
from user_core.plugins import PluginChoice
from user_core.types import EpisodeResult, Outcome


def main(argv: Sequence[str]) -> int:
    """Record; print where the store is."""
    arguments = _parser().parse_intermixed_args(argv)
    from user_actor.loop import ActorLoopConfig
    from user_bringup.demos import record_demonstrations
    from user_bringup.episode_display import EpisodeDisplay
    from user_bringup.local_robot import (
        gate_summary,
        open_robot,
        overlaid,
        robot_file_with,
        settings,
    )
    from user_hal.node_configs import TeleopConfig
    from user_hal.robot_file import build_robot, find_robot_file, load_robot_file

    given = settings(arguments.settings, "hal", "teleop", "actor")
    file = robot_file_with(load_robot_file(find_robot_file(arguments.robot)), given["hal"])
    robot = build_robot(file)
    judge = {"plugin": arguments.reward or ("task" if robot.spec.task_reward else "operator")}
    device: dict[str, Any] = {"plugin": arguments.teleop}
    if arguments.teleop == "expert":  # it says what a person would say
        device["params"] = {"noise": arguments.noise, "label": judge["plugin"] == "operator"}
    choice = from_mapping(TeleopConfig, overlaid({"teleop": device}, given["teleop"]), "teleop")
    actor = overlaid({"reward": judge, "loop": {}}, given["actor"])
    reward = from_mapping(PluginChoice, actor.pop("reward"), "actor.reward").build("rewards")
    config = from_mapping(ActorLoopConfig, actor.pop("loop"), "actor.loop")
    _refuse(actor)
    kept = 0

    def tell_kept() -> None:
        print(f"{many(kept, 'demonstration')} kept, in {arguments.out}")

    with ExitStack() as stack:
        unless_whole = stack.enter_context(ExitStack())  # the last that is said: nothing is lost
        unless_whole.callback(tell_kept)
        opened = stack.enter_context(
            open_robot(
                file,
                choice.teleop.build("teleops", path="teleop.teleop"),
                resource=arguments.resource,
                state_dir=arguments.state_dir,
                reset_emergency_stop=arguments.reset_emergency_stop,
                driver=robot,
            )
        )
        display = stack.enter_context(
            EpisodeDisplay("demonstrations", arguments.episodes, opened.hal, opened.device_trouble)
        )

        def show(result: EpisodeResult) -> None:
            nonlocal kept
            kept += result.outcome is Outcome.SUCCESS
            display.ended(result, counts=result.outcome is Outcome.SUCCESS)

        recorded = record_demonstrations(
            opened, reward, arguments.out, arguments.episodes, robot_name=arguments.robot,
            task=file.task, seed=arguments.seed, config=config, on_episode=show,
            on_step=display.refresh,
        )  # fmt: skip
        unless_whole.pop_all()
        gate = gate_summary(opened.hal.status())
    print(
        f"{many(recorded.episodes, 'demonstration')}, {many(recorded.steps, 'step')}, in {arguments.out}"
        + (f" ({recorded.failures} attempts failed)" if recorded.failures else "")
    )
    print(gate)
    return 0


def _refuse(rest: dict[str, object]) -> None:
    from user_core.errors import ConfigError

    if rest:
        raise ConfigError(
            f"actor.{next(iter(rest))}", got="no use here", expected="actor.reward or actor.loop"
        )


def _parser() -> Parser:
    record = Parser(
        prog="user demos",
        description=f"{__doc__} The robot is driven behind its safety gate; Ctrl-\\ is the "
        "emergency stop.",
    )
    record.add_argument("what", choices=["record"], help="record into a replay store")
    record.add_argument("robot", help="robot configuration: a path, or the name of a ready one")
    record.add_argument(
        "settings",
        nargs="*",
        metavar="process.key:=value",
        help="hal.KEY of the robot file, teleop.KEY, actor.reward.KEY and actor.loop.KEY, for "
        "instance hal.robot.params.task:=reach",
    )
    record.add_argument("--out", type=Path, required=True, help="replay store to append to")
    record.add_argument("--episodes", type=int, default=20, help="successes to record")
    record.add_argument("--teleop", default="expert", help="teleop plugin that demonstrates")
    record.add_argument("--noise", type=float, default=0.0, help="noise of the expert's hand")
    record.add_argument(
        "--reward",
        default="",
        help="reward plugin that judges (default: task where the robot can, else operator)",
    )
    record.add_argument("--seed", type=int, default=0, help="seed of the first start")
    add_robot_options(record)
    return record


def add_robot_options(parser: Parser) -> None:
    """What every command has that drives a robot from its own process."""
    parser.add_argument(
        "--resource", default="robot0", help="name of the robot as a resource (default: robot0)"
    )
    parser.add_argument(
        "--state-dir",
        default="",
        help="folder in which its emergency stop stays latched (default: that of hal_node)",
    )
    parser.add_argument(
        "--reset-emergency-stop",
        action="store_true",
        help="release a latched emergency stop first: the robot is safe to move",
    )
