"""The thread that sends chunks as the sender says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from user_actor.outbox.coding import CodingChooser
from user_actor.outbox.database import Entry, OutboxDatabase
from user_actor.outbox.sender import Sender
from user_core.errors import StoreCorrupt, StoreError, SuiteError
from user_core.types import TrajectoryChunk

_LOOK_S = 1.0
_log = logging.getLogger(__name__)


class Courier:
    """Reads chunks from the file and hands them to ``send``, as the window allows.

    Args:
        database: Where the chunks are.
        sender: Says which is next.
        changed: Guards ``sender``; notified when it may have something to do.
        chooser: Chooses how images travel.
        damaged: Called with incarnation, number and reason for a chunk that cannot be read.

    Attributes:
        sent: Chunks that were handed over, repetitions included.
        trouble: Why the last attempt failed; empty if it did not.
    """

    def __init__(
        self,
        database: OutboxDatabase,
        sender: Sender,
        changed: threading.Condition,
        chooser: CodingChooser,
        damaged: Callable[[int, int, str], None],
    ) -> None:
        self._database, self._sender, self._changed = database, sender, changed
        self._damaged, self._chooser = damaged, chooser
        self._next_look_s = 0.0
        self._send: Callable[[TrajectoryChunk], None] | None = None
        self._ending = False
        self.sent = 0
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name="outbox-courier", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def deliver_to(self, send: Callable[[TrajectoryChunk], None] | None) -> None:
        """Hand chunks to ``send`` from now on; None: keep them for now."""
        with self._changed:
            self._send = send
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread; a chunk that is being sent is sent."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._ending:
                    return
                if self._send is None:
                    self._changed.wait()
                    continue
                send, now_s = self._send, time.monotonic()
                entry = self._sender.take(now_s)
                if entry is None:
                    self._changed.wait(self._sender.wait_s(now_s))
                    continue
            self._hand_over(entry, send)

    def _hand_over(self, entry: Entry, send: Callable[[TrajectoryChunk], None]) -> None:
        """Send one chunk. Whatever goes wrong, it stays pending and is sent again later."""
        try:
            self._look()
            chunk = self._database.read(entry.sequence)
            send(replace(chunk, codings=self._chooser.codings(chunk.columns)))
            self.sent += 1
            self.trouble = ""
        except StoreCorrupt as error:
            self._damaged(self._database.incarnation, entry.sequence, str(error))
        except StoreError:
            pass  # acknowledged meanwhile
        except Exception as error:  # of a publisher, in any form
            if not self.trouble:
                ours = isinstance(error, SuiteError)
                _log.warning("chunk %d waits: %s", entry.sequence, error, exc_info=not ours)
            self.trouble = f"{type(error).__name__}: {error}"

    def _look(self) -> None:
        """How old the backlog is, once a second."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_S
        oldest_ns = self._database.oldest_ns()
        self._chooser.update((time.time_ns() - oldest_ns) / 1e9 if oldest_ns else 0.0, now_s)
