"""Node ``console``: the page for people who stand beside a robot, or sit at home."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.context import Context

from user_bringup.console.config import ConsoleConfig
from user_bringup.console.precedence import give_way
from user_bringup.console.server import ConsoleServer
from user_bringup.console.shared import Console
from user_bringup.console.snapshot import Snapshot, snapshot
from user_bringup.nodes.console_graph import ConsoleGraph
from user_bringup.nodes.monitor import Monitor
from user_bringup.running.process_board import ProcessBoard
from user_comm.diagnostics import Level
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run

_REPORT_S = 2.0


class ConsoleNode(LifecycleNode):
    """Serves the page from a thread of its own. Nothing waits for it, and it may die at any time."""

    Config = ConsoleConfig

    def activate(self, stack: ExitStack) -> None:
        config: ConsoleConfig = self.config
        server = stack.enter_context(serve(config, context=self.context))
        self._server = server
        give_way()
        self.get_logger().info(f"the console is at {server.url}")
        self.diagnostics.report("console", Level.OK, f"at {server.url}")
        self.every(_REPORT_S, self._report)

    def _report(self) -> None:
        guard = self._server.guard
        refused: dict[str, Any] = {}
        if guard is not None:
            refused = {"refused": guard.refused, "flooded": guard.flooded, "crowded": guard.crowded,
                       "cut off": guard.gate.cut_off}  # fmt: skip
        self.diagnostics.report("console", Level.OK, f"at {self._server.url}", refused)


@contextmanager
def serve(
    config: ConsoleConfig, live: bool = True, context: Context | None = None
) -> Iterator[ConsoleServer]:
    """A console, while the block lasts.

    Args:
        config: Its parameters.
        live: Whether to listen to a running system; False: for a finished run.
        context: Of the node of this process, where it has one: it takes part in the graph once.
    """
    graph: ConsoleGraph | None = None
    board = ProcessBoard(Path(config.run_dir)) if live and config.run_dir else None
    look: Callable[[], Snapshot] = Snapshot
    with ExitStack() as stack:
        if live:
            domain = config.domains[-1] if config.domains else None
            is_ours = context is not None and domain in (None, context.get_domain_id())
            shared = context if is_ours else None
            graph = stack.enter_context(ConsoleGraph(domain, shared, config.camera_rate_hz))
            contexts = {domain: graph.context}
            monitor = stack.enter_context(
                Monitor(domains=config.domains, when_asked=True, contexts=contexts)
            )
            look = partial(_look, monitor, graph, board)
        yield stack.enter_context(ConsoleServer(Console(config, look, graph, board)))


def _look(monitor: Monitor, graph: ConsoleGraph, board: ProcessBoard | None) -> Snapshot:
    """What pages show; nobody else asks, so that what it takes is listened to while one is open."""
    monitor.attend()
    graph.attend()
    processes = board.lines() if board is not None else ()
    with monitor.lock:
        monitor.state.processes = {line.name: line.trouble for line in processes}
        return snapshot(monitor.state, processes)


def main() -> None:
    """Entry point of the executable ``console_node``."""
    sys.exit(run(ConsoleNode, "console"))


if __name__ == "__main__":
    main()
