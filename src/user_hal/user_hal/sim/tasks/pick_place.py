"""Pick and place: grasp a cube on the table and bring it to a goal above the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array, ArraySpec
from user_hal.sim.mjcf_parts import OBJECT, numbers
from user_hal.sim.tasks.task import (
    Data,
    Model,
    Task,
    add_goal_marker,
    mocap_position,
    position_spec,
)


class PickPlace(Task):
    """Success: the centre of the cube is within 2 cm of the goal, which is in the air, so
    that pushing does not do.

    The cube (35 mm, 80 g) lies anywhere in a 20 cm square, turned by up to 30 degrees.
    """

    name: ClassVar[str] = "pick_place"
    moves_gripper: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    step_m: ClassVar[float] = 0.03
    step_rad: ClassVar[float] = 0.2
    horizon_s: ClassVar[float] = 8.0
    half_m: ClassVar[float] = 0.0175
    mass_kg: ClassVar[float] = 0.08
    tolerance_m: ClassVar[float] = 0.02

    def extend(self, root: ET.Element) -> None:
        add_goal_marker(root, self.tolerance_m)
        option = root.find("option")
        assert option is not None
        option.set("cone", "elliptic")  # fewer rows than the pyramid where a lot touches
        world = root.find("worldbody")
        assert world is not None
        body = ET.SubElement(world, "body", name="cube", pos=numbers((0.45, 0.0, self.half_m)))
        ET.SubElement(body, "freejoint", name="cube")
        ET.SubElement(
            body,
            "geom",
            {"type": "box", "material": "cube", "name": "cube"} | OBJECT,
            size=numbers([self.half_m] * 3),
            mass=f"{self.mass_kg:.9g}",
            friction="1.0 0.02 0.001",
            group="2",
        )

    def feature_specs(self, base_frame: str) -> Mapping[str, ArraySpec]:
        names = ("x", "y", "z", "qx", "qy", "qz", "qw")
        return {
            "goal_position": position_spec(base_frame),
            "object_pose": ArraySpec(
                (7,), low=-1.0, high=1.0, unit="m", frame=base_frame, names=names
            ),
            "tool_to_object": position_spec(base_frame, 0.3),
            "object_to_goal": position_spec(base_frame, 0.3),
        }

    def bind(self, model: Model, data: Data) -> None:
        self._goal_m = mocap_position(model, data, "goal")
        address = int(model.joint("cube").qposadr[0])
        self._cube = data.qpos[address : address + 7]

    def reset(self, rng: np.random.Generator) -> tuple[Array, float]:
        self._cube[:2] = rng.uniform((0.37, -0.10), (0.53, 0.10))
        yaw_rad = rng.uniform(-np.pi / 6, np.pi / 6)
        self._cube[2:] = (self.half_m, np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2))
        self._goal_m[:] = rng.uniform((0.37, -0.12, 0.08), (0.53, 0.12, 0.20))
        start_m = rng.uniform((0.38, -0.10, 0.12), (0.52, 0.10, 0.22))
        return start_m, 0.0

    def features(self, tcp_m: Array, tcp_rotation: Array) -> dict[str, Array]:
        cube, goal_m = self._cube, self._goal_m
        pose = np.empty(7, dtype=np.float32)
        pose[:3] = cube[:3]
        sign = 1.0 if cube[3] >= 0 else -1.0
        pose[3:6] = sign * cube[4:7]
        pose[6] = sign * cube[3]
        return {
            "goal_position": goal_m.astype(np.float32),
            "object_pose": pose,
            "tool_to_object": (cube[:3] - tcp_m).astype(np.float32),
            "object_to_goal": (goal_m - cube[:3]).astype(np.float32),
        }

    def succeeded(self, tcp_m: Array, tcp_rotation: Array) -> bool:
        offset_m = self._goal_m - self._cube[:3]
        return bool(offset_m @ offset_m < self.tolerance_m**2)
