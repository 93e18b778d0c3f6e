"""A robot in three dimensions on a page: its URDF as its joints stand, workspace boxes, goal."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from nicegui import ui

from user_bringup.console.arm_model import ArmModel, Visual
from user_core.errors import SuiteError
from user_core.specs import Array

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

_PERIOD_S = 0.1
#: Angles and lengths that differ by less look the same.
_SAME = 1e-4
#: White arms and black ones are seen before it, on light pages and on dark ones.
_BACKGROUND = "#8792a2"
_BLUE, _GREEN = "#1746d1", "#25d366"
#: Cylinders of browsers stand along y, those of URDF along z.
_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


class ArmView:
    """A robot, drawn from what it says of itself; nothing is listened to before it is opened.

    Args:
        console: What the pages share.
        namespace: Of the robot.
        opened: Whether it is open from the start.
    """

    def __init__(self, console: Console, namespace: str, opened: bool = False) -> None:
        self._console, self._namespace = console, namespace
        self._text, self._model = "", None  # type: str, ArmModel | None
        self._links: dict[str, Any] = {}
        self._shown: list[Any] = []
        self._marks: list[Any] = []
        self._marked: Any = None
        with (
            ui.expansion("in 3D", icon="view_in_ar", value=opened)
            .classes("w-full")
            .props("dense data-testid=arm") as self._place
        ):
            self._said = ui.label("").classes("opacity-70")
            self._scene: Any = None
        self._timer: Any = None
        self._place.on_value_change(self._follow)
        self._follow()

    def _follow(self) -> None:
        """It is drawn while it is open."""
        if self._place.value and self._timer is None:
            with self._place:
                self._timer = ui.timer(_PERIOD_S, self._tick)
        elif not self._place.value and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        graph = self._console.graph
        if graph is None:
            return
        state = graph.arm(self._namespace)
        if state.urdf != self._text:
            self._text = state.urdf
            self._build()
        if self._model is None or self._scene is None:
            if not self._text:
                self._said.set_text(
                    "it says no URDF of itself: the contract of a robot names it, `urdf: {topic: ...}` or `{file: ...}`"
                )
            return
        view = graph.robots.get(self._namespace)
        base = view.description.base_frame if view is not None and view.description else ""
        values = [round(state.joints.get(name, 0.0) / _SAME) for name in self._model.urdf.joints]
        if values != self._shown:
            self._shown = values
            poses = self._model.poses(state.joints, base)
            self._move(poses)
        marks = (state.lines, state.goal)
        if marks != self._marked:
            self._marked = marks
            self._mark(self._model.poses(state.joints, base), *marks)

    def _build(self) -> None:
        """Make all objects anew."""
        if self._scene is not None:
            self._scene.delete()
        self._scene, self._links, self._shown, self._marks, self._marked = None, {}, [], [], None
        try:
            self._model = ArmModel(self._text) if self._text else None
        except SuiteError as error:
            self._model = None
            self._said.set_text(str(error))
            return
        if self._model is None:
            return
        self._said.set_text("")
        with self._place:
            scene = ui.scene(
                width=640, height=420, grid=(2, 20), background_color=_BACKGROUND, fps=15,
                camera=ui.scene.perspective_camera(fov=50, near=0.01),
            )  # fmt: skip
        scene.classes("w-full").style("max-width: 40rem").props("data-testid=arm-scene")
        with scene:
            for number, visual in enumerate(self._model.visuals):
                if visual.link not in self._links:
                    self._links[visual.link] = scene.group()
                with self._links[visual.link]:
                    self._add(scene, visual, number)
        poses = self._model.poses({})  # of links that are seen; frames of cameras may be far away
        places = [poses[link][:3, 3] for link in self._links if link in poses]
        reach_m = max([0.2, *(float(np.linalg.norm(place)) for place in places)])
        scene.move_camera(
            x=0.95 * reach_m, y=-1.2 * reach_m, z=0.9 * reach_m, look_at_x=0.3 * reach_m,
            look_at_z=0.3 * reach_m, duration=0,
        )  # fmt: skip
        scene.on("init", self._show_all)  # sent before, it was dropped, also after a page came back
        self._scene = scene

    def _show_all(self) -> None:
        self._shown = []

    def _add(self, scene: Any, visual: Visual, number: int) -> None:
        turn = visual.pose[:3, :3]
        if visual.kind == "box":
            made = scene.box(*visual.size)
        elif visual.kind == "sphere":
            made = scene.sphere(visual.size[0])
        elif visual.kind == "cylinder":
            radius, length = visual.size
            made, turn = scene.cylinder(radius, radius, length, 24), turn @ _Z_UP
        else:
            robot = f"robot={quote(self._namespace)}&of={zlib.crc32(self._text.encode()):x}"
            made = scene.gltf(f"/robot_mesh?{robot}&number={number}")
            made.scale(*visual.size)
        if visual.colour:
            made.material(visual.colour)
        made.move(*visual.pose[:3, 3].tolist())
        made.rotate_R(turn.tolist())

    def _move(self, poses: dict[str, Array]) -> None:
        """Put all links where they are, by one message to the browser."""
        calls = []
        for link, group in self._links.items():
            pose = poses.get(link)
            if pose is not None:
                calls += [
                    ["move", group.id, *np.round(pose[:3, 3], 5).tolist()],
                    ["rotate", group.id, np.round(pose[:3, :3], 5).tolist()],
                ]
        self._scene.run_method("run_methods", calls)

    def _mark(self, poses: dict[str, Array], lines: Any, goal: Any) -> None:
        for mark in self._marks:
            mark.delete()
        self._marks = []
        with self._scene as scene:
            for frame, points in lines:
                placed = [_placed(poses, frame, point) for point in points]
                for start, end in zip(placed[::2], placed[1::2], strict=False):
                    self._marks.append(scene.line(start, end).material(_BLUE))
            if goal is not None:
                frame, place, radius = goal
                x, y, z = _placed(poses, frame, place)
                ball = scene.sphere(max(radius, 0.005)).material(_GREEN, 0.7).move(x, y, z)
                self._marks.append(ball)


def _placed(poses: dict[str, Array], frame: str, point: Any) -> list[float]:
    """A point of a frame in the base frame, where the frame is a link that is known."""
    pose = poses.get(frame)
    if pose is None or not all(map(math.isfinite, point)):
        return [float(value) for value in point]
    placed: list[float] = (pose[:3, :3] @ np.array(point) + pose[:3, 3]).tolist()
    return placed
