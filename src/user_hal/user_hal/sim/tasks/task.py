"""What a task adds to an arm on a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array, ArraySpec

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
