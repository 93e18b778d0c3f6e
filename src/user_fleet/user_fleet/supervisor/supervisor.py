"""Runs the processes of a deployment, and keeps them running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from user_fleet.deployment.model import ProcessSpec
from user_fleet.deployment.order import start_order
from user_fleet.deployment.render import CommandLine
from user_fleet.supervisor.child import Child, ChildState
from user_fleet.supervisor.watchman import Watchman


class Supervisor:
    """Starts processes in order, restarts them, and stops them in reverse order.

    Args:
        processes: What to run.
        commands: The command of each process, by its name.
        log_dir: Where the output of each goes, ``<name>.log``.
        on_change: Called whenever a child changes its state.

    Use as ``await supervisor.run()`` in a task; ``supervisor.request_stop()`` ends it.
    """

    def __init__(
        self,
        processes: Sequence[ProcessSpec],
        commands: Mapping[str, CommandLine],
        log_dir: Path,
        on_change: Callable[[Child], None] = lambda child: None,
    ) -> None:
        self._watchman = Watchman(max((p.stop_timeout_s for p in processes), default=10.0))
        self.children = {
            spec.name: Child(spec, commands[spec.name], log_dir, on_change, self._watchman)
            for spec in start_order(processes)
        }
        self._stop = asyncio.Event()

    def request_stop(self) -> None:
        """Ask :meth:`run` to stop everything and return."""
        self._stop.set()

    async def run(self) -> bool:
        """Run until asked to stop, or until every process has ended for good.

        Returns:
            Whether no process was given up.
        """
        tasks = {name: asyncio.create_task(child.run()) for name, child in self.children.items()}
        stopped = asyncio.create_task(self._stop.wait())
        everything: asyncio.Future[list[None]] = asyncio.gather(*tasks.values())
        ends: set[asyncio.Future[Any]] = {stopped, everything}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            await self._shut_down()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self._watchman.close()
        return all(child.state is not ChildState.GIVEN_UP for child in self.children.values())

    async def _shut_down(self) -> None:
        """Reverse order: nobody loses what it depends on before it has ended itself."""
        for child in reversed(self.children.values()):
            child.forbid_start()
        for child in reversed(self.children.values()):
            await child.stop()
