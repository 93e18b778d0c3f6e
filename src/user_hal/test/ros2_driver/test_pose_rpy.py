"""Poses of six numbers, as Dobot, Fanuc and others report them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault
from user_hal.fakes import LocalTopics
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.observations import Source

NUMBERS = "std_msgs/msg/Float64MultiArray"
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
