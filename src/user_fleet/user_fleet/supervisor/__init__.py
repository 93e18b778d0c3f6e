"""A small process supervisor, for where `launch` is not installed."""

from user_fleet.supervisor.backoff import Backoff
from user_fleet.supervisor.supervisor import Child, ChildState, Supervisor

__all__ = ["Backoff", "Child", "ChildState", "Supervisor"]
