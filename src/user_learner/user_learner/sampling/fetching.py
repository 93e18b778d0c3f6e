"""Brings segments here that are in a bucket, one after the other, beside the draws."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from user_core.errors import SuiteError
from user_core.runtime.backoff import Backoff
from user_learner.replay.bucket import changed, fetch, missing
from user_learner.replay.segments import SEGMENTS

#: Time between two segments, where one has to go for each that comes.
EXCHANGE_S = 30.0
_LOOK_S = 2.0


class Fetcher:
    """A thread that fetches segments of stores, in random order, each as often as the others.

    A draw never waits for it: rows take part from the moment on when their segment is here. Where what is allowed to
    be here is less than what is in the bucket, one segment is exchanged for another now and then.

    Args:
        stores: Their directories.
        seed: Of the order.
        exchange_s: Time between two segments, where one has to go for each that comes; None: :data:`EXCHANGE_S`.
    """

    def __init__(
        self, stores: Sequence[Path], seed: int = 0, exchange_s: float | None = None
    ) -> None:
        self._stores = list(stores)
        self._exchange_s = EXCHANGE_S if exchange_s is None else exchange_s
        self._random = np.random.default_rng([seed, 2])
        self._stopping = threading.Event()
        self._trouble = ""
        self._fetched: set[Path] = set()  # in this round
        self._known: dict[
            Path, tuple[int, list[Path]]
        ] = {}  # when it was looked, and what was away
        self._thread = threading.Thread(target=self._run, name="replay-fetch", daemon=True)

    def start(self) -> None:
        """Begin as soon as a store has something in a bucket: to be called now and then."""
        if self._thread.ident is None and any(changed(store) for store in self._stores):
            self._thread.start()

    def troubles(self) -> list[str]:
        """Why nothing comes, for people; empty where it does."""
        return [self._trouble] if self._trouble else []

    def stop(self) -> None:
        """End; what is being fetched comes to its end. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        backoff = Backoff(first_s=2.0, longest_s=60.0)
        while not self._stopping.is_set():
            try:
                wait_s = self._turn()
            except (SuiteError, OSError) as error:
                self._trouble = (
                    f"segments come from no bucket, draws are from what is here: {error}"
                )
                wait_s = backoff.failed()
            else:
                self._trouble = ""
                backoff.attempts = 0
            self._stopping.wait(wait_s)

    def _turn(self) -> float:
        """Fetch a segment, if any is away; return how long to wait, in seconds. Raises SuiteError, OSError."""
        away = [path for store in self._stores for path in self._away(store)]
        if not away:
            return _LOOK_S
        new = [path for path in away if path not in self._fetched]
        if not new:  # each had its turn
            self._fetched.clear()
            new = away
        path = new[int(self._random.integers(len(new)))]
        self._fetched.add(path)  # also one that cannot come: the others have their turns
        fetch(path)
        is_full = sum(len(self._away(store)) for store in self._stores) >= len(away)
        return self._exchange_s if is_full else 0.0

    def _away(self, store: Path) -> list[Path]:
        """Segments that are in a bucket, and not here; looked for only when others are here than before."""
        now = changed(store)
        if now != self._known.get(store, (0, []))[0]:
            found = [path for path in sorted((store / SEGMENTS).iterdir()) if missing(path)]
            self._known[store] = now, found
        return self._known.get(store, (0, []))[1]
