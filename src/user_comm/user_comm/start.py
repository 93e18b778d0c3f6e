"""How every process that speaks ROS begins to, and how what spins in a thread ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from user_core.runtime.dds.half_made_ports import mend_half_made_ports
from user_core.runtime.dds.retired_ports import retire_ports_of_dead
from user_core.runtime.processes.endings import end_last

_log = logging.getLogger(__name__)


def start_rclpy(
    args: Sequence[str] | None = None,
    *,
    context: Context | None = None,
    domain_id: int | None = None,
) -> None:
    """``rclpy.init`` without what has killed or blocked processes.

    Ports in shared memory that a killed process left half made are removed first: with one, the middleware would
    wait for ever (:mod:`user_core.runtime.dds.half_made_ports`). Who sent to a process that was killed is told: what
    takes its place might hear nothing of them (:mod:`user_core.runtime.dds.retired_ports`). rclpy's own handlers of
    signals are left out: they invalidate the context before anything can be undone
    (:mod:`user_core.runtime.processes.stop_signals` is ours).

    Args:
        args: ROS arguments; those of the process if not given.
        context: Another than that of the process.
        domain_id: Another than that of the environment.
    """
    mend_half_made_ports()
    retire_ports_of_dead()
    rclpy.init(
        args=None if args is None else list(args),
        context=context,
        domain_id=domain_id,
        signal_handler_options=SignalHandlerOptions.NO,
    )


def end_spinning(
    thread: threading.Thread,
    executor: Executor,
    *nodes: Node,
    context: Context | None = None,
    patience_s: float = 10.0,
) -> bool:
    """End an executor that spins in a thread, and only then its nodes, and their context.

    What is destroyed under a thread that still waits for it, or is in the middle of a callback, crashes the process
    in C. So nodes of a thread that does not end in time (a callback hangs, a host is busy) are left as they are: they
    go with the process.

    Args:
        thread: Spins the executor.
        executor: Is shut down.
        nodes: Are destroyed; in a command, when all else is done
            (:func:`~user_core.runtime.processes.endings.end_last`).
        context: Is shut down after them; None: others use it, too.
        patience_s: How long the thread may take to end, seconds.

    Returns:
        Whether the thread has ended, and the nodes are destroyed or will be.
    """
    end_s = time.monotonic() + patience_s
    executor.wake()
    executor.shutdown(timeout_sec=patience_s)
    thread.join(max(0.1, end_s - time.monotonic()))
    if thread.is_alive():
        _log.warning(
            "thread %r still spins after %g s; its nodes are left as they are",
            thread.name,
            patience_s,
        )
        return False
    for node in nodes:
        end_last(node.destroy_node)
    if context is not None:
        end_last(context.try_shutdown)
    return True
