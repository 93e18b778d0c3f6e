"""What all pages share: the state, the graph, who acts, and the log of acts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from user_bringup.console.access import Access, DriverSeats, Role, Tokens, Visitor
from user_bringup.console.act_log import ActLog, default_file
from user_bringup.console.config import ConsoleConfig
from user_bringup.console.precedence import Precedence
from user_bringup.console.snapshot import Snapshot
from user_bringup.running.process_board import ProcessBoard
from user_core.errors import SuiteError

#: How long a robot that is connected may take to say that it has stopped; then it is asked in another way, too.
_ANSWER_S = 1.0
#: How long the first robot may take to be heard of.
_FIRST_S = 3.0


class Graph(Protocol):
    """What the console asks of a ROS graph; :class:`user_bringup.nodes.console_graph.ConsoleGraph`."""

    @property
    def robots(self) -> Mapping[str, Any]:
        """Robots by namespace."""

    @property
    def managers(self) -> list[str]:
        """Full names of lifecycle managers."""

    @property
    def learners(self) -> Mapping[str, str]:
        """Services that keep a checkpoint, by learner."""

    def call(self, service: str) -> Any:
        """Call a service of type Trigger."""

    def restart(self, node: str) -> Any:
        """Take a node through its life cycle, back to where it acts."""

    def stop(self, namespace: str, answered: Callable[[Any], None]) -> bool:
        """Ask a robot at once to stop, and return; whether it could be asked."""

    def watch_camera(self, topic: str, rate_hz: float) -> Any:
        """Look at a camera, this many times a second at most."""

    def leave_camera(self, view: Any) -> None:
        """Look no more."""

    def take_image(self, view: Any) -> bool:
        """Take the newest image of a camera that somebody looks at, and return at once; whether there was one."""

    def jpeg(self, view: Any, quality: int = 80) -> bytes | None:
        """The newest image, coded."""

    def arm(self, namespace: str) -> Any:
        """A robot as it is drawn."""

    def drive(self, namespace: str, config: Any, device: str) -> Any:
        """A place to drive from."""

    def tell(self, namespace: str, label: str, device: str) -> None:
        """Judge the running episode."""


class Console:
    """What all pages share.

    Args:
        config: Its parameters.
        look: Gives the state of the system now.
        graph: The ROS graph; None for a finished run.
        board: The processes of the run that `user up` runs on this machine; None where no run is known.

    Attributes:
        on_visit: Called when a page is opened, from the server's thread; must not wait.
    """

    def __init__(
        self,
        config: ConsoleConfig,
        look: Callable[[], Snapshot],
        graph: Graph | None = None,
        board: ProcessBoard | None = None,
    ) -> None:
        self.config, self.graph, self._board = config, graph, board
        self._look, self._looked_s = look, -1.0
        self._snapshot = Snapshot()
        self.access = Access(config.host, Tokens(config.tokens), config.names, config.plain)
        run = Path(config.run_dir) if config.run_dir else None
        self.acts = ActLog(run / "console_acts.jsonl" if run and run.is_dir() else default_file())
        self.seats, self.precedence = DriverSeats(), Precedence()
        # Those of the loop may all be busy with episodes and pictures.
        self._stopping = ThreadPoolExecutor(8, "emergency stop")
        self.on_visit: list[Callable[[], None]] = []

    def snapshot(self) -> Snapshot:
        """The state, made anew at most twice a second, however many pages look."""
        now_s = time.monotonic()
        if now_s - self._looked_s > 0.4:
            self._snapshot, self._looked_s = self._look(), now_s
        return self._snapshot

    def may(self, visitor: Visitor, role: Role) -> bool:
        """Whether he may do this still: his token may have been taken back since his page was made."""
        if self.access.local:
            return visitor.role >= role
        return self.access.tokens.names().get(visitor.name, Role.LOOK - 1) >= role

    async def act(
        self, visitor: Visitor, what: str, whom: str, service: str, role: Role
    ) -> tuple[bool, str]:
        """Call a service for a person, and write it down."""
        if not self.may(visitor, role):
            return self._record(visitor, what, whom, f"not allowed to {visitor.name}", False)
        if self.graph is None:
            return self._record(visitor, what, whom, "nothing runs", False)
        answer = await asyncio.to_thread(self.graph.call, service)
        return self._record(visitor, what, whom, answer.text, answer.ok)

    async def restart(self, visitor: Visitor, node: str) -> tuple[bool, str]:
        """Start a node anew."""
        what = "start anew"
        if not self.may(visitor, Role.DRIVE):
            return self._record(visitor, what, node, f"not allowed to {visitor.name}", False)
        if self.graph is None:
            return self._record(visitor, what, node, "nothing runs", False)
        answer = await asyncio.to_thread(self.graph.restart, node)
        return self._record(visitor, what, node, answer.text, answer.ok)

    async def restart_process(self, visitor: Visitor, name: str) -> tuple[bool, str]:
        """Have `user up` start a process anew."""
        what = "start the process anew"
        if not self.may(visitor, Role.DRIVE):
            return self._record(visitor, what, name, f"not allowed to {visitor.name}", False)
        if self._board is None:
            return self._record(visitor, what, name, "no run is known", False)
        try:
            await asyncio.to_thread(self._board.ask, name)
        except SuiteError as error:
            return self._record(visitor, what, name, str(error), False)
        return self._record(visitor, what, name, "`user up` does it", True)

    async def emergency_stop(self, visitor: Visitor) -> tuple[bool, str]:
        """Stop all robots, at the same time. Anybody who may see the page may stop them."""
        graph = self.graph
        robots = await self._robots()
        if graph is None or not robots:
            return self._record(visitor, "emergency stop", "", "no robot is heard of", False)
        async with self.precedence.driving():
            answers = await asyncio.gather(
                *(
                    self._stop(graph, namespace, view.services["emergency_stop"])
                    for namespace, view in robots
                )
            )
        good = True
        texts = []
        for (namespace, _), answer in zip(robots, answers, strict=True):
            good &= answer.ok
            texts.append(f"{namespace.strip('/')}: {answer.text}")
            self._record(visitor, "emergency stop", namespace, answer.text, answer.ok)
        return good, "; ".join(texts)

    async def _robots(self) -> list[tuple[str, Any]]:
        """Robots with their namespaces. A console that has just come up (and pages of the one before are open still)
        knows of them soon."""
        if self.graph is None:
            return []
        end_s = time.monotonic() + _FIRST_S
        while not self.graph.robots and time.monotonic() < end_s:
            self._look()  # else the graph is looked at but now and then
            await asyncio.sleep(0.1)
        return list(self.graph.robots.items())

    async def _stop(self, graph: Graph, namespace: str, service: str) -> Any:
        """Stop one robot: by what is connected to it already; where that does not answer, by a connection of its
        own."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        answers: list[Any] = []

        def answered(answer: Any) -> None:
            answers.append(answer)
            loop.call_soon_threadsafe(done.set)

        if graph.stop(namespace, answered):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(done.wait(), _ANSWER_S)
        if answers:
            return answers[0]
        return await loop.run_in_executor(self._stopping, graph.call, service)

    async def judge(self, visitor: Visitor, namespace: str, label: str) -> tuple[bool, str]:
        """Give the running episode of a robot a verdict."""
        if not self.may(visitor, Role.LABEL):
            return self._record(visitor, label, namespace, f"not allowed to {visitor.name}", False)
        if self.graph is None:
            return self._record(visitor, label, namespace, "nothing runs", False)
        try:
            await asyncio.to_thread(self.graph.tell, namespace, label, f"console {visitor.name}")
        except SuiteError as error:
            return self._record(visitor, label, namespace, str(error), False)
        return self._record(visitor, label, namespace, "told", True)

    def _record(
        self, visitor: Visitor, what: str, whom: str, text: str, ok: bool
    ) -> tuple[bool, str]:
        self.acts.add(visitor.name, what, whom, text, ok)
        return ok, text
