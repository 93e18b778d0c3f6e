"""Policy versions within one process: the newest replaces the one before."""

from __future__ import annotations

import threading

from user_core.types import PolicyVersion


class PolicyMailbox:
    """PolicySink and PolicySource; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: PolicyVersion | None = None

    def publish(self, version: PolicyVersion) -> None:
        """Put a version into the box; an older number than the one there is ignored."""
        with self._lock:
            if self._version is None or version.number > self._version.number:
                self._version = version

    def newest(self, after: int) -> PolicyVersion | None:
        """The version in the box, if its number is above ``after``."""
        with self._lock:
            version = self._version
        return version if version is not None and version.number > after else None
