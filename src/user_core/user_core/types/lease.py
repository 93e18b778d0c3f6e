"""Leases: who may use a resource now."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    """The right to use one resource for a limited time.

    Attributes:
        resource: Name of the resource.
        holder: Who holds it.
        token: Fencing number, larger than that of every earlier lease of the resource. The
            resource obeys only the newest, so a holder that was thought dead and comes back
            cannot drive it (Kleppmann, "How to do distributed locking", 2016).
        duration_s: How long it lasts from the grant or the last renewal, seconds.
    """

    resource: str
    holder: str
    token: int
    duration_s: float
