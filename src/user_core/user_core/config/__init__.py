"""Typed configuration: frozen dataclasses from YAML, checked field by field.

Why not pydantic: this package depends on numpy and the standard library only (YAML apart),
Ubuntu 24.04, the platform of ROS 2 Jazzy, still ships pydantic 1, and ROS parameters with
ranges and descriptions are derived from the same declarations.
"""

from user_core.config.base import Config
from user_core.config.load import from_mapping, load_yaml, to_mapping
from user_core.config.setting import Setting, setting, setting_of

__all__ = ["Config", "Setting", "from_mapping", "load_yaml", "setting", "setting_of", "to_mapping"]
