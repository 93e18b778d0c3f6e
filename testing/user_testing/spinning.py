"""Nodes of a test that spin in a thread of their own, and always end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from user_comm.start import end_spinning


@contextmanager
def spinning(*make: Callable[..., Any]) -> Iterator[list[Any]]:
    """Nodes in a context of their own, spun by one thread while the block lasts.

    Args:
        make: Each makes a node; takes ``context``.
    """
    context = Context()
    rclpy.init(context=context, args=[])
    nodes = [one(context=context) for one in make]
    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield nodes
    finally:
        end_spinning(thread, executor, *nodes)
        context.try_shutdown()
