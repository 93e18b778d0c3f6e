"""Topics across networks: between the ROS graph of a host and Zenoh, as bytes."""

from user_comm.bridge.bridge import Bridge
from user_comm.bridge.config import BridgeConfig, Route

__all__ = ["Bridge", "BridgeConfig", "Route"]
