"""A small reader of URDF for tests: forward kinematics from nothing but the document."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np


def _numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def _rotation(axis: np.ndarray, angle_rad: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle_rad) * cross + (1 - np.cos(angle_rad)) * cross @ cross


class Urdf:
    """Joints and links of a document."""

    def __init__(self, text: str) -> None:
        self.root = ET.fromstring(text)
        self.joints = {joint.get("name"): joint for joint in self.root.iter("joint")
                       if joint.find("parent") is not None}  # fmt: skip

    def pose(self, link: str, positions: dict[str, float]) -> np.ndarray:
        """Pose (4, 4) of a link in the root link."""
        for name, joint in self.joints.items():
            if joint.find("child").get("link") == link:
                parent = self.pose(joint.find("parent").get("link"), positions)
                return parent @ self._joint_pose(joint, positions.get(name, 0.0))
        return np.eye(4)

    def _joint_pose(self, joint: ET.Element, position: float) -> np.ndarray:
        origin, pose = joint.find("origin"), np.eye(4)
        roll, pitch, yaw = _numbers(origin.get("rpy"))
        x, y, z = np.eye(3)
        pose[:3, :3] = _rotation(z, yaw) @ _rotation(y, pitch) @ _rotation(x, roll)
        pose[:3, 3] = _numbers(origin.get("xyz"))
        motion = np.eye(4)
        if joint.get("type") == "revolute":
            motion[:3, :3] = _rotation(_numbers(joint.find("axis").get("xyz")), position)
        elif joint.get("type") == "prismatic":
            motion[:3, 3] = _numbers(joint.find("axis").get("xyz")) * position
        return pose @ motion
