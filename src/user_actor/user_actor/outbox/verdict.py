"""What an acknowledgement means for an outbox, if anything."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from user_core.types import TrajectoryAck

_ENOUGH_ANSWERS = 2


class Verdict(Enum):
    """What to do with an acknowledgement."""

    IGNORE = "ignore"
    """It is for another producer, of an old incarnation, or of a store that is not ours."""
    ACCEPT = "accept"
    """It is from our store."""
    REBIND = "rebind"
    """Our store is silent, and this one answers in its place: it is its successor."""
    UNKNOWN_NUMBERS = "unknown_numbers"
    """Our store has numbers that this outbox never gave: it was restored from a copy."""


class AckJudge:
    """Judges acknowledgements. Pure.

    The first store that answers becomes the outbox's own. Another store's answers are ignored
    as long as the own one answers; when it has been silent for ``rebind_after_s`` while the
    other answered more than once, the other is its successor.

    Attributes:
        ignored: Counts what was ignored, by reason.
    """

    def __init__(self, rebind_after_s: float) -> None:
        self._rebind_after_s = rebind_after_s
        self._stranger: tuple[str, float, int] = ("", 0.0, 0)  # store, since when, answers
        self.ignored: Counter[str] = Counter()

    def judge(
        self,
        ack: TrajectoryAck,
        producer: str,
        incarnation: int,
        store: str | None,
        last_sequence: int,
        now_s: float,
    ) -> Verdict:
        """Judge one acknowledgement, given the identity of the outbox and its last number."""
        if ack.producer != producer:
            return Verdict.IGNORE  # the topic is for all actors: this is no irregularity
        if ack.incarnation != incarnation:
            return self._ignore("another incarnation")
        if ack.sequence < 0 or ack.refused < 0:
            return self._ignore("negative numbers")
        if store is not None and ack.store != store:
            return self._judge_stranger(ack.store, now_s)
        self._stranger = ("", 0.0, 0)
        if ack.sequence > last_sequence:
            return Verdict.UNKNOWN_NUMBERS
        return Verdict.ACCEPT

    def _judge_stranger(self, store: str, now_s: float) -> Verdict:
        name, since_s, answers = self._stranger
        if name != store:
            since_s, answers = now_s, 0
        self._stranger = (store, since_s, answers + 1)
        if answers + 1 >= _ENOUGH_ANSWERS and now_s - since_s >= self._rebind_after_s:
            self._stranger = ("", 0.0, 0)
            return Verdict.REBIND
        return self._ignore(f"store {store!r}, not ours")

    def _ignore(self, reason: str) -> Verdict:
        self.ignored[reason] += 1
        return Verdict.IGNORE
