"""The simulated tasks, found by name, and when an episode of one ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import cos, pi, sin, tan
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import Array, ArraySpec
from user_core.types import TaskFeedback
from user_hal.sim.mjcf import OBJECT, ROBOT, SEEN, SIDES, WORLD, add_hole_mesh, numbers

#: Type of ``mujoco.MjModel`` and ``mujoco.MjData``, which come without type information.
Model = Any
Data = Any


class Task(ABC):
    """Objects, start distribution, features and success of a task.

    A task keeps no state of an episode besides what :meth:`reset` draws. Positions are in
    the base frame of the arm, metres.

    Attributes:
        name: As in configurations.
        moves_gripper: Whether the fingers are moved; they are fixed otherwise.
        turns: Whether an ``ee_delta`` action also turns the tool about the vertical.
        step_m: Largest translation of the tool in one ``ee_delta`` action at 10 Hz; scales
            with the control period.
        horizon_s: Simulated time after which an episode is truncated.
        workspace_low_m: Corner of the box that an ``ee_delta`` action keeps the tool in.
        workspace_high_m: The opposite corner.
    """

    name: ClassVar[str]
    moves_gripper: ClassVar[bool] = False
    turns: ClassVar[bool] = False
    step_m: ClassVar[float] = 0.02
    step_rad: ClassVar[float] = 0.15
    horizon_s: ClassVar[float] = 5.0
    workspace_low_m: ClassVar[tuple[float, float, float]] = (0.30, -0.20, 0.01)
    workspace_high_m: ClassVar[tuple[float, float, float]] = (0.60, 0.20, 0.35)

    @abstractmethod
    def extend(self, root: ET.Element) -> None:
        """Add the task's objects to a scene document."""

    @abstractmethod
    def feature_specs(self, base_frame: str) -> Mapping[str, ArraySpec]:
        """Specs of the arrays that the task adds to an observation."""

    @abstractmethod
    def bind(self, model: Model, data: Data) -> None:
        """Take hold of what is needed of a compiled model, and of the state it moves in."""

    @abstractmethod
    def reset(self, rng: np.random.Generator) -> tuple[Array, float]:
        """Place the objects at random; return where the tool starts: position (3,), yaw."""

    @abstractmethod
    def features(self, tcp_m: Array, tcp_rotation: Array) -> dict[str, Array]:
        """The task's arrays (float32), for a tool at ``tcp_m`` (3,) turned ``tcp_rotation``."""

    @abstractmethod
    def succeeded(self, tcp_m: Array, tcp_rotation: Array) -> bool:
        """Whether the task is solved now."""


def add_goal_marker(root: ET.Element, radius_m: float) -> None:
    """Add a sphere that is seen but not felt, moved by :func:`mocap_position` of ``goal``."""
    world = root.find("worldbody")
    assert world is not None
    body = ET.SubElement(world, "body", name="goal", mocap="true", pos="0.45 0 0.2")
    ET.SubElement(
        body,
        "geom",
        type="sphere",
        size=f"{radius_m:.9g}",
        material="goal",
        contype="0",
        conaffinity="0",
        group="2",
    )


def mocap_position(model: Model, data: Data, body: str) -> Array:
    """Where a body stands that only the task moves, (3,) m; a view to read and write."""
    position: Array = data.mocap_pos[int(model.body(body).mocapid[0])]
    return position


def position_spec(base_frame: str, half_range_m: float | None = None) -> ArraySpec:
    """Spec of a position, or of a difference of positions within ``half_range_m``."""
    if half_range_m is None:
        return ArraySpec(
            (3,), low=-1.0, high=1.0, unit="m", frame=base_frame, names=("x", "y", "z")
        )
    return ArraySpec(
        (3,),
        low=-half_range_m,
        high=half_range_m,
        unit="m",
        frame=base_frame,
        names=("dx", "dy", "dz"),
    )


class Reach(Task):
    """Success: the tool centre point is inside the ball that marks the goal.

    Args:
        goal_radius_m: Of the ball. In small images a ball of the usual size is a dot of one
            or two pixels, which shows neither how far away it is nor that it is there at all.
    """

    name: ClassVar[str] = "reach"
    step_m: ClassVar[float] = 0.03
    horizon_s: ClassVar[float] = 4.0

    def __init__(self, goal_radius_m: float = 0.015) -> None:
        self.goal_radius_m = goal_radius_m

    def extend(self, root: ET.Element) -> None:
        add_goal_marker(root, self.goal_radius_m)

    def feature_specs(self, base_frame: str) -> Mapping[str, ArraySpec]:
        return {
            "goal_position": position_spec(base_frame),
            "tool_to_goal": position_spec(base_frame, 0.3),
        }

    def bind(self, model: Model, data: Data) -> None:
        self._goal_m = mocap_position(model, data, "goal")

    def reset(self, rng: np.random.Generator) -> tuple[Array, float]:
        low, high = np.add(self.workspace_low_m, 0.03), np.subtract(self.workspace_high_m, 0.03)
        start_m, goal_m = rng.uniform(low, high), rng.uniform(low, high)
        while np.linalg.norm(goal_m - start_m) < 0.08:
            goal_m = rng.uniform(low, high)
        self._goal_m[:] = goal_m
        return start_m, 0.0

    def features(self, tcp_m: Array, tcp_rotation: Array) -> dict[str, Array]:
        goal_m = self._goal_m
        return {
            "goal_position": goal_m.astype(np.float32),
            "tool_to_goal": (goal_m - tcp_m).astype(np.float32),
        }

    def succeeded(self, tcp_m: Array, tcp_rotation: Array) -> bool:
        offset_m = self._goal_m - tcp_m
        return bool(offset_m @ offset_m < self.goal_radius_m**2)


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


TASKS: dict[str, type[Task]] = {task.name: task for task in (Reach, PickPlace, PegInsertion)}


def task_named(
    name: str, calibration_noise_m: float | None = None, goal_radius_m: float | None = None
) -> Task:
    """Make the task of this name; ConfigError lists those there are.

    Args:
        name: One of :data:`TASKS`.
        calibration_noise_m: For ``peg_insertion``: see there; the others have none.
        goal_radius_m: For ``reach``, likewise.
    """
    if name not in TASKS:
        raise ConfigError("name of a simulated task", got=name, expected=f"one of {sorted(TASKS)}")
    if name == PegInsertion.name and calibration_noise_m is not None:
        return PegInsertion(calibration_noise_m)
    if name == Reach.name and goal_radius_m is not None:
        return Reach(goal_radius_m)
    return TASKS[name]()


_RUNNING = TaskFeedback(reward=0.0, success=False)


class Episode:
    """Sparse reward of one episode: 1 when the task is solved, 0 before.

    Solving the task terminates the episode; time running out truncates it. Whichever came
    first stays, whatever happens until the next reset. Time runs from the first command, so
    that preparations cost no time in real time.

    Args:
        horizon_s: Simulated time after which an episode is truncated.
    """

    def __init__(self, horizon_s: float) -> None:
        self.horizon_s = horizon_s
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.elapsed_s = 0.0
        self.running = False
        self.feedback = _RUNNING

    def begin(self) -> None:
        """A command came: from now on time runs."""
        self.running = True

    def advance(self, duration_s: float, succeeded: bool) -> None:
        """Time passed, and the task is solved or not."""
        if not self.running or self.feedback is not _RUNNING:
            return
        self.elapsed_s += duration_s
        if succeeded:
            self.feedback = TaskFeedback(reward=1.0, terminated=True, success=True)
        elif self.elapsed_s > self.horizon_s - 1e-6:
            self.feedback = TaskFeedback(reward=0.0, truncated=True, success=False)
