"""Robot files and parameters of before are refused with the way to write them now."""

from __future__ import annotations

from typing import Any

import pytest

from user_core.config import Config, from_mapping
from user_core.errors import ConfigError
from user_hal.node_configs import HalConfig, TeleopConfig
from user_hal.robot_file import RobotFile, refuse_old_spelling


@pytest.mark.parametrize(
    ("cls", "data", "told"),
    [
        (RobotFile, {"driver": "ros2", "params": {}}, "Write `robot.plugin` for `driver`"),
        (RobotFile, {"robot": {"plugin": "fake"}, "params": {"a": 1}}, "`robot.params`"),
        (HalConfig, {"driver": "mock"}, r"robot: .*expected \{plugin: NAME, params"),
        (HalConfig, {"robot_file": "panda_sim", "params": {"task": "reach"}}, "`robot.params`"),
        (TeleopConfig, {"driver": "joy"}, "Write `teleop.plugin` for `driver`"),
    ],
)
def test_the_old_spelling_is_refused_with_the_new_one(
    cls: type[Config], data: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        from_mapping(cls, data)


def test_a_camera_is_chosen_like_every_plugin() -> None:
    devices = {"wrist": {"driver": "opencv", "params": {}}}
    data = {"robot": {"plugin": "fake"}, "cameras": {"devices": devices}}
    with pytest.raises(ConfigError, match=r"cameras\.devices\.wrist\.(driver|plugin)"):
        from_mapping(RobotFile, data)


def test_a_node_without_a_choice_says_how_older_files_are_to_be_read() -> None:
    for cls, key in ((HalConfig, "robot"), (TeleopConfig, "teleop")):
        with pytest.raises(ConfigError, match=rf"`driver` and `params`: that is {key}\.plugin"):
            cls()
    with pytest.raises(ConfigError, match=r"params\.rate_hz"):
        refuse_old_spelling(["robot_file", "params.rate_hz"], "robot")
