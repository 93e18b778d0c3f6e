"""Entries of the log of edits: what each kind says, and its line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from user_core.codecs.lines import decode_line, encode_line
from user_core.errors import SpecError
from user_core.types import EpisodeKey, Outcome

#: Letters of a tag, and of a note or reason, at most.
TAG_LETTERS, TEXT_LETTERS = 64, 4000
#: Outcomes that an episode can be given.
OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ABORTED, Outcome.UNKNOWN)


class EditKind(str, Enum):
    """What an entry does. The words are stored; never rename them."""

    EXCLUDE = "exclude"
    """Draw, count and export the episodes no more."""
    INCLUDE = "include"
    """Take an exclusion back, for these episodes only."""
    CUT = "cut"
    """Keep the steps ``start`` to ``stop`` (not included; None: to the end) only. Row ``stop`` stays
    as the observation after the last of them."""
    TAG = "tag"
    """Give tags (``add``) and take them (``remove``)."""
    RELABEL = "relabel"
    """Another ``outcome``. With a ``reward``, the last step has that, and ``terminated`` says
    whether the task ended with it."""
    NOTE = "note"
    """A ``text`` for people."""
    REWARDS = "rewards"
    """Of the whole store: use the ``column`` of rewards; empty: those that were recorded."""
    UNDO = "undo"
    """Entry number ``of`` does not count any more; an undo of an undo brings it back."""


@dataclass(frozen=True)
class Edit:
    """One entry.

    Attributes:
        kind: What it does.
        episodes: To which episodes; none for those of the whole store.
        values: What the kind needs, see :class:`EditKind`.
        reason: Why, in words.
        author: Who: a person's or model's name.
        time_ns: When, nanoseconds since the epoch; the log sets it.
        number: Counts the entries of a log from 1; the log sets it.
    """

    kind: EditKind
    episodes: tuple[EpisodeKey, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    author: str = ""
    time_ns: int = 0
    number: int = 0

    # ---- one constructor a kind, so that nobody has to know the names of values ----

    @classmethod
    def exclude(cls, episodes: Sequence[EpisodeKey], reason: str = "", author: str = "") -> Edit:
        """Draw, count and export these no more."""
        return cls(EditKind.EXCLUDE, tuple(episodes), {}, reason, author)

    @classmethod
    def include(cls, episodes: Sequence[EpisodeKey], reason: str = "", author: str = "") -> Edit:
        """Use these again."""
        return cls(EditKind.INCLUDE, tuple(episodes), {}, reason, author)

    @classmethod
    def cut(
        cls, episodes: Sequence[EpisodeKey], start: int = 0, stop: int | None = None,
        reason: str = "", author: str = "",
    ) -> Edit:  # fmt: skip
        """Keep the steps ``start`` to ``stop``, which is not included, as counted from the episode's
        recorded beginning. It replaces an earlier cut."""
        return cls(EditKind.CUT, tuple(episodes), {"start": start, "stop": stop}, reason, author)

    @classmethod
    def tag(
        cls, episodes: Sequence[EpisodeKey], add: Sequence[str] = (), remove: Sequence[str] = (),
        reason: str = "", author: str = "",
    ) -> Edit:  # fmt: skip
        """Give and take tags."""
        values = {"add": list(add), "remove": list(remove)}
        return cls(EditKind.TAG, tuple(episodes), values, reason, author)

    @classmethod
    def relabel(
        cls, episodes: Sequence[EpisodeKey], outcome: Outcome, reward: float | None = None,
        terminated: bool = False, reason: str = "", author: str = "",
    ) -> Edit:  # fmt: skip
        """Another outcome, and with a number another reward of the last step."""
        values = {"outcome": int(outcome), "reward": reward, "terminated": terminated}
        return cls(EditKind.RELABEL, tuple(episodes), values, reason, author)

    @classmethod
    def note(cls, episodes: Sequence[EpisodeKey], text: str, author: str = "") -> Edit:
        """Words for people."""
        return cls(EditKind.NOTE, tuple(episodes), {"text": text}, "", author)

    @classmethod
    def rewards(cls, column: str, reason: str = "", author: str = "") -> Edit:
        """Use this column of rewards in the whole store; empty: those that were recorded."""
        return cls(EditKind.REWARDS, (), {"column": column}, reason, author)

    @classmethod
    def undo(cls, number: int, reason: str = "", author: str = "") -> Edit:
        """Entry ``number`` does not count any more."""
        return cls(EditKind.UNDO, (), {"of": number}, reason, author)


def check(edit: Edit) -> None:
    """Raise SpecError unless an entry has what its kind needs."""
    values, kind = edit.values, edit.kind
    if kind not in (EditKind.REWARDS, EditKind.UNDO) and not edit.episodes:
        raise SpecError(f"episodes to {kind.value}", got="none", expected="at least one")
    for what, text in (("reason", edit.reason), ("author", edit.author)):
        _require(isinstance(text, str) and len(text) <= TEXT_LETTERS, what, text, "a short text")
    if kind is EditKind.CUT:
        start, stop = values.get("start"), values.get("stop")
        fits = isinstance(start, int) and _whole(start) and start >= 0
        fits = fits and (stop is None or (_whole(stop) and stop > start))
        _require(fits, "steps to keep", f"{start} to {stop}", "0 <= start < stop")
    elif kind is EditKind.TAG:
        tags = [*values.get("add", ()), *values.get("remove", ())]
        fits = all(isinstance(t, str) and 0 < len(t.strip()) <= TAG_LETTERS for t in tags)
        _require(bool(tags) and fits, "tags", tags, f"some, of 1 to {TAG_LETTERS} letters")
    elif kind is EditKind.RELABEL:
        outcome, reward = values.get("outcome"), values.get("reward")
        names = [o.name.lower() for o in OUTCOMES]
        _require(outcome in list(OUTCOMES), "outcome", outcome, f"one of {names}")
        fits = reward is None or (isinstance(reward, (int, float)) and math.isfinite(reward))
        _require(fits, "reward", reward, "a finite number, or none")
        _require(isinstance(values.get("terminated"), bool), "terminated", values, "true or false")
    elif kind is EditKind.NOTE:
        note = values.get("text")
        fits = isinstance(note, str) and 0 < len(note.strip()) <= TEXT_LETTERS
        _require(fits, "note", note, f"a text of at most {TEXT_LETTERS} letters")
    elif kind is EditKind.REWARDS:
        _require(isinstance(values.get("column"), str), "column", values, "a name")
    elif kind is EditKind.UNDO:
        _require(_whole(values.get("of")), "entry to undo", values, "its number")


def encode(edit: Edit) -> bytes:
    """The line of an entry: a checksum, and JSON."""
    data = {
        "number": edit.number,
        "time_ns": edit.time_ns,
        "author": edit.author,
        "kind": edit.kind.value,
        "reason": edit.reason,
        "episodes": [[key.producer, key.incarnation, key.number] for key in edit.episodes],
        "values": dict(edit.values),
    }
    return encode_line(data)


def decode(line: bytes) -> Edit:
    """The inverse of :func:`encode`, without the end of the line. Raises ValueError, TypeError or
    KeyError, and SpecError, for a line that is not whole or says nothing known."""
    data = decode_line(line)
    edit = Edit(
        kind=EditKind(data["kind"]),
        episodes=tuple(EpisodeKey(str(p), int(i), int(n)) for p, i, n in data["episodes"]),
        values=dict(data["values"]),
        reason=data["reason"],
        author=data["author"],
        time_ns=int(data["time_ns"]),
        number=int(data["number"]),
    )
    check(edit)
    return edit


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(fits: bool, what: str, got: Any, expected: str) -> None:
    if not fits:
        raise SpecError(f"{what} of an edit", got=str(got)[:200], expected=expected)


def label(
    outcome: Outcome, reward: float | None = None, keep_rewards: bool = False, is_open: bool = False
) -> tuple[float | None, bool]:
    """Reward of the last step, and whether the task ended with it, of an episode that gets an outcome:
    what the reward `operator` gives for a person's label. Other outcomes than success and failure
    change no reward unless one is given."""
    if keep_rewards:
        return None, False
    if reward is None:
        reward = {Outcome.SUCCESS: 1.0, Outcome.FAILURE: 0.0}.get(outcome)
    ended = outcome in (Outcome.SUCCESS, Outcome.FAILURE) and not is_open
    return reward, ended and reward is not None
