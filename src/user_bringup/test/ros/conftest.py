"""ROS tests of this package; without ROS 2 (an installation, or the wheels) there are none."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("rclpy") else ["test_*.py"]
