"""Edits beside the data: what people and models say of stored episodes, later and undoably.

Stored experience is never changed. An edit (exclude, cut, tag, relabel, note, use another column of
rewards, undo) is an entry of an append-only log in the store. :class:`EditLog` writes and reads it,
:class:`EditedEpisodes` shows a store as its edits say, for exports and tools, and the sampler
honours it within seconds.
"""

from user_learner.edits.entries import Edit, EditKind
from user_learner.edits.log import EditLog
from user_learner.edits.state import EditState, EpisodeEdits
from user_learner.edits.view import EditedEpisode, EditedEpisodes

__all__ = [
    "Edit",
    "EditKind",
    "EditLog",
    "EditState",
    "EditedEpisode",
    "EditedEpisodes",
    "EpisodeEdits",
]
