"""Leases to and from ``user_msgs/Lease``."""

from __future__ import annotations

from typing import Any

from user_msgs.msg import Lease as LeaseMessage

from user_comm.converters import checks
from user_core.types import Lease

#: Longest lease that is believed, seconds (a year).
MAX_DURATION_S = 366 * 86400.0


def lease_to_message(lease: Lease, left_s: float) -> Any:
    """Encode a lease, and how much of it is left."""
    message = LeaseMessage()
    message.resource = lease.resource
    message.holder = lease.holder
    message.token = int(lease.token)
    message.duration_s = float(lease.duration_s)
    message.left_s = float(left_s)
    return message


def lease_from_message(message: Any) -> tuple[Lease, float]:
    """Decode a lease, and how much of it was left when it was sent, seconds.

    Raises CodecError.
    """
    lease = Lease(
        resource=checks.name(message.resource, "lease.resource"),
        holder=checks.name(message.holder, "lease.holder"),
        token=checks.integer(message.token, "lease.token", 1),
        duration_s=checks.number(message.duration_s, "lease.duration_s", 0.0, MAX_DURATION_S),
    )
    return lease, checks.number(message.left_s, "lease.left_s", 0.0, MAX_DURATION_S)
