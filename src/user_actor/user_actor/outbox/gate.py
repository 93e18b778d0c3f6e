"""When to stop collecting: before anything would have to be dropped."""

from __future__ import annotations

from user_actor.outbox.config import MIB, OutboxConfig

_RESUME = 0.9


class CollectionGate:
    """Says why collecting must pause, and when it may go on. Pure, with hysteresis.

    Attributes:
        reason: Why collecting pauses now, for people; empty while it may go on.
    """

    def __init__(self, config: OutboxConfig) -> None:
        self._config = config
        self._closed: set[str] = set()
        self.reason = ""

    def update(
        self, used_bytes: int, memory_bytes: int, free_bytes: int, trouble: str, refusal: str
    ) -> str:
        """Judge the state of the outbox.

        Args:
            used_bytes: Size of all chunks in the outbox.
            memory_bytes: Size of the steps that wait for the disk.
            free_bytes: What is free on the disk.
            trouble: Why the last commit failed; empty if it did not.
            refusal: Why the store refused a chunk for good; empty if it did not.

        Returns:
            The reason to pause, empty when collecting may go on.
        """
        config = self._config
        filled = used_bytes + memory_bytes
        reasons = []
        if refusal:
            reasons.append(refusal)
        if trouble:
            reasons.append(f"the outbox cannot be written: {trouble}")
        if self._past("quota", filled, config.quota_bytes):
            reasons.append(
                f"the outbox holds {filled / MIB:.0f} of {config.quota_bytes / MIB:.0f} MiB that "
                "no store has acknowledged"
            )
        if self._past("memory", memory_bytes, config.memory_bytes // 2):
            reasons.append(f"{memory_bytes / MIB:.0f} MiB of steps wait for the disk")
        # closes where as little as allowed is free, opens once a tenth more than that is
        if self._past("disk", 2 * config.min_free_bytes - free_bytes, config.min_free_bytes):
            reasons.append(
                f"{free_bytes / MIB:.0f} MiB are free on the disk, "
                f"{config.min_free_bytes / MIB:.0f} must stay"
            )
        self.reason = "; ".join(reasons)
        return self.reason

    def _past(self, name: str, value: float, limit: float) -> bool:
        """Whether a limit was reached and ``value`` is not yet well below it again."""
        if value >= limit:
            self._closed.add(name)
        elif value < limit * _RESUME:
            self._closed.discard(name)
        return name in self._closed
