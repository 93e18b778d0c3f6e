"""A small process supervisor, for where `launch` is not installed."""

from user_fleet.supervisor.backoff import Backoff
from user_fleet.supervisor.child import Child, ChildState
from user_fleet.supervisor.supervisor import Supervisor

__all__ = ["Backoff", "Child", "ChildState", "Supervisor"]
