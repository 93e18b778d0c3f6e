"""What the store's answers change in the outbox."""

from __future__ import annotations

import logging
import threading

from user_actor.outbox import renumbering
from user_actor.outbox.database import OutboxDatabase
from user_actor.outbox.sender import Sender
from user_actor.outbox.verdict import AckJudge, Verdict
from user_core.errors import SchemaMismatch, StoreCorrupt, StoreFull, TransportError
from user_core.types import TrajectoryAck

_log = logging.getLogger(__name__)

#: Refusals that pass by themselves.
_PASSING = (StoreFull.code, TransportError.code)


class Answers:
    """Applies acknowledgements and refusals. Used by the thread that writes the file.

    What is acknowledged leaves the sender at once, and the file with the next commit.

    Args:
        database: The file.
        sender: What was sent.
        changed: Guards ``sender``; notified when it may have something to do.
        judge: Tells which answers count.

    Attributes:
        acknowledged: Chunks up to this number can be forgotten.
        store: Identity of the store, when it is not yet in the file.
        refusal: What the store refused for good, for people; empty if nothing.
        waiting: Why the store takes nothing for now; empty if it does.
        notes: What else happened that a person should know.
    """

    def __init__(
        self,
        database: OutboxDatabase,
        sender: Sender,
        changed: threading.Condition,
        judge: AckJudge,
    ) -> None:
        self._database, self._sender = database, sender
        self._changed, self._judge = changed, judge
        self.acknowledged = 0
        self.store: str | None = None
        self.refusal = self.waiting = ""
        self.notes: list[str] = []

    def take(self, ack: TrajectoryAck, at_s: float) -> None:
        """Apply an answer that came at this time (monotonic seconds)."""
        database = self._database
        bound = self.store if database.store is None else database.store
        last = database.next_sequence - 1
        verdict = self._judge.judge(ack, database.producer, database.incarnation, bound, last, at_s)
        if verdict is Verdict.REBIND:
            self._rebind(ack.store)
        elif verdict is Verdict.UNKNOWN_NUMBERS:
            self._start_anew(ack, last)
        elif verdict is Verdict.ACCEPT:
            if bound is None:
                self.store = ack.store
            self._accept(ack, at_s)

    def damaged(self, incarnation: int, sequence: int, reason: str) -> None:
        """A chunk cannot be read: an empty one goes in its place, its bytes are kept."""
        if incarnation != self._database.incarnation:
            return
        if renumbering.put_empty(self._database, sequence, StoreCorrupt.code, reason):
            self._note(f"chunk {sequence} was damaged on the disk and is kept aside: {reason}")

    def commit(self) -> None:
        """Forget in the file what is acknowledged."""
        if self.acknowledged or self.store is not None:
            self._database.commit(acknowledged=self.acknowledged, store=self.store)
            self.forgotten()

    def forgotten(self) -> None:
        """What is acknowledged has left the file."""
        self.acknowledged, self.store = 0, None

    def _accept(self, ack: TrajectoryAck, at_s: float) -> None:
        with self._changed:
            arrived_s, held_s = 1e-9 * ack.arrived_ns, 1e-9 * ack.held_ns
            moved = self._sender.acknowledge(ack.sequence, at_s, arrived_s, held_s)
            if not moved:
                self._sender.revive()
            refused = ack.refused > 0 and ack.refused == self._sender.head
            self._changed.notify_all()
        self.acknowledged = max(self.acknowledged, ack.sequence)
        if moved:
            self.waiting = ""
        if not refused:
            return  # a refusal of one whose predecessors are not through is repeated then
        if ack.error_code == SchemaMismatch.code:
            self._set_aside(ack)
        elif ack.error_code in _PASSING or not self._empty(ack):
            self._hold(ack, at_s)

    def _set_aside(self, ack: TrajectoryAck) -> None:
        """Nothing of this schema will be taken."""
        self.commit()  # before the numbers change their meaning
        reason = _reason(ack)
        count = renumbering.set_aside(self._database, ack.refused, ack.error_code, reason)
        self._restart()
        self._refuse(f"{reason} ({count} chunks are kept aside)")

    def _empty(self, ack: TrajectoryAck) -> bool:
        """Something is wrong with this one chunk; one without rows goes in its place."""
        reason = _reason(ack)
        if not renumbering.put_empty(self._database, ack.refused, ack.error_code, reason):
            return False
        self._refuse(f"{reason} (it is kept aside)")
        with self._changed:
            self._sender.again()
            self._changed.notify_all()
        return True

    def _hold(self, ack: TrajectoryAck, at_s: float) -> None:
        """Nothing can be done about it here: try again after a while."""
        self.waiting = f"store {ack.store!r} takes nothing for now: {ack.error}"
        with self._changed:
            self._sender.hold(at_s)

    def _refuse(self, text: str) -> None:
        _log.error("%s", text)
        self.refusal = text

    def _rebind(self, store: str) -> None:
        self.commit()
        former = self._database.store
        renumbering.rebind(self._database, store)
        self._restart()
        self.refusal = self.waiting = ""
        self._note(
            f"store {former!r} is silent and {store!r} answers: {self._database.pending} "
            "pending chunks go to it"
        )

    def _start_anew(self, ack: TrajectoryAck, last: int) -> None:
        self.commit()
        renumbering.start_anew(self._database)
        self._restart()
        self._note(
            f"store {ack.store!r} has chunk {ack.sequence} where this outbox has given {last} "
            f"numbers, so its folder is an old copy: {self._database.pending} pending chunks "
            "are sent under new numbers, and some of them may be in the store already"
        )

    def _restart(self) -> None:
        with self._changed:
            self._sender.restart()
            self._changed.notify_all()

    def _note(self, text: str) -> None:
        _log.warning("%s", text)
        self.notes = [*self.notes[-9:], text]


def _reason(ack: TrajectoryAck) -> str:
    return f"store {ack.store!r} refused chunk {ack.refused}: {ack.error}"
