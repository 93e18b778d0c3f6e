"""How every process that speaks ROS begins to."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions

from user_core.runtime.half_made_ports import mend_half_made_ports


def start_rclpy(
    args: Sequence[str] | None = None,
    *,
    context: Context | None = None,
    domain_id: int | None = None,
) -> None:
    """``rclpy.init`` without what has killed or blocked processes.

    Ports in shared memory that a killed process left half made are removed first: with one, the middleware would
    wait for ever (:mod:`user_core.runtime.half_made_ports`). rclpy's own handlers of signals are left out: they
    invalidate the context before anything can be undone (:mod:`user_comm.stop_signals` ends in good order).

    Args:
        args: ROS arguments; those of the process if not given.
        context: Another than that of the process.
        domain_id: Another than that of the environment.
    """
    mend_half_made_ports()
    rclpy.init(
        args=None if args is None else list(args),
        context=context,
        domain_id=domain_id,
        signal_handler_options=SignalHandlerOptions.NO,
    )
