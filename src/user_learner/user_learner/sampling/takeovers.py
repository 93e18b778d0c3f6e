"""Takeovers: which steps led to one, and who decided which step.

Where a person took over from the policy, the last steps before went wrong: he takes over because of them, and late, for
he has to see it first. They are bad examples (Liu et al. 2022, "Robot Learning on the Job": weighted down), and for
reinforcement learning the takeover is a reward that needs nobody's formula (Luo et al. 2023, "RLIF").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from user_core.specs import Array
from user_core.types import ActedBy
from user_learner.edits.applied import LabelTable
from user_learner.edits.columns import VALUE
from user_learner.sampling.catalog import RunTable

#: Who takes over from a policy.
PERSONS = (int(ActedBy.HUMAN), int(ActedBy.SCRIPT))
_NOBODY = -1


def overlaps(start: Array, end: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Which pieces, ascending and without overlap, overlap which ranges, pair by pair.

    Args:
        start: First address of each piece, (P,).
        end: The one behind its last, (P,).
        low: First address of each range, (N,).
        high: The one behind its last, (N,).

    Returns:
        Numbers of pieces, and of ranges, (M,) each.
    """
    first = np.searchsorted(end, low, side="right")
    hits = np.maximum(0, np.searchsorted(start, high, side="left") - first)
    which = np.repeat(np.arange(len(low)), hits)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(hits) - hits, hits)
    return first[which] + nth, which


def before_takeovers(
    runs: RunTable, actors: Array, steps: int, takers: Sequence[int] = PERSONS, followed: int = 0
) -> Array:
    """The last steps of the policy before each takeover within an episode.

    Args:
        runs: Which rows there are.
        actors: Address, rows and acted_by of ranges, (A, 3) int64.
        steps: How many steps before a takeover count; fewer where the episode, or the policy's part
            between two takeovers, has fewer.
        takers: Who takes over; all others count as the policy.
        followed: Rows of the episode that must follow the first of a takeover.

    Returns:
        First address, and the one behind the last, of ranges that do not overlap, ascending, (N, 2).
    """
    none: Array = np.empty((0, 2), np.int64)
    if not steps or not len(actors) or not len(runs.rows):
        return none
    # Ranges as places in one line of all rows, in which an episode lies in one piece.
    line_start, line_end = runs.ends - runs.rows, runs.ends
    order, start = runs.by_address
    piece, which = overlaps(
        start, start + runs.rows[order], actors[:, 0], actors[:, 0] + actors[:, 1]
    )
    run = order[piece]
    begin = np.maximum(actors[which, 0], runs.address[run])
    stop = np.minimum(actors[which, 0] + actors[which, 1], runs.address[run] + runs.rows[run])
    low = line_start[run] + begin - runs.address[run]
    high, person = low + stop - begin, np.isin(actors[which, 2], takers)
    enough = runs.rows[run] - 1 + runs.after[run] - (begin - runs.address[run]) >= followed
    order = np.argsort(low)
    low, high, person, run = low[order], high[order], person[order], run[order]
    # Where the episode of a range begins, and where a person decided last before it.
    episode = runs.begins[run]
    by_person = np.append(0, np.maximum.accumulate(np.where(person, high, 0)))[:-1]
    floor = np.maximum(np.maximum(episode, by_person), low - steps)
    taken = person & (floor < low) & enough[order]
    floor, low = floor[taken], low[taken]
    if not len(low):
        return none
    piece, which = overlaps(line_start, line_end, floor, low)
    begin = np.maximum(floor[which], line_start[piece])
    stop = np.minimum(low[which], line_end[piece])
    shift = runs.address[piece] - line_start[piece]
    found: Array = np.stack([begin + shift, stop + shift], axis=1)
    return found[np.argsort(found[:, 0])]


def bad_steps(ranges: Array, reward: float, steps: int) -> LabelTable:
    """These ranges, (N, 2), of at most ``steps`` rows each, with another reward than the recorded one."""
    values = np.zeros(steps, VALUE)
    values["reward"] = reward
    zeros = np.zeros(len(ranges), np.int64)
    return LabelTable(ranges[:, 0], ranges[:, 1] - ranges[:, 0], zeros, zeros, (values,))


def acted_by(actors: Array, address: Array) -> Array:
    """Who decided the steps at these addresses, (...); -1 where it is not known.

    Args:
        actors: Address, rows and acted_by of ranges, (A, 3) int64, ascending.
        address: Addresses.
    """
    if not len(actors):
        return np.full(address.shape, _NOBODY)
    at = np.maximum(np.searchsorted(actors[:, 0], address, side="right") - 1, 0)
    within = (address >= actors[at, 0]) & (address < actors[at, 0] + actors[at, 1])
    return np.where(within, actors[at, 2], _NOBODY)
