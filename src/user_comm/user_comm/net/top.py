"""``user net top``: goodput, round trips, backlog and retransmissions of every link, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from user_comm.net.flow_table import FlowTable
from user_comm.start import start_rclpy
from user_core.command_line import Parser
from user_core.runtime.processes.endings import end_last


def main(words: Sequence[str]) -> int:
    """Show the table until Ctrl-C, or once; exit code 1 when nothing is heard."""
    parser = Parser(prog="user net top", description=__doc__)
    parser.add_argument("--once", action="store_true", help="show it once")
    parser.add_argument("--wait", type=float, default=6.0, help="seconds to listen with --once")
    arguments = parser.parse_args(words)
    import rclpy  # late: `user net init` needs no ROS
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.context import Context
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    table = FlowTable()

    def take(message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, name = status.name.partition(": ")
            values = {item.key: item.value for item in status.values}
            table.take(node, name, status.message, values, time.monotonic())

    context = Context()
    start_rclpy(context=context)
    node = rclpy.create_node("net_top", context=context, start_parameter_services=False)
    try:
        node.create_subscription(DiagnosticArray, "/diagnostics", take, 50)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        end_s = time.monotonic() + arguments.wait
        next_s = time.monotonic() + 1.0
        while not arguments.once or time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.2)
            if not arguments.once and time.monotonic() >= next_s:
                next_s = time.monotonic() + 1.0
                sys.stdout.write("\x1b[2J\x1b[H")
                _show(table)
        return 0 if _show(table) else 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        end_last(context.try_shutdown)  # and with it the node


def _show(table: FlowTable) -> bool:
    now_s = time.monotonic()
    lines = table.lines(now_s)
    print("\n".join(lines))
    classes = table.by_class(now_s)
    if classes:
        print("\nby class: " + ", ".join(f"{k} {8e-6 * v:.2f} Mbit/s" for k, v in classes.items()))
    if len(lines) == 1:
        print("nothing heard: is ROS_DOMAIN_ID that of the system?")
    return len(lines) > 1
