"""History: older stores, attached read-only beside the one that grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from user_core.config import Config, setting
from user_core.types import EpisodeSource
from user_learner.replay.catalog import Attached, Catalog
from user_learner.replay.reader import StoreReader


@dataclass(frozen=True)
class History(Config):
    """An older store to sample from as well."""

    path: str = setting(doc="Directory of the store. It is not written to.", min_length=1)
    source: EpisodeSource | None = setting(
        None, doc="Treat all its episodes as of this source; empty to keep what they are."
    )


def attach(live: str | Path, history: Sequence[History] = (), with_actors: bool = False) -> Catalog:
    """Open a live store and its history.

    Args:
        live: Directory of the store that may grow.
        history: Older stores.
        with_actors: Also keep who acted in which rows.

    Raises:
        StoreError: One of them is not there.
        SchemaMismatch: They have not all the same schema; spells out the difference.
    """
    opened: list[Attached] = []
    try:
        opened.append(Attached(StoreReader(live, with_actors)))
        for older in history:
            opened.append(Attached(StoreReader(older.path, with_actors), older.source))
        return Catalog(opened)
    except BaseException:
        for store in opened:
            store.reader.close()
        raise
