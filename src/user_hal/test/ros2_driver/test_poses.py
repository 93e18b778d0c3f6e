"""Poses of bare numbers, as Dobot, UR, libfranka and others report them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault
from user_hal.fakes import LocalTopics
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.reading.observations import Source

NUMBERS = "std_msgs/msg/Float64MultiArray"
PLAIN: dict[str, Any] = {}
DOBOT = {"layout": "pose_rpy", "length": "mm", "angle": "deg"}


def contract(**entry: Any) -> Ros2Config:
    pose = {"topic": "/tool_vector", "type": NUMBERS, "field": "data", **entry}
    command = {"topic": "/pose", "type": "geometry_msgs/msg/PoseStamped"}
    return from_mapping(
        Ros2Config,
        {
            "robot": "dobot",
            "observation": {"tcp_pose": pose},
            "action": {"kind": "ee_delta", "low": -0.1, "high": 0.1, "command": command},
        },
    )


def seen(config: Ros2Config, data: list[float]) -> np.ndarray:
    source, io = Source("tcp_pose", config), LocalTopics()
    source.prepare(io)
    source.parts[0].receive(SimpleNamespace(data=data))
    return source.newest(io.now_ns())[0][2].values


def test_millimetres_and_degrees_become_a_pose() -> None:
    pose = seen(contract(**DOBOT), [400, 10, 300, 180, 0, 90])
    np.testing.assert_allclose(pose[:3], [0.4, 0.01, 0.3])
    half = np.sqrt(0.5)  # roll first, then yaw, about fixed axes
    np.testing.assert_allclose(pose[3:], [half, half, 0, 0], atol=1e-12)


def test_the_six_may_be_part_of_a_longer_message() -> None:
    pose = seen(contract(**DOBOT, indices=[1, 2, 3, 4, 5, 6]), [9, 400, 10, 300, 0, 0, 0, 7])
    np.testing.assert_allclose(pose, [0.4, 0.01, 0.3, 0, 0, 0, 1])


def test_a_message_of_another_size_is_refused() -> None:
    with pytest.raises(DeviceFault, match=r"tool_vector.*'data'.*got 7 numbers, expected 6"):
        seen(contract(**DOBOT), [400, 10, 300, 180, 0, 90, 0])


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"layout": "vector", "size": 6}, r"tcp_pose.*got 6 numbers.*7: x y z qx.*pose_rpy"),
        ({**DOBOT, "size": 7}, r"size of a pose_rpy"),
        ({**DOBOT, "indices": [0, 1, 2]}, r"indices.*3 numbers"),
        ({"length": "mm"}, r"length and angle.*mm.*pose_rpy"),
        ({**DOBOT, "scale": 0.001}, r"scale.*none for a pose_rpy"),
    ],
)
def test_what_is_no_pose_is_refused_at_build(entry: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        contract(**entry)


HALF = np.sqrt(0.5)
#: The same pose, turned by 90 degrees about x and then by 90 degrees about z, in every layout.
TURNED = [0.5, 0.5, 0.5, 0.5]
ROTVEC = (2 * np.pi / 3 / np.sqrt(3) * np.ones(3)).tolist()
MATRIX = np.array([[0, 0, 1, 0.4], [1, 0, 0, 0.01], [0, 1, 0, 0.3], [0, 0, 0, 1]], float)


@pytest.mark.parametrize(
    ("layout", "numbers", "keys"),
    [
        ("pose_rotvec", [0.4, 0.01, 0.3, *ROTVEC], {}),
        ("pose_rotvec", [400, 10, 300, *np.rad2deg(ROTVEC)], {"length": "mm", "angle": "deg"}),
        ("pose_xyzw", [0.4, 0.01, 0.3, *TURNED], {}),
        ("pose_wxyz", [0.4, 0.01, 0.3, 0.5, 0.5, 0.5, 0.5], {}),
        ("pose_columns", MATRIX.T.ravel().tolist(), {}),
        ("pose_rows", MATRIX.ravel().tolist(), {}),
        ("pose_rows", [*(MATRIX * [1, 1, 1, 1000]).ravel()[:15].tolist(), 1.0],
         {"length": "mm"}),
    ],
)  # fmt: skip
def test_poses_of_bare_numbers(layout: str, numbers: list[float], keys: dict[str, Any]) -> None:
    pose = seen(
        contract(**{**DOBOT, "length": "m", "angle": "rad", "layout": layout, **keys}), numbers
    )
    np.testing.assert_allclose(pose[:3], [0.4, 0.01, 0.3])
    np.testing.assert_allclose(pose[3:] * np.sign(pose[6]), TURNED, atol=1e-12)


def test_the_order_of_a_quaternion_counts() -> None:
    pose = seen(contract(**{**PLAIN, "layout": "pose_wxyz"}), [0.0, 0.0, 0.0, HALF, HALF, 0.0, 0.0])
    np.testing.assert_allclose(pose[3:], [HALF, 0.0, 0.0, HALF])


@pytest.mark.parametrize(
    ("layout", "numbers", "message"),
    [
        ("pose_rows", MATRIX.T.ravel().tolist(), "last row.*Write layout: pose_columns"),
        ("pose_columns", (2 * np.eye(4) - np.diag([0, 0, 0, 1])).ravel().tolist(), "a rotation"),
        ("pose_columns", np.diag([1.0, 1.0, -1.0, 1.0]).ravel().tolist(), "a rotation"),
        ("pose_wxyz", [0.0] * 7, "length of a quaternion: got 0"),
        ("pose_rotvec", [0.0] * 7, "got 7 numbers, expected 6"),
    ],
)
def test_numbers_that_are_no_pose(layout: str, numbers: list[float], message: str) -> None:
    with pytest.raises(DeviceFault, match=message):
        seen(contract(**{**PLAIN, "layout": layout}), numbers)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layout": "pose_columns", "angle": "deg"}, "no angle there"),
        ({"layout": "pose_columns", "size": 12}, "none, or size 16"),
        ({"layout": "pose_xyzw", "indices": [0, 1, 2]}, "got 3 numbers, expected 7"),
    ],
)
def test_layouts_of_poses_that_contradict_themselves(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract(**{**PLAIN, **keys})
