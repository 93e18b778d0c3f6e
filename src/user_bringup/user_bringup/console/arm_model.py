"""A robot in three dimensions: what its URDF shows, and where the links are for positions of its joints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from user_core.errors import ConfigError, PluginError
from user_core.specs import Array
from user_hal.robot_description import Urdf, UrdfJoint, file_of, parse_urdf
from user_hal.robots.ros2.frames import from_rpy
from user_hal.safety.rotation import from_vector
from user_hal.sim.kinematics import rotation_matrix

#: Meshes that browsers get, made of any of these. What else a URDF names is not opened.
MESHES = (".stl", ".obj", ".dae", ".glb", ".gltf", ".ply")
_MESH_BYTES = 64 * 2**20
_GREY = "#b8bcc2"


@dataclass(frozen=True)
class Visual:
    """Something that is seen of a link.

    Attributes:
        link: The link.
        kind: ``box``, ``cylinder``, ``sphere`` or ``mesh``.
        size: Of a box x, y, z; of a cylinder radius and length; of a sphere the radius; of a mesh its
            scale; metres.
        pose: Where it is in the link, (4, 4).
        colour: As ``#rrggbb``; empty: as the mesh has it.
        mesh: Of a mesh, its file as the URDF names it.
    """

    link: str
    kind: str
    size: tuple[float, ...]
    pose: Array
    colour: str = ""
    mesh: str = ""


@dataclass(frozen=True)
class _Joint:
    """A joint, and what moves its child: origin (4, 4), axis (3,), and the way it mimics another."""

    said: UrdfJoint
    origin: Array
    axis: Array
    factor: float
    offset: float


class ArmModel:
    """A URDF as it is drawn.

    Args:
        text: The document.

    Attributes:
        urdf: What it says of joints.
        visuals: All that is seen, link by link.

    Raises:
        ConfigError: It is no URDF, or a number in it is none.
    """

    def __init__(self, text: str) -> None:
        self.urdf: Urdf = parse_urdf(text)
        root = ElementTree.fromstring(text)  # noqa: S314 - parse_urdf refuses entities
        try:
            colours = {
                str(item.get("name")): found
                for item in root.findall("material")
                if (found := _colour_of(item))
            }
            self.visuals = [
                visual
                for link in root.findall("link")
                for item in link.findall("visual")
                if (visual := _visual(str(link.get("name")), item, colours)) is not None
            ]
            items = {str(item.get("name")): item for item in root.findall("joint")}
            self._joints = [  # parents before children
                _joint(joint, items[name]) for name, joint in self.urdf.joints.items()
            ]
        except ValueError as error:
            raise ConfigError("robot description", got=str(error), expected="a URDF") from error

    def poses(self, positions: Mapping[str, float], base: str = "") -> dict[str, Array]:
        """Pose (4, 4) of each link in the base link; joints that are not named stand at zero.

        Args:
            positions: Of joints, rad or m.
            base: The link that all are seen from; the root, where it is empty or unknown.
        """
        found = {self.urdf.root: np.eye(4)}
        for joint in self._joints:
            said = joint.said
            value = float(positions.get(said.mimics or said.name, 0.0))
            if said.mimics:
                value = joint.factor * value + joint.offset
            parent = found.get(said.parent, np.eye(4))
            found[said.child] = parent @ joint.origin @ _motion(joint, value)
        if base in found and base != self.urdf.root:
            seen_from = np.linalg.inv(found[base])
            found = {link: seen_from @ pose for link, pose in found.items()}
        return found


def mesh_as_glb(visual: Visual) -> bytes:
    """A mesh as glTF in one piece, for a browser.

    A mesh may name files beside it: materials, textures, buffers. They are read from below its package, else from
    below its own folder, and from nowhere else: what a browser gets must not hold other files of this machine.

    Raises:
        ConfigError: It is not there, too large, of no kind that is known, or damaged; or it lies outside its package.
        PluginError: The library that converts it is not installed.
    """
    file, root = _file_and_root(visual.mesh)
    if file.suffix.lower() not in MESHES:
        raise ConfigError(
            "mesh of a robot", got=visual.mesh, expected=f"one of {', '.join(MESHES)}"
        )
    if not file.is_file() or file.stat().st_size > _MESH_BYTES:
        raise ConfigError("mesh of a robot", got=visual.mesh, expected="a file of at most 64 MiB")
    try:
        import trimesh
    except ImportError as error:
        raise PluginError(
            "meshes of robots need the Python package trimesh", got=str(error),
            hint="pip install -r requirements/extra_console.txt",
        ) from error  # fmt: skip
    try:
        scene = trimesh.load_scene(file, resolver=_resolver_below(root, file.parent))
        for part in scene.geometry.values():  # metal is black where nothing is reflected in it
            material = getattr(part.visual, "material", None)
            if material is not None:
                plain = material.to_pbr() if hasattr(material, "to_pbr") else material
                plain.metallicFactor, plain.roughnessFactor = 0.0, 0.8
                part.visual.material = plain
        found: bytes = scene.export(file_type="glb")
    except Exception as error:  # whatever a reader of meshes makes of a file that is none
        raise ConfigError(
            "mesh of a robot", got=f"{visual.mesh}: {error}", expected="a mesh"
        ) from error
    return found


def _file_and_root(name: str) -> tuple[Path, Path]:
    """The file of a mesh, and the folder below which lies whatever it may name."""
    file = Path(os.path.abspath(file_of(name)))
    if not name.startswith("package://"):
        return file, file.parent
    package = name.removeprefix("package://").partition("/")[0]
    root = Path(os.path.abspath(file_of(f"package://{package}/")))
    if not file.is_relative_to(root):
        raise ConfigError(
            "mesh of a robot", got=name, expected=f"a file of the package {package!r}"
        )
    return file, root


def _resolver_below(root: Path, folder: Path) -> Any:
    """What reads the files that a mesh in ``folder`` names. Names count, not where links lead: a workspace that was
    built with ``--symlink-install`` has nothing but links."""
    from trimesh.resolvers import FilePathResolver

    class Below(FilePathResolver):  # type: ignore[misc] # it has no types
        def get(self, name: str) -> bytes:
            file = Path(os.path.abspath(folder / name.strip()))
            if not file.is_relative_to(root):
                raise ValueError(f"it names {name!r}, which is outside {root}")
            if file.stat().st_size > _MESH_BYTES:
                raise ValueError(f"it names {name!r}, which is larger than 64 MiB")
            return file.read_bytes()

        def namespaced(self, namespace: str) -> Any:
            return _resolver_below(root, folder / namespace)

    return Below(str(folder))


def _numbers(text: str | None, default: Sequence[float]) -> Array:
    values = np.array([float(word) for word in text.split()]) if text else np.array(default, float)
    if len(values) != len(default) or not np.isfinite(values).all():
        raise ValueError(f"{text!r}, where {len(default)} finite numbers should be")
    return values


def _pose(item: ElementTree.Element) -> Array:
    """The origin of an element, (4, 4): roll, pitch, yaw about fixed axes (REP-103)."""
    origin, pose = item.find("origin"), np.eye(4)
    if origin is not None:
        pose[:3, 3] = _numbers(origin.get("xyz"), (0, 0, 0))
        roll, pitch, yaw = _numbers(origin.get("rpy"), (0, 0, 0)).tolist()
        pose[:3, :3] = rotation_matrix(np.array(from_rpy(roll, pitch, yaw)))
    return pose


def _joint(said: UrdfJoint, item: ElementTree.Element) -> _Joint:
    axis_item, mimic = item.find("axis"), item.find("mimic")
    axis = _numbers(axis_item.get("xyz") if axis_item is not None else None, (1, 0, 0))
    length = float(np.linalg.norm(axis))
    return _Joint(
        said, _pose(item), axis / length if length > 0 else axis,
        1.0 if mimic is None else float(mimic.get("multiplier", 1.0)),
        0.0 if mimic is None else float(mimic.get("offset", 0.0)),
    )  # fmt: skip


def _motion(joint: _Joint, value: float) -> Array:
    moved = np.eye(4)
    if joint.said.kind in ("revolute", "continuous"):
        x, y, z = (joint.axis * value).tolist()
        moved[:3, :3] = rotation_matrix(np.array(from_vector((x, y, z))))
    elif joint.said.kind == "prismatic":
        moved[:3, 3] = joint.axis * value
    return moved


def _colour_of(material: ElementTree.Element | None) -> str:
    colour = material.find("color") if material is not None else None
    if colour is None:
        return ""
    rgba = np.clip(_numbers(colour.get("rgba"), (0, 0, 0, 1)), 0, 1)
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in rgba[:3])


def _visual(link: str, item: ElementTree.Element, colours: Mapping[str, str]) -> Visual | None:
    geometry, material = item.find("geometry"), item.find("material")
    if geometry is None or not len(geometry):
        return None
    shape = geometry[0]
    named = str(material.get("name", "")) if material is not None else ""
    colour = _colour_of(material) or colours.get(named, "")
    pose = _pose(item)
    if shape.tag == "box":
        return Visual(
            link, "box", tuple(_numbers(shape.get("size"), (1, 1, 1))), pose, colour or _GREY
        )
    if shape.tag == "cylinder":
        radius, length = float(shape.get("radius", "nan")), float(shape.get("length", "nan"))
        size = tuple(_numbers(f"{radius} {length}", (1, 1)))
        return Visual(link, "cylinder", size, pose, colour or _GREY)
    if shape.tag == "sphere":
        size = tuple(_numbers(shape.get("radius"), (1,)))
        return Visual(link, "sphere", size, pose, colour or _GREY)
    if shape.tag == "mesh":
        scale = tuple(_numbers(shape.get("scale"), (1, 1, 1)))
        return Visual(link, "mesh", scale, pose, colour, str(shape.get("filename", "")))
    return None
