"""What the entries of a log come to: per episode, with what was undone left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from user_core.types import EpisodeKey, Outcome
from user_learner.edits.entries import Edit, EditKind


@dataclass(frozen=True)
class Note:
    """What somebody wrote of an episode."""

    text: str
    author: str
    time_ns: int


@dataclass(frozen=True)
class EpisodeEdits:
    """What is said of one episode.

    Attributes:
        excluded: Not to be used.
        why: The reason of its exclusion.
        start: First step that is kept.
        stop: First step that is not kept any more; None: all to the end.
        tags: In the order in which they came.
        notes: Likewise.
        outcome: Another outcome than the recorded one; None: that.
        reward: Of the last step that is kept; None: as it is.
        terminated: With a reward, whether the task ended with that step.
        labelled_by: Who gave the outcome.
    """

    excluded: bool = False
    why: str = ""
    start: int = 0
    stop: int | None = None
    tags: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    outcome: Outcome | None = None
    reward: float | None = None
    terminated: bool = False
    labelled_by: str = ""

    @property
    def cut(self) -> bool:
        """Whether not all steps are kept."""
        return self.start > 0 or self.stop is not None


NO_EDITS = EpisodeEdits()


@dataclass(frozen=True)
class EditState:
    """What all entries come to.

    Attributes:
        episodes: Of the episodes that something is said of.
        reward_column: The column of rewards to use; empty: those that were recorded.
        undone: Numbers of the entries that do not count.
    """

    episodes: Mapping[EpisodeKey, EpisodeEdits] = field(default_factory=dict)
    reward_column: str = ""
    undone: frozenset[int] = frozenset()

    @classmethod
    def of(cls, edits: Sequence[Edit]) -> EditState:
        """Play the entries of a log; each overrides those before it."""
        undone: set[int] = set()
        for edit in reversed(edits):
            if edit.kind is EditKind.UNDO and edit.number not in undone:
                undone.add(int(edit.values["of"]))
        episodes: dict[EpisodeKey, EpisodeEdits] = {}
        column = ""
        for edit in edits:
            if edit.number in undone:
                continue
            if edit.kind is EditKind.REWARDS:
                column = edit.values["column"]
            for key in edit.episodes:
                episodes[key] = _applied(episodes.get(key, NO_EDITS), edit)
        return cls(episodes, column, frozenset(undone))

    def of_episode(self, key: EpisodeKey) -> EpisodeEdits:
        """What is said of an episode."""
        return self.episodes.get(key, NO_EDITS)


def _applied(before: EpisodeEdits, edit: Edit) -> EpisodeEdits:
    values = edit.values
    if edit.kind is EditKind.EXCLUDE:
        return replace(before, excluded=True, why=edit.reason)
    if edit.kind is EditKind.INCLUDE:
        return replace(before, excluded=False, why="")
    if edit.kind is EditKind.CUT:
        return replace(before, start=values["start"], stop=values["stop"])
    if edit.kind is EditKind.TAG:
        kept = [tag for tag in before.tags if tag not in values["remove"]]
        return replace(before, tags=tuple(dict.fromkeys([*kept, *values["add"]])))
    if edit.kind is EditKind.RELABEL:
        return replace(
            before,
            outcome=Outcome(values["outcome"]),
            reward=values["reward"],
            terminated=values["terminated"],
            labelled_by=edit.author,
        )
    if edit.kind is EditKind.NOTE:
        note = Note(values["text"], edit.author, edit.time_ns)
        return replace(before, notes=(*before.notes, note))
    return before
