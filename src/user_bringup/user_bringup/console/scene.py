"""The arm in 3D: from its URDF where one is told, moved by its joint states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from nicegui import ui

from user_core.errors import SuiteError

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

_REFRESH_S = 0.1


def arm_scene(console: Console, namespace: str) -> None:
    """A scene with the arm of a robot; says so where no description is known."""
    graph = console.graph
    text = getattr(graph, "urdf", lambda _: "")(namespace)
    if graph is None or not text:
        ui.label("no camera, and no robot_description in the graph").classes("opacity-70")
        return
    try:
        links = _visuals(text)
    except (SuiteError, ElementTree.ParseError, ValueError) as error:
        ui.label(f"its robot_description cannot be drawn: {error}").classes("opacity-70")
        return
    joints = graph.watch_joints(namespace)
    ui.context.client.on_disconnect(lambda: graph.leave_joints(namespace))
    with ui.scene(width=640, height=420, background_color="#dfe3e8").classes("w-full") as scene:
        scene.move_camera(x=1.2, y=-1.2, z=1.0, look_at_z=0.3)
        _draw(scene, links, joints)


def _visuals(text: str) -> ElementTree.Element:
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise ValueError("a document type")
    return ElementTree.fromstring(text)  # noqa: S314 - entities are refused above


def _draw(scene: Any, robot: ElementTree.Element, joints: Any) -> None:
    """Groups within groups, as joints hang on each other; the scene turns and moves each."""
    children: dict[str, list[ElementTree.Element]] = {}
    moved = set()
    for joint in robot.findall("joint"):
        parent, child = joint.find("parent"), joint.find("child")
        if parent is not None and child is not None:
            children.setdefault(str(parent.get("link")), []).append(joint)
            moved.add(child.get("link"))
    links = {str(link.get("name")): link for link in robot.findall("link")}
    root = next((name for name in links if name not in moved), "")
    groups: list[tuple[Any, ElementTree.Element]] = []

    def add(name: str, depth: int = 0) -> None:
        for visual in links[name].findall("visual") if name in links else ():
            _shape(scene, visual)
        for joint in children.get(name, ()) if depth < 64 else ():
            xyz, rpy = _origin(joint)
            child = joint.find("child")
            with scene.group() as placed:
                placed.move(*xyz).rotate(*rpy)
                with scene.group() as turned:
                    groups.append((turned, joint))
                    add(str(child.get("link")) if child is not None else "", depth + 1)

    add(root)
    seen = [-1]

    def move() -> None:
        if joints.count == seen[0]:
            return
        seen[0] = joints.count
        for group, joint in groups:
            position = joints.positions.get(str(joint.get("name")))
            if position is None or not math.isfinite(position):
                continue
            axis = _numbers(joint.find("axis"), "xyz", (1.0, 0.0, 0.0))
            if joint.get("type") == "prismatic":
                group.move(*(a * position for a in axis))
            elif joint.get("type") in ("revolute", "continuous"):
                group.rotate_R(_rotation(axis, position))

    ui.timer(_REFRESH_S, move)


def _shape(scene: Any, visual: ElementTree.Element) -> None:
    geometry = visual.find("geometry")
    if geometry is None or not len(geometry):
        return
    item = geometry[0]
    if item.tag == "box":
        shape = scene.box(*_numbers(item, "size", (0.1, 0.1, 0.1)))
    elif item.tag == "sphere":
        shape = scene.sphere(float(item.get("radius", 0.05)))
    elif item.tag == "cylinder":
        radius, length = float(item.get("radius", 0.05)), float(item.get("length", 0.1))
        with scene.group() as shape:  # three.js has its cylinders along y, URDF along z
            scene.cylinder(radius, radius, length).rotate(math.pi / 2, 0, 0).material("#607d8b")
    else:  # a mesh: its file is on the robot's host
        shape = scene.sphere(0.03)
    xyz, rpy = _origin(visual)
    shape.move(*xyz).rotate(*rpy)
    if item.tag != "cylinder":
        shape.material("#607d8b")


def _origin(element: ElementTree.Element) -> tuple[tuple[float, ...], tuple[float, ...]]:
    origin = element.find("origin")
    zero = (0.0, 0.0, 0.0)
    return _numbers(origin, "xyz", zero), _numbers(origin, "rpy", zero)


def _numbers(
    element: ElementTree.Element | None, name: str, default: tuple[float, ...]
) -> tuple[float, ...]:
    text = element.get(name) if element is not None else None
    return tuple(float(word) for word in text.split()) if text else default


def _rotation(axis: tuple[float, ...], angle: float) -> list[list[float]]:
    """The matrix of a turn about an axis (Rodrigues)."""
    size = math.sqrt(sum(a * a for a in axis)) or 1.0
    x, y, z = (a / size for a in axis)
    c, s = math.cos(angle), math.sin(angle)
    t = 1 - c
    return [
        [t * x * x + c, t * x * y - s * z, t * x * z + s * y],
        [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
        [t * x * z - s * y, t * y * z + s * x, t * z * z + c],
    ]
