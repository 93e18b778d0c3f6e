"""Acknowledgements of the store: which of them count, and what they change in the outbox."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from enum import Enum

from user_actor.outbox.delivery import SendQueue
from user_actor.outbox.storage import OutboxDatabase
from user_core.errors import SchemaMismatch, StoreCorrupt, StoreFull, TransportError
from user_core.types import TrajectoryAck

_log = logging.getLogger(__name__)
#: Refusals that pass by themselves.
_PASSING = (StoreFull.code, TransportError.code)

_ENOUGH_ANSWERS = 2


class AckMeaning(Enum):
    """What to do with an acknowledgement."""

    IGNORE = "ignore"
    """It is for another producer, of an old incarnation, or of a store that is not ours."""
    ACCEPT = "accept"
    """It is from our store."""
    REBIND = "rebind"
    """Our store is silent, and this one answers in its place: it is its successor."""
    UNKNOWN_NUMBERS = "unknown_numbers"
    """Our store has numbers that this outbox never gave: it was restored from a copy."""


class AckFilter:
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

    def classify(
        self,
        ack: TrajectoryAck,
        producer: str,
        incarnation: int,
        store: str | None,
        last_sequence: int,
        now_s: float,
    ) -> AckMeaning:
        """Judge one acknowledgement, given the identity of the outbox and its last number."""
        if ack.producer != producer:
            return AckMeaning.IGNORE  # the topic is for all actors: this is no irregularity
        if ack.incarnation != incarnation:
            return self._ignore("another incarnation")
        if ack.sequence < 0 or ack.refused < 0:
            return self._ignore("negative numbers")
        if store is not None and ack.store != store:
            return self._classify_stranger(ack.store, now_s)
        self._stranger = ("", 0.0, 0)
        if ack.sequence > last_sequence:
            return AckMeaning.UNKNOWN_NUMBERS
        return AckMeaning.ACCEPT

    def _classify_stranger(self, store: str, now_s: float) -> AckMeaning:
        name, since_s, answers = self._stranger
        if name != store:
            since_s, answers = now_s, 0
        self._stranger = (store, since_s, answers + 1)
        if answers + 1 >= _ENOUGH_ANSWERS and now_s - since_s >= self._rebind_after_s:
            self._stranger = ("", 0.0, 0)
            return AckMeaning.REBIND
        return self._ignore(f"store {store!r}, not ours")

    def _ignore(self, reason: str) -> AckMeaning:
        self.ignored[reason] += 1
        return AckMeaning.IGNORE


# --- What an acknowledgement changes ---


class AckHandler:
    """Applies acknowledgements and refusals. Used by the thread that writes the file.

    What is acknowledged leaves the send queue at once, and the file with the next commit.

    Args:
        database: The file.
        queue: What was sent.
        changed: Guards ``queue``; notified when it may have something to do.
        ack_filter: Tells which answers count.

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
        queue: SendQueue,
        changed: threading.Condition,
        ack_filter: AckFilter,
    ) -> None:
        self._database, self._queue = database, queue
        self._changed, self._filter = changed, ack_filter
        self.acknowledged = 0
        self.store: str | None = None
        self.refusal = self.waiting = ""
        self.notes: list[str] = []

    def take(self, ack: TrajectoryAck, at_s: float) -> None:
        """Apply an answer that came at this time (monotonic seconds)."""
        database = self._database
        bound = self.store if database.store is None else database.store
        last = database.next_sequence - 1
        meaning = self._filter.classify(
            ack, database.producer, database.incarnation, bound, last, at_s
        )
        if meaning is AckMeaning.REBIND:
            self._rebind(ack.store)
        elif meaning is AckMeaning.UNKNOWN_NUMBERS:
            self._start_anew(ack, last)
        elif meaning is AckMeaning.ACCEPT:
            if bound is None:
                self.store = ack.store
            self._accept(ack, at_s)

    def damaged(self, incarnation: int, sequence: int, reason: str) -> None:
        """A chunk cannot be read: an empty one goes in its place, its bytes are kept."""
        if incarnation != self._database.incarnation:
            return
        if replace_by_empty(self._database, sequence, StoreCorrupt.code, reason):
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
            moved = self._queue.acknowledge(ack.sequence, at_s, arrived_s, held_s)
            if not moved:
                self._queue.revive()
            refused = ack.refused > 0 and ack.refused == self._queue.head
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
        count = set_aside_schema(self._database, ack.refused, ack.error_code, reason)
        self._restart()
        self._refuse(f"{reason} ({count} chunks are kept aside)")

    def _empty(self, ack: TrajectoryAck) -> bool:
        """Something is wrong with this one chunk; one without rows goes in its place."""
        reason = _reason(ack)
        if not replace_by_empty(self._database, ack.refused, ack.error_code, reason):
            return False
        self._refuse(f"{reason} (it is kept aside)")
        with self._changed:
            self._queue.again()
            self._changed.notify_all()
        return True

    def _hold(self, ack: TrajectoryAck, at_s: float) -> None:
        """Nothing can be done about it here: try again after a while."""
        self.waiting = f"store {ack.store!r} takes nothing for now: {ack.error}"
        with self._changed:
            self._queue.hold(at_s)

    def _refuse(self, text: str) -> None:
        _log.error("%s", text)
        self.refusal = text

    def _rebind(self, store: str) -> None:
        self.commit()
        former = self._database.store
        rebind_to_store(self._database, store)
        self._restart()
        self.refusal = self.waiting = ""
        self._note(
            f"store {former!r} is silent and {store!r} answers: {self._database.pending} "
            "pending chunks go to it"
        )

    def _start_anew(self, ack: TrajectoryAck, last: int) -> None:
        self.commit()
        renumber_pending(self._database)
        self._restart()
        self._note(
            f"store {ack.store!r} has chunk {ack.sequence} where this outbox has given {last} "
            f"numbers, so its folder is an old copy: {self._database.pending} pending chunks "
            "are sent under new numbers, and some of them may be in the store already"
        )

    def _restart(self) -> None:
        with self._changed:
            self._queue.restart()
            self._changed.notify_all()

    def _note(self, text: str) -> None:
        _log.warning("%s", text)
        self.notes = [*self.notes[-9:], text]


def _reason(ack: TrajectoryAck) -> str:
    return f"store {ack.store!r} refused chunk {ack.refused}: {ack.error}"


# --- New numbers for pending chunks, when the store changes or refuses them ---
# Where numbers change, a new incarnation begins: then they mean something new to every store,
# and none can take a chunk for one that it has. That is rare, and cheap: only the small rows of
# the table are rewritten, not the bytes.


def rebind_to_store(database: OutboxDatabase, store: str) -> None:
    """Belong to another store: everything that is still here goes to it, in its old order.

    Also what the former store had refused for its schema, since that was not this one's verdict.
    """
    with database.transaction():
        database.put("store", store)
        database.connection.execute(
            "UPDATE chunk SET sequence = NULL, code = '', reason = '' WHERE code IN ('', ?)",
            (SchemaMismatch.code,),
        )
        _number_from_one(database, "code = ''")
    database.reload()


def renumber_pending(database: OutboxDatabase) -> None:
    """Give everything pending new numbers under a new incarnation."""
    with database.transaction():
        _free_numbers(database)
        _number_from_one(database, "sequence NOT NULL")
    database.reload()


def set_aside_schema(database: OutboxDatabase, sequence: int, code: str, reason: str) -> int:
    """Set aside a chunk that the store refused for good, and its successors of equal schema.

    What follows them was never sent, since the send queue waits where the schema changes; it goes
    on under a new incarnation. Returns the number of chunks set aside.
    """
    execute = database.connection.execute
    row = execute("SELECT schema_hash FROM chunk WHERE sequence = ?", (sequence,)).fetchone()
    if row is None:
        return 0
    with database.transaction():
        (end,) = execute(
            "SELECT min(sequence) FROM chunk WHERE sequence > ? AND schema_hash != ?",
            (sequence, row[0]),
        ).fetchone()
        count = execute(
            "UPDATE chunk SET sequence = NULL, code = ?, reason = ? "
            "WHERE sequence >= ? AND sequence < ?",
            (code, reason, sequence, 2**62 if end is None else end),
        ).rowcount
        _free_numbers(database)
        _number_from_one(database, "sequence NOT NULL")
    database.reload()
    return count


def replace_by_empty(database: OutboxDatabase, sequence: int, code: str, reason: str) -> bool:
    """Put a chunk without rows in the place of one that cannot be delivered; keep that aside.

    Its number is thereby answered for, and the chunks behind it go on under theirs. False where
    there is nothing left to be emptied.
    """
    execute = database.connection.execute
    row = execute(
        "SELECT number, schema_hash, nbytes, shell FROM chunk JOIN body USING (number) "
        "WHERE sequence = ? AND data != shell",
        (sequence,),
    ).fetchone()
    if row is None:
        return False
    number, schema_hash, nbytes, shell = row
    with database.transaction():
        aside = execute(
            "INSERT INTO chunk (schema_hash, nbytes, created_ns, code, reason) "
            "VALUES (?, ?, ?, ?, ?)",
            (schema_hash, nbytes, database.clock_ns(), code, reason),
        ).lastrowid
        execute("UPDATE body SET number = ? WHERE number = ?", (aside, number))
        execute("INSERT INTO body VALUES (?, ?, ?)", (number, shell, shell))
        execute("UPDATE chunk SET nbytes = ? WHERE number = ?", (len(shell), number))
    database.reload()
    return True


def _free_numbers(database: OutboxDatabase) -> None:
    """Make room for new numbers beside the old ones."""
    database.connection.execute("UPDATE chunk SET sequence = -sequence WHERE sequence NOT NULL")


def _number_from_one(database: OutboxDatabase, which: str) -> None:
    rows = database.connection.execute(f"SELECT number FROM chunk WHERE {which} ORDER BY number")
    pairs = [(sequence, number) for sequence, (number,) in enumerate(rows.fetchall(), 1)]
    database.connection.executemany("UPDATE chunk SET sequence = ? WHERE number = ?", pairs)
    database.put("next_sequence", len(pairs) + 1)
    database.put("incarnation", max(database.clock_ns(), database.incarnation + 1))
