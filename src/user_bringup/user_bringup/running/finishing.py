"""Lets the actors of a run come to the end of their episodes, before the run ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

#: How long what was collected may take to be delivered, and how long without progress; the rest stays on the disk.
_DRAIN_S, _STUCK_S = 10.0, 3.0
#: What an actor may take, beyond the time of its episode, to cut it and write it.
_GRACE_S = 5.0
_LOOK_S = 0.3


class AsksActors(Protocol):
    """Asks actors of one ROS domain to finish."""

    def finish(self, actor: str, limit_s: float) -> Any:
        """The answer of the service ``FinishEpisode``; None when there is none."""


def finish_actors(
    callers: Sequence[AsksActors],
    actors: Collection[str],
    limit_s: float,
    ending: threading.Event,
    is_alive: Callable[[str], bool] = lambda actor: True,
) -> str:
    """Ask all actors to finish, and wait until they have, and until what they collected is delivered.

    Args:
        callers: One for each ROS domain of the run.
        actors: Full names of its actors.
        limit_s: How long an episode may go on; an actor then cuts it.
        ending: Set when nobody wants to wait any longer.
        is_alive: Whether the process of an actor is there, or will be again.

    Returns:
        How it went, for people.
    """
    begun_s = time.monotonic()
    waits = set(actors)
    chunks: dict[str, int] = {}  # of each that has finished: what it has not delivered
    fewest, progress_s = -1, begun_s
    while waits and not ending.is_set():
        elapsed_s = time.monotonic() - begun_s
        if elapsed_s > limit_s + _GRACE_S:
            return f"{', '.join(sorted(waits))} did not finish within {limit_s:g} s"
        for actor in list(waits):
            if not is_alive(actor):
                waits.discard(actor)
                continue
            for caller in callers:
                answer = caller.finish(actor, max(0.0, limit_s - elapsed_s))
                if answer is not None and answer.finished:
                    waits.discard(actor)
                    chunks[actor] = int(answer.outbox_chunks)
                if answer is not None:
                    break
        ending.wait(_LOOK_S)
    drain_s = time.monotonic()
    while not ending.is_set() and (left := sum(chunks.values())):
        now_s = time.monotonic()
        if fewest < 0 or left < fewest:
            fewest, progress_s = left, now_s
        if now_s - drain_s > _DRAIN_S or now_s - progress_s > _STUCK_S:
            return f"the episodes have ended; {left} chunks stay in the outbox until the next start"
        for actor in chunks:
            answers = (caller.finish(actor, 0.0) for caller in callers)
            if (answer := next((a for a in answers if a is not None), None)) is not None:
                chunks[actor] = int(answer.outbox_chunks)
        ending.wait(_LOOK_S)
    return "the episodes have ended, and all is delivered"
