"""The durable outbox: nothing that an actor experienced is lost, and nothing arrives twice."""

from user_actor.outbox.config import OutboxConfig
from user_actor.outbox.outbox import Outbox, OutboxStatus

__all__ = ["Outbox", "OutboxConfig", "OutboxStatus"]
