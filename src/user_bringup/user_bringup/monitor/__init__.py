"""What one sees of a running system: its state from status messages, as a table and as a history."""

from user_bringup.monitor.history import History
from user_bringup.monitor.state import SystemState
from user_bringup.monitor.table import render

__all__ = ["History", "SystemState", "render"]
