"""A site's relay: fetches each version once over the WAN and serves it to its neighbours."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zenoh

from user_comm.converters import PolicyAnnouncement
from user_comm.diagnostics import FlowFigures
from user_comm.policy_blobs.puller import PolicyPuller, PullStats
from user_comm.policy_blobs.server import PolicyServer
from user_core.runtime.closing import Closing


class PolicyRelay(Closing):
    """A puller whose versions are served again, under a prefix of the site's own.

    It checks hashes like any robot, and encodes anew what its neighbours ask for: a robot that
    missed versions gets its delta from here, and nothing crosses the WAN twice. What it says
    needs no trust: robots compare with the hash that the learner announced.

    Args:
        open_session: Opens the Zenoh session, to a router that neighbours reach as well.
        prefix: Key under which it serves, for instance ``site1/policy``.
        config_hash: What weights must be made for; empty: anything.
        keep: Versions that are kept, as in :class:`PolicyServer`.
        keep_bytes: Memory that they may take.
        max_bytes: A larger version is refused.
    """

    def __init__(
        self,
        open_session: Callable[[threading.Event], zenoh.Session],
        prefix: str,
        config_hash: str = "",
        keep: int = 8,
        keep_bytes: int = 2**30,
        max_bytes: int = 2**30,
    ) -> None:
        self._prefix, self._keep, self._keep_bytes = prefix, keep, keep_bytes
        self._open = open_session
        self._served = 0
        self._server: PolicyServer | None = None
        self._puller = PolicyPuller(self._start, config_hash, self._serve, max_bytes)

    @property
    def stats(self) -> PullStats:
        """What was pulled over the WAN."""
        return self._puller.stats

    def figures(self) -> FlowFigures:
        """What it pulls, for diagnostics."""
        return self._puller.figures()

    @property
    def served_bytes(self) -> int:
        """What went to neighbours, bytes."""
        return self._server.served_bytes if self._server is not None else 0

    @property
    def newest(self) -> int:
        """Number of the newest version that is served; 0 without one."""
        return self._served

    def announced(self, announcement: PolicyAnnouncement) -> None:
        """Hear of a version. Any thread."""
        self._puller.announced(announcement)

    def close(self) -> None:
        """Serve no more. Idempotent."""
        self._puller.close()
        if self._server is not None:
            self._server.close()

    def _start(self, ending: threading.Event) -> zenoh.Session:
        """In the puller's thread: the session, with the server on it; perhaps not the first."""
        session = self._open(ending)
        before, self._server = (
            self._server,
            PolicyServer(session, self._prefix, keep=self._keep, keep_bytes=self._keep_bytes),
        )
        if before is not None:
            before.close()
            self._serve()
        return session

    def _serve(self) -> None:
        version = self._puller.newest(after=0)
        if version is not None and self._server is not None:
            self._server.publish(version)
            self._served = version.number
