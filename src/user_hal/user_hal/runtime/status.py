"""How it stands with a robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from user_core.types import Lease
from user_hal.runtime.lateness import LatenessReport
from user_hal.safety.stops.condition import Stop
from user_hal.safety.supervisor import SafetyState


@dataclass(frozen=True)
class HalStatus:
    """A snapshot.

    Attributes:
        state: Whether commands may pass.
        cause: Why the robot was stopped; None while commands pass or none are wanted.
        present: Whether that cause still holds.
        passed: Commands that passed unchanged, since the start.
        limited: Commands that were changed.
        refused: Commands that were refused.
        reasons: How often each reason for a change or refusal occurred.
        lease: The lease, if anybody holds one.
        lease_left_s: Seconds that are left of it.
        newest_token: Newest fencing number.
        stop_trouble: Why the last stop of the robot failed; empty when it did not.
        lateness: How the loop keeps its deadlines.
    """

    state: SafetyState
    cause: Stop | None
    present: bool
    passed: int
    limited: int
    refused: int
    reasons: Mapping[str, int]
    lease: Lease | None
    lease_left_s: float
    newest_token: int
    stop_trouble: str
    lateness: LatenessReport
