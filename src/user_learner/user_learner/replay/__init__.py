"""The replay store: experience on disk, written once, sampled for ever.

:class:`StoreWriter` takes trajectory chunks and acknowledges them; :class:`StoreReader` shows
what is committed, to tools and samplers. Batches are drawn by :mod:`user_learner.sampling`.
"""

from user_learner.replay.config import RetentionConfig, StoreConfig
from user_learner.replay.ingest import AppendResult, ChunkStatus
from user_learner.replay.reader import StoreReader
from user_learner.replay.writer import StoreWriter

__all__ = [
    "AppendResult",
    "ChunkStatus",
    "RetentionConfig",
    "StoreConfig",
    "StoreReader",
    "StoreWriter",
]
