"""``user sim``: look at the simulated scenes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from user_core.command_line import Parser
from user_core.errors import SuiteError
from user_core.specs import Array
from user_hal.sim.arms import ARMS, arm_named
from user_hal.sim.rendering import PERIOD_S, SUBSTEPS, Renderer, Stage, write_images
from user_hal.sim.scene import scene_xml
from user_hal.sim.tasks import TASKS

ENDINGS = (".png", ".gif", ".mp4")


def parser() -> Parser:
    """The arguments of the command."""
    command = Parser(prog="user sim", description="Look at a simulated scene.")
    command.add_argument("scene", choices=list(TASKS), help="the task")
    command.add_argument("--robot", choices=list(ARMS), default="panda", help="the arm")
    command.add_argument("--seed", type=int, default=0, help="of the first start")
    command.add_argument("--expert", action="store_true", help="let the scripted expert act")
    command.add_argument("--noise", type=float, default=0.0, help="of the expert's actions, 0 to 1")
    command.add_argument("--episodes", type=int, default=1, help="how many to render")
    command.add_argument(
        "--render", type=Path, metavar="FILE", help="write an image (.png) or film (.gif, .mp4)"
    )
    command.add_argument(
        "--camera", choices=("overview", "front", "wrist"), default="overview", help="where from"
    )
    command.add_argument("--size", default="640x480", help="of the image, WIDTHxHEIGHT pixels")
    command.add_argument(
        "--fast", action="store_true", help="draw without shadows, as for observations"
    )
    command.add_argument("--view", action="store_true", help="open a window and watch")
    command.add_argument("--mjcf", type=Path, metavar="FILE", help="write the MuJoCo document")
    command.add_argument("--urdf", type=Path, metavar="FILE", help="write the URDF of the arm")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except SuiteError as error:
        print(f"user sim: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.mjcf:
        args.mjcf.write_text(scene_xml(args.robot, args.scene) + "\n")
        print(args.mjcf)
    if args.urdf:
        from user_hal.sim.urdf import arm_urdf

        args.urdf.write_text(arm_urdf(arm_named(args.robot)))
        print(args.urdf)
    if args.render:
        return _render(args)
    if args.view:
        return _view(args)
    if not (args.mjcf or args.urdf):
        _describe(args)
    return 0


def _describe(args: argparse.Namespace) -> None:
    from user_hal.robots.mujoco import MujocoConfig, MujocoRobot

    spec = MujocoRobot(MujocoConfig(robot=args.robot, task=args.scene)).spec
    print(f"{args.robot} {args.scene}: {(TASKS[args.scene].__doc__ or '').splitlines()[0]}\n")
    rows = [("action", spec.action), *spec.observation.items()]
    for name, array in rows:
        unit = f" {array.unit}" if array.unit else ""
        print(f"  {name:16} {array.dtype}{list(array.shape)}{unit}  {' '.join(array.names)}")
    print("\nuser sim SCENE --expert --render film.mp4 shows the expert; --view opens a window.")


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(word) for word in text.lower().split("x"))
        if not (16 <= width <= 1920 and 16 <= height <= 1440):
            raise ValueError
    except ValueError:
        raise SuiteError(
            "--size", got=text, expected="WIDTHxHEIGHT, 16x16 to 1920x1440 pixels"
        ) from None
    return width, height


def _render(args: argparse.Namespace) -> int:
    if args.render.suffix not in ENDINGS:
        raise SuiteError("--render", got=str(args.render), expected=f"a name ending in {ENDINGS}")
    width, height = _size(args.size)
    film = args.render.suffix != ".png"
    stage = Stage(args.robot, args.scene, noise=args.noise, frames_a_period=2 if film else 1)
    renderer = Renderer(stage.scene.model, height, width, fine=not args.fast)
    try:
        snapshots = []
        for seed in range(args.seed, args.seed + (args.episodes if film else 1)):
            snapshots += list(stage.episode(seed)) if args.expert else [stage.reset(seed)]
        if not film:
            snapshots = snapshots[-1:]
        images: list[Array] = []
        for snapshot in snapshots:
            images += renderer.render(snapshot, (args.camera,))
            _progress(len(images), len(snapshots))
    finally:
        renderer.close()
    write_images(args.render, images, fps=stage.frames_a_period / PERIOD_S)
    print(args.render)
    return 0


def _progress(done: int, total: int) -> None:
    if total > 1 and (done % 10 == 0 or done == total):
        end = "\n" if done == total else ""
        print(f"\rrendering {done}/{total} frames", end=end, file=sys.stderr, flush=True)


def _view(args: argparse.Namespace) -> int:
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise SuiteError(
            "--view needs a display",
            got="neither DISPLAY nor WAYLAND_DISPLAY is set",
            hint=f"Log in with `ssh -X`, or write a film: user sim {args.scene} "
            f"--robot {args.robot} --expert --render film.mp4",
        )
    import mujoco.viewer

    stage = Stage(args.robot, args.scene, noise=args.noise)
    scene, seed = stage.scene, args.seed
    stage.reset(seed)
    with mujoco.viewer.launch_passive(scene.model, scene.data) as viewer:
        deadline_s, steps = time.monotonic(), 0
        while viewer.is_running():
            if args.expert:
                stage.act()
            scene.advance(SUBSTEPS)
            viewer.sync()
            steps += 1
            if args.expert and (scene.succeeded() or steps * PERIOD_S > scene.task.horizon_s):
                seed, steps = seed + 1, 0
                stage.reset(seed)
            deadline_s += PERIOD_S
            time.sleep(max(0.0, deadline_s - time.monotonic()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
