"""Keeps the lease of a robot while its actor is active."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from user_actor.config import LeaseConfig
from user_comm.services import ServiceClient
from user_core.errors import LeaseError, OldGrant, TransportError
from user_core.reasons import NO_LEASE, NO_REASON, Reason

#: For a hal that is just being discovered.
_PATIENCE_S = 3.0
_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Acquires a lease, renews it three times within its duration, acquires it anew when lost.

    The calls are made in a thread of its own, for they wait.

    Args:
        wish: What to ask for.
        holder: Who asks.
        acquire: Client of ``acquire_lease``.
        renew: Client of ``renew_lease``.
        release: Client of ``release_lease``.
        grant: Number of the scheduler's grant under which the robot is asked for; 0: there is none.

    Attributes:
        token: Fencing number of the lease; 0 without one.
        problem: Why there is none; false with one.
        on_lost: Called in the keeper's thread when it was lost.
    """

    def __init__(
        self,
        wish: LeaseConfig,
        holder: str,
        acquire: ServiceClient,
        renew: ServiceClient,
        release: ServiceClient,
        grant: int = 0,
    ) -> None:
        self._wish, self._holder, self._grant = wish, holder, grant
        self._acquire, self._renew, self._release = acquire, renew, release
        self._ending = threading.Event()
        self._until_s = 0.0
        self._duration_s = wish.duration_s
        self.token = 0
        self.problem = Reason(NO_LEASE, "no lease of the robot: not asked for yet")
        self.on_lost: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Get the lease, and keep it."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give the lease back. The robot comes to a safe stop.

        Waits for no answer: the hal may be gone, and the executor that would hear it may be
        the one that waits here.
        """
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._step()
                wait_s = self._duration_s / 3
            except Exception as error:  # without this thread there would never be a lease again
                if self._ending.is_set():
                    break
                self._lost(error)
                wait_s = self._wish.retry_s
            self._ending.wait(wait_s)
        if self.token:
            self._give_back()

    def _step(self) -> None:
        if self.token:
            self._do_renew()
        else:
            self._do_acquire()

    def _do_acquire(self) -> None:
        request = self._acquire.request_type(
            holder=self._holder, duration_s=self._wish.duration_s, preempt=self._wish.preempt,
            grant=self._grant,
        )  # fmt: skip
        asked_s = time.monotonic()
        answer = self._acquire.call(request, _PATIENCE_S, self._ending)
        if not answer.success:
            raise _refusal(answer, "the lease was refused")
        self._duration_s = answer.lease.duration_s
        self._until_s = asked_s + self._duration_s
        self.token, self.problem = int(answer.lease.token), NO_REASON
        _log.info("the robot is leased with token %d", self.token)

    def _do_renew(self) -> None:
        asked_s = time.monotonic()
        try:
            request = self._renew.request_type(token=self.token)
            answer = self._renew.call(request, self._duration_s / 3, self._ending)
        except TransportError:
            if self._ending.is_set() or time.monotonic() >= self._until_s:
                raise
            return  # it may still be answered in time
        if not answer.success:
            raise _refusal(answer, "the lease was lost")
        self._until_s = asked_s + self._duration_s

    def _lost(self, error: Exception) -> None:
        code = error.code if isinstance(error, OldGrant) else NO_LEASE
        problem = Reason(code, f"no lease of the robot: {error}")
        if self.token or problem != self.problem:
            _log.warning("%s", problem)
        had, self.token, self.problem = self.token, 0, problem
        if had:
            self.on_lost()

    def _give_back(self) -> None:
        request = self._release.request_type(token=self.token)
        self.token, self.problem = 0, Reason(NO_LEASE, "no lease of the robot: given back")
        self._release.tell(request)


def _refusal(answer: Any, text: str) -> LeaseError:
    """What a hal says that it refuses: for now, or for ever."""
    kind = OldGrant if answer.error_code == OldGrant.code else LeaseError
    return kind(answer.message or text)
