"""Bringing managed nodes up, watching them, and bringing them back. Free of ROS.

The main flow is :meth:`~user_fleet.lifecycle.manager.LifecycleManager.step`.
"""

from user_fleet.lifecycle.config import LifecycleConfig
from user_fleet.lifecycle.managed_node import ManagedNode
from user_fleet.lifecycle.manager import LifecycleManager
from user_fleet.lifecycle.memory import Memory, Mode
from user_fleet.lifecycle.orders import AskState, ChangeState, Kill, Order

__all__ = [
    "AskState",
    "ChangeState",
    "Kill",
    "LifecycleConfig",
    "LifecycleManager",
    "ManagedNode",
    "Memory",
    "Mode",
    "Order",
]
