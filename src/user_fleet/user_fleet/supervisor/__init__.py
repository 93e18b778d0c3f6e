"""A small process supervisor, for where `launch` is not installed."""

from user_fleet.supervisor.restarts import Restarts
from user_fleet.supervisor.supervisor import Child, ChildState, Supervisor

__all__ = ["Child", "ChildState", "Restarts", "Supervisor"]
