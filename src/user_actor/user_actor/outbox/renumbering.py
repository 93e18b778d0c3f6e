"""What happens to pending chunks when the store changes or refuses them.

Where numbers change, a new incarnation begins: then they mean something new to every store,
and none can take a chunk for one that it has. That is rare, and cheap: only the small rows of
the table are rewritten, not the bytes.
"""

from __future__ import annotations

from user_actor.outbox.database import OutboxDatabase
from user_core.errors import SchemaMismatch


def rebind(database: OutboxDatabase, store: str) -> None:
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


def start_anew(database: OutboxDatabase) -> None:
    """Give everything pending new numbers under a new incarnation."""
    with database.transaction():
        _free_numbers(database)
        _number_from_one(database, "sequence NOT NULL")
    database.reload()


def set_aside(database: OutboxDatabase, sequence: int, code: str, reason: str) -> int:
    """Set aside a chunk that the store refused for good, and its successors of equal schema.

    What follows them was never sent, since the sender waits where the schema changes; it goes
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


def put_empty(database: OutboxDatabase, sequence: int, code: str, reason: str) -> bool:
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
