"""How an actor is doing, as ``user_msgs/ActorStatus``."""

from __future__ import annotations

import time

from user_msgs.msg import ActorStatus

from user_actor.loop.stats import LoopState, LoopStatus
from user_actor.outbox import OutboxStatus
from user_comm.converters import set_stamp
from user_comm.flows import FlowFigures

_STATES = {
    LoopState.WAITING: ActorStatus.WAITING,
    LoopState.RESETTING: ActorStatus.RESETTING,
    LoopState.RUNNING: ActorStatus.RUNNING,
    LoopState.CLOSING: ActorStatus.RUNNING,
    LoopState.PAUSED: ActorStatus.PAUSED,
}


def outbox_figures(outbox: OutboxStatus) -> FlowFigures:
    """Trajectories as a flow, for diagnostics."""
    return FlowFigures(
        bytes=outbox.delivered_bytes,
        link_bytes_s=outbox.link_bytes_s,
        round_trip_s=outbox.round_trip_s,
        base_s=outbox.base_s,
        window_bytes=outbox.window_bytes,
        backlog_bytes=outbox.pending_bytes,
        backlog_age_s=outbox.oldest_age_s,
        again=outbox.resent,
        refused=outbox.aside_chunks,
        coding=outbox.coding,
    )


def actor_status_to_message(
    loop: LoopStatus | None, outbox: OutboxStatus, waiting_for: str = ""
) -> ActorStatus:
    """Encode; ``loop`` is None while there is none, ``waiting_for`` says why."""
    message = ActorStatus()
    set_stamp(message.header.stamp, time.time_ns())
    message.outbox_chunks = outbox.pending_chunks
    message.outbox_bytes = outbox.pending_bytes
    message.outbox_age_s = float(outbox.oldest_age_s)
    message.outbox_fill = float(outbox.fill)
    message.success_rate = message.last_return = float("nan")
    if loop is None:
        message.state, message.detail = ActorStatus.WAITING, waiting_for
        message.warnings = list(outbox.warnings)
        return message
    message.state, message.detail = _STATES[loop.state], loop.detail
    message.steps, message.episodes = loop.steps, loop.episodes
    message.success_rate = float(loop.success_rate)
    message.last_return = float(loop.last_return)
    message.rate_hz = float(loop.rate_hz)
    message.lateness_p99_ms = float(loop.lateness_p99_ms)
    message.overhead_p50_ms = float(loop.overhead_p50_ms)
    message.warnings = [*outbox.warnings, *loop.warnings]
    return message
