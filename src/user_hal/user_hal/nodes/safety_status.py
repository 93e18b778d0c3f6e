"""The state of a HAL as messages: ``SafetyStatus``, and items of the diagnostics."""

from __future__ import annotations

import time

from user_msgs.msg import SafetyStatus

from user_comm.converters import set_stamp
from user_comm.diagnostics import Item, Level
from user_hal.runtime.control_loop import HalStatus
from user_hal.safety.stops import SafetyState


def safety_status_to_message(status: HalStatus, base_frame: str) -> SafetyStatus:
    """Encode what the safety gate does."""
    message = SafetyStatus()
    set_stamp(message.header.stamp, time.time_ns())
    message.header.frame_id = base_frame
    message.state = int(status.state)
    if status.cause:
        message.cause, message.detail = status.cause.code, describe(status)
    message.passed, message.limited = status.passed, status.limited
    message.refused = status.refused
    message.reasons = list(status.reasons)
    message.counts = list(status.reasons.values())
    message.lease_holder = status.lease.holder if status.lease else ""
    message.lease_token = status.newest_token
    message.lease_left_s = float(status.lease_left_s)
    return message


def safety_item(status: HalStatus) -> Item:
    """The state for ``/diagnostics``: an error names what still forbids all motion, a warning
    what stopped the robot and has gone."""
    level = Level.OK
    if status.cause:
        level = Level.ERROR if status.present else Level.WARN
    values = {
        "state": status.state.name,
        "cause": status.cause.code,
        "stop_failure": status.stop_failure.code,
        "passed": status.passed,
        "limited": status.limited,
        "refused": status.refused,
        **{f"reason_{code}": count for code, count in sorted(status.reasons.items())},
    }
    return Item("safety", level, describe(status), values)


def lease_item(status: HalStatus) -> Item:
    """Who may command the robot."""
    if status.lease is None:
        return Item("lease", Level.OK, "nobody", {"newest_token": status.newest_token})
    return Item(
        "lease",
        Level.OK,
        f"{status.lease.holder}, for another {status.lease_left_s:.1f} s",
        {"holder": status.lease.holder, "newest_token": status.newest_token},
    )


def loop_item(status: HalStatus) -> Item:
    """How the control loop keeps its deadlines, over its last 1000 cycles."""
    late = status.lateness
    text = f"lateness p50 {late.p50_ms:.2f} ms, p99 {late.p99_ms:.2f} ms"
    values = {
        "cycles": late.cycles,
        "missed": late.missed,
        "p50_ms": f"{late.p50_ms:.3f}",
        "p99_ms": f"{late.p99_ms:.3f}",
        "worst_ms": f"{late.worst_ms:.3f}",
    }
    return Item("control loop", Level.OK, text, values)


def describe(status: HalStatus) -> str:
    """The state in one line."""
    if not status.cause:
        return {SafetyState.IDLE: "idle, the robot holds"}.get(status.state, "commands pass")
    text = f"{status.cause.code}: {status.cause.text}"
    if not status.present and status.state is SafetyState.STOPPED:
        text += " (has gone; goes on when commands come)"
    if status.stop_failure:
        text += f" (AND STOPPING FAILS: {status.stop_failure.text})"
    return text
