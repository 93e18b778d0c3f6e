"""Bringing managed nodes up, watching them, and bringing them back. Free of ROS.

The main flow is :meth:`~user_fleet.lifecycle.manager.LifecycleManager.step`.
"""

from user_fleet.lifecycle.managed_node import AskState, ChangeState, Kill, ManagedNode, Order
from user_fleet.lifecycle.manager import LifecycleConfig, LifecycleManager, LifecycleManagerConfig
from user_fleet.lifecycle.memory import Memory, Mode

__all__ = [
    "AskState",
    "ChangeState",
    "Kill",
    "LifecycleConfig",
    "LifecycleManager",
    "LifecycleManagerConfig",
    "ManagedNode",
    "Memory",
    "Mode",
    "Order",
]
