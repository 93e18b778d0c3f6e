"""Peg insertion: push a round peg, held by the gripper, into a hole that is 2 mm wider."""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi, sin, tan
from typing import ClassVar
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array, ArraySpec
from user_hal.sim.mjcf_parts import ROBOT, SEEN, WORLD, numbers
from user_hal.sim.tasks.hole_mesh import SIDES, add_hole_mesh
from user_hal.sim.tasks.task import Data, Model, Task, mocap_position, position_spec


class PegInsertion(Task):
    """Success: the tip of the peg is 20 mm or more below the mouth of the hole.

    The peg (16 mm across, rounded by 3 mm at the tip) starts in a firm grasp, up to 4 cm
    beside and 2 to 7 cm above a hole of 18 mm, so with 1 mm of clearance on each side. The
    block with the hole stands anywhere in a 12 x 20 cm area. What an observation says about
    the hole comes from a calibration: it is off by ``calibration_noise_m`` (standard
    deviation of x and y, drawn once an episode), as in a laboratory.

    For contact, the peg is a ring of six capsules and the hole a hexagon of boxes, the sides
    of one facing those of the other: both have fast and exact collision functions, and the
    edge of the peg is rounded by itself.
    """

    name: ClassVar[str] = "peg_insertion"
    step_m: ClassVar[float] = 0.01
    horizon_s: ClassVar[float] = 5.0
    workspace_low_m: ClassVar[tuple[float, float, float]] = (0.32, -0.18, 0.05)
    workspace_high_m: ClassVar[tuple[float, float, float]] = (0.58, 0.18, 0.22)
    peg_radius_m: ClassVar[float] = 0.008
    edge_radius_m: ClassVar[float] = 0.003
    clearance_m: ClassVar[float] = 0.001
    tip_below_tcp_m: ClassVar[float] = 0.05
    block_m: ClassVar[float] = 0.045
    block_height_m: ClassVar[float] = 0.04
    depth_m: ClassVar[float] = 0.02

    def __init__(self, calibration_noise_m: float = 0.0005) -> None:
        self.calibration_noise_m = calibration_noise_m

    def extend(self, root: ET.Element) -> None:
        self._add_peg(root)
        self._add_block(root)

    def _add_peg(self, root: ET.Element) -> None:
        hand = root.find(".//body[@name='hand']")
        tcp = root.find(".//site[@name='tcp']")
        assert hand is not None and tcp is not None
        z_m = float(tcp.get("pos", "0 0 0").split()[2])
        tip_m, top_m = z_m + self.tip_below_tcp_m, z_m - 0.02
        ring_m = self.peg_radius_m - self.edge_radius_m
        for i in range(SIDES):
            angle_rad = 2 * pi * i / SIDES
            x, y = ring_m * cos(angle_rad), ring_m * sin(angle_rad)
            ends = (x, y, top_m, x, y, tip_m - self.edge_radius_m)
            ET.SubElement(
                hand,
                "geom",
                {"type": "capsule", "fromto": numbers(ends), "friction": "0.3 0.01 0.0001"} | ROBOT,
                size=numbers([self.edge_radius_m]),
                name=f"peg{i}",
            )
        shoulder_m = tip_m - self.edge_radius_m
        for kind, radius_m, start_m, end_m in (
            ("cylinder", self.peg_radius_m, top_m, shoulder_m),
            ("cylinder", ring_m, shoulder_m, tip_m),
        ):
            ET.SubElement(
                hand,
                "geom",
                SEEN | {"type": kind, "material": "peg"},
                fromto=numbers((0, 0, start_m, 0, 0, end_m)),
                size=numbers([radius_m]),
            )
        ET.SubElement(
            hand,
            "geom",
            SEEN | {"type": "ellipsoid", "material": "peg"},
            pos=numbers((0, 0, shoulder_m)),
            size=numbers((self.peg_radius_m, self.peg_radius_m, self.edge_radius_m)),
        )
        self._grip(root)

    def _grip(self, root: ET.Element) -> None:
        """Open the (fixed) fingers just as wide as the peg."""
        for side, sign in (("left", 1), ("right", -1)):
            finger = root.find(f".//frame[@name='{side}_finger']")
            assert finger is not None
            z = finger.get("pos", "0 0 0").split()[2]
            finger.set("pos", f"0 {sign * self.peg_radius_m:.9g} {z}")

    def _add_block(self, root: ET.Element) -> None:
        world = root.find("worldbody")
        assert world is not None
        body = ET.SubElement(world, "body", name="block", mocap="true", pos="0.45 0 0")
        hole_m, up_m = self.peg_radius_m + self.clearance_m, self.block_height_m / 2
        middle_m, thick_m = (self.block_m + hole_m) / 2, (self.block_m - hole_m) / 2
        wide_m = self.block_m * tan(pi / SIDES)
        for i in range(SIDES):
            angle_rad = 2 * pi * i / SIDES
            ET.SubElement(
                body,
                "geom",
                {"type": "box", "friction": "0.3 0.01 0.0001"} | WORLD,
                pos=numbers((middle_m * cos(angle_rad), middle_m * sin(angle_rad), up_m)),
                size=numbers((thick_m, wide_m, up_m)),
                euler=numbers((0, 0, angle_rad)),
                name=f"wall{i}",
            )
        add_hole_mesh(root, body, hole_m, self.block_m, self.block_height_m)

    def feature_specs(self, base_frame: str) -> Mapping[str, ArraySpec]:
        return {
            "goal_position": position_spec(base_frame),
            "peg_to_hole": position_spec(base_frame, 0.15),
        }

    def bind(self, model: Model, data: Data) -> None:
        self._block_m = mocap_position(model, data, "block")
        self._seen_m: Array = np.zeros(3)

    def reset(self, rng: np.random.Generator) -> tuple[Array, float]:
        hole_m = np.array([*rng.uniform((0.39, -0.10), (0.51, 0.10)), self.block_height_m])
        self._block_m[:2] = hole_m[:2]
        self._seen_m = hole_m.copy()
        self._seen_m[:2] += rng.normal(0.0, self.calibration_noise_m, 2)
        tip_m = hole_m + rng.uniform((-0.04, -0.04, 0.02), (0.04, 0.04, 0.07))
        tip_m[2] += self.tip_below_tcp_m
        return tip_m, 0.0

    def features(self, tcp_m: Array, tcp_rotation: Array) -> dict[str, Array]:
        tip_m = tcp_m + self.tip_below_tcp_m * tcp_rotation[:, 2]
        return {
            "goal_position": self._seen_m.astype(np.float32),
            "peg_to_hole": (self._seen_m - tip_m).astype(np.float32),
        }

    def succeeded(self, tcp_m: Array, tcp_rotation: Array) -> bool:
        tip_m = tcp_m + self.tip_below_tcp_m * tcp_rotation[:, 2]
        if tip_m[2] > self.block_height_m - self.depth_m:
            return False
        aside_m = tip_m[:2] - self._block_m[:2]
        return bool(aside_m @ aside_m < (self.peg_radius_m + self.clearance_m) ** 2)
