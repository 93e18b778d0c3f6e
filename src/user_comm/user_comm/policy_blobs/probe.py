"""Asks a policy server over the network whether it still hears anything."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zenoh

from user_comm.links.session import ZenohConfig, open_session
from user_comm.policy_blobs.pieces import ALIVE
from user_core.closing import Closing
from user_core.errors import SuiteError


class ServerProbe(Closing):
    """A session of its own that asks the server of this process by way of their router.

    A session one of whose threads has panicked (eclipse-zenoh 1.10.2, where a callback found no
    memory) looks alive: it sends and keeps its connection, and may answer nobody. What it serves
    cannot tell by itself, so somebody has to ask. Where nobody can be asked, because the router
    is away or the server is not known to it, nothing is said.

    Args:
        config: How to reach the router that the server's session has, too.
        prefix: Where the server serves.
        on_hung: Called from a thread, once, when ``times`` questions in a row timed out.
        period_s: Time between two questions, and for an answer, seconds.
        times: How many questions.
    """

    def __init__(
        self,
        config: ZenohConfig,
        prefix: str,
        on_hung: Callable[[], object],
        period_s: float = 5.0,
        times: int = 3,
    ) -> None:
        self._config, self._key, self._on_hung = config, f"{prefix}/{ALIVE}", on_hung
        self._period_s, self._times = period_s, times
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more. Idempotent."""
        self._ending.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * self._period_s)

    def _run(self) -> None:
        try:
            with open_session(self._config, self._ending) as session:
                silent = 0
                while silent < self._times:
                    if self._ending.wait(self._period_s):
                        return
                    silent = silent + 1 if self._times_out(session) else 0
            if not self._ending.is_set():
                self._on_hung()
        except (SuiteError, zenoh.ZError):
            return  # the server's own session says what is wrong

    def _times_out(self, session: zenoh.Session) -> bool:
        """Whether somebody should have answered, and did not."""
        done = threading.Event()
        failed: list[bool] = []

        def take(reply: zenoh.Reply) -> None:
            failed.append(reply.ok is None)

        handler = zenoh.handlers.Callback(take, done.set, indirect=False)
        session.get(self._key, handler, timeout=self._period_s)
        while not done.wait(0.1):
            if self._ending.is_set():
                return False
        return bool(failed) and all(failed)
