"""Any Gymnasium environment as a robot (https://gymnasium.farama.org)."""

from user_hal.robots.gymnasium.config import GymnasiumConfig, PictureConfig, WrapperConfig
from user_hal.robots.gymnasium.driver import GymnasiumRobot

__all__ = ["GymnasiumConfig", "GymnasiumRobot", "PictureConfig", "WrapperConfig"]
