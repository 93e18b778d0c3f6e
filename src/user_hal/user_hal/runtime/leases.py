"""Leases of one resource: who may command it now, and who may not any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from user_core.config import Config, setting
from user_core.errors import LeaseError
from user_core.reasons import Reason
from user_core.runtime.clock import Clock
from user_core.types import Lease
from user_hal.runtime.grants import GrantOrder
from user_hal.runtime.obeyed import ObeyedLog

#: Of how many leases it is remembered that a newer grant has ended them.
_REMEMBERED = 64


class LeaseConfig(Config):
    """Whether and how a robot is leased."""

    required: bool = setting(
        True,
        doc="Only the holder of a lease may command the robot. False is for a bench with one "
        "commander: then token 0 is obeyed while there is no lease.",
    )
    max_duration_s: float = setting(
        60.0, doc="Longest lease without renewal; longer requests are shortened.", unit="s", gt=0
    )


class LeaseBook:
    """Grants, prolongs and ends leases of one resource. Safe to use from several threads.

    Tokens are fencing numbers: each grant has a larger one than all before, also across
    restarts of the process (they start from the wall clock, in nanoseconds), and only the
    newest is obeyed. So a holder that was believed dead and comes back cannot drive the robot
    (Kleppmann, "How to do distributed locking", 2016).

    A lease is prolonged by renewal and by every command that is accepted under it: whoever
    drives the robot is alive. A holder that pauses has to renew. The same holder may acquire
    again at any time (it was restarted): its earlier token ends.

    Above the tokens stand the grants of a fleet's scheduler, where there is one: a request under a
    newer grant takes the robot over at once, and one under an older grant is refused for ever, also while nobody
    holds a lease (:class:`~user_hal.runtime.grants.GrantOrder`). So the order is by grant, then by token.

    Args:
        resource: Name of what is leased.
        config: Whether a lease is needed, and for how long it may last.
        clock: Tells the time.
        on_change: Called, without any lock, after a grant and after an end, with the reason.
        grants: Which grants are obeyed; None: an order that this process alone knows.
        obeyed: Where it is noted who commanded the robot; None: in memory.
    """

    def __init__(
        self,
        resource: str,
        config: LeaseConfig,
        clock: Clock | None = None,
        on_change: Callable[[str], None] = lambda reason: None,
        grants: GrantOrder | None = None,
        obeyed: ObeyedLog | None = None,
    ) -> None:
        self.resource, self.config = resource, config
        self._clock = clock or Clock()
        self._on_change = on_change
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._until_ns = 0
        self._last_token = 0
        self._grants = grants or GrantOrder(resource=resource)
        self.log = obeyed or ObeyedLog(clock=self._clock)
        self._grant = 0  # of the present lease
        self._asking = threading.Lock()  # the disk is written under it, and no command waits
        self._superseded: dict[int, tuple[int, str]] = {}  # token, to grant and holder

    def acquire(
        self, holder: str, duration_s: float, preempt: bool = False, grant: int = 0
    ) -> Lease:
        """Grant a lease.

        Args:
            holder: Who asks.
            duration_s: For how long, without renewal.
            preempt: Take it from whoever holds one, under the same grant.
            grant: Number of the scheduler's grant under which it is asked for; 0: there is none.

        Raises:
            OldGrant: The scheduler has granted the robot to somebody else since.
            LeaseError: Somebody else holds one and ``preempt`` is false; or the request makes
                no sense.
            StoreError: The grant cannot be remembered.
        """
        with self._asking:
            return self._acquire(holder, duration_s, preempt, grant)

    def _acquire(self, holder: str, duration_s: float, preempt: bool, grant: int) -> Lease:
        if not holder or not duration_s > 0:
            raise LeaseError(
                f"lease of {self.resource!r}",
                got=f"holder {holder!r}, duration {duration_s} s",
                expected="a name and a duration > 0",
            )
        self._grants.admit(grant, holder)
        self.expire()
        with self._lock:
            present, newer = self._lease, grant > self._grant
            if present is not None and present.holder != holder and not (preempt or newer):
                raise LeaseError(
                    f"{self.resource!r} is leased to {present.holder!r} for another "
                    f"{self._left_s():.1f} s",
                    hint="Wait, or ask with preempt to take it over.",
                )
            self._last_token = max(self._last_token + 1, self._clock.wall_ns())
            duration_s = min(duration_s, self.config.max_duration_s)
            lease = self._lease = Lease(self.resource, holder, self._last_token, duration_s)
            if present is not None and newer:
                self._supersede(present)
            self._grant = grant
            self._prolong(lease)
            self.log.granted(lease, grant)
        if present is not None and newer:
            self._on_change(
                f"grant {grant} of {holder!r} has ended the lease of {present.holder!r}"
            )
        elif present is not None:
            self._on_change(f"the lease of {present.holder!r} was taken over by {holder!r}")
        else:
            self._on_change("")
        return lease

    def renew(self, token: int) -> Lease:
        """Prolong a lease, from now on by its duration.

        Raises:
            LeaseError: It has ended or was taken over.
        """
        self.expire()
        with self._lock:
            lease = self._require(token)
            self._prolong(lease)
            return lease

    def release(self, token: int) -> None:
        """End a lease before its time.

        Raises:
            LeaseError: It is not the newest.
        """
        self.expire()
        with self._lock:
            lease = self._require(token)
            self._lease = None
        self._on_change(f"{lease.holder!r} gave its lease back")

    def look(self) -> Reason:
        """Heed newer grants that another process for this robot has seen; from time to time.

        Returns:
            Why this process is to end, because another was started under a newer grant; false
            when it is not.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._asking:
            why = self._grants.look()
            newest = self._grants.newest
            with self._lock:
                lease = self._lease
                over = lease is not None and (bool(why) or 0 < self._grant < newest)
                if over and lease is not None:
                    self._supersede(lease)
                    self._lease = None
        if over and lease is not None:
            self._on_change(why.text or f"grant {newest} has ended the lease of {lease.holder!r}")
        return why

    def obeyed(self, token: int) -> None:
        """Note that a command of this lease is carried out. Quick."""
        if token:
            self.log.obeyed(token)

    def end(self, reason: str) -> None:
        """End whatever lease there is."""
        with self._lock:
            lease, self._lease = self._lease, None
        if lease is not None:
            self._on_change(reason)

    def check(self, token: int) -> None:
        """Raise LeaseError unless a command with this token is to be obeyed; prolong its lease."""
        with self._lock:
            lease, now_ns = self._lease, self._clock.monotonic_ns()
            if lease is not None and lease.token == token and now_ns < self._until_ns:
                self._until_ns = now_ns + int(lease.duration_s * 1e9)
                return
        self.expire()
        with self._lock:
            if self._lease is None and token == 0 and not self.config.required:
                return
            self._prolong(self._require(token))

    def expire(self) -> None:
        """End the lease if its time has run out."""
        if self._lease is None or self._clock.monotonic_ns() < self._until_ns:
            return  # asked many times a second: looks again under the lock before it acts
        with self._lock:
            lease = self._lease
            if lease is None or self._clock.monotonic_ns() < self._until_ns:
                return
            self._lease = None
        self._on_change(f"the lease of {lease.holder!r} ran out after {lease.duration_s:g} s")

    @property
    def current(self) -> tuple[Lease | None, float]:
        """The lease, and the seconds that are left of it."""
        with self._lock:
            left_s = self._left_s()
            return (self._lease, left_s) if self._lease and left_s > 0 else (None, 0.0)

    @property
    def grant(self) -> int:
        """The grant of the newest lease; 0: it has none."""
        return self._grant

    @property
    def newest_token(self) -> int:
        """The newest fencing number; 0 before the first."""
        return self._last_token

    def _left_s(self) -> float:
        return (self._until_ns - self._clock.monotonic_ns()) * 1e-9 if self._lease else 0.0

    def _supersede(self, lease: Lease) -> None:
        self._superseded[lease.token] = (self._grant, lease.holder)
        for token in list(self._superseded)[:-_REMEMBERED]:
            del self._superseded[token]

    def _prolong(self, lease: Lease) -> None:
        self._until_ns = self._clock.monotonic_ns() + int(lease.duration_s * 1e9)

    def _require(self, token: int) -> Lease:
        lease = self._lease
        if lease is not None and lease.token == token:
            return lease
        if token in self._superseded:
            raise self._grants.refusal(*self._superseded[token])
        holder = f"{lease.holder!r} with token {lease.token}" if lease else "nobody"
        raise LeaseError(
            f"{self.resource!r} is leased to {holder}",
            got=f"token {token}",
            expected="the newest token",
            hint="Acquire a lease, and send its token with every command.",
        )
