"""The replay store: experience on disk, written once, sampled for ever.

Entry points: :class:`StoreWriter` takes trajectory chunks and acknowledges them;
:class:`ReplaySource` gives batches to an algorithm; :class:`StoreReader` is for tools. How
it works is told in ``docs/explanation/replay_store.md``.
"""

from user_learner.replay.config import RetentionConfig, StoreConfig
from user_learner.replay.history import History
from user_learner.replay.reader import StoreReader
from user_learner.replay.receipt import Answer, Receipt
from user_learner.replay.sampling import HALF_DEMONSTRATIONS, SamplerConfig, Stratum
from user_learner.replay.source import ReplaySource
from user_learner.replay.writer import StoreWriter

__all__ = [
    "HALF_DEMONSTRATIONS",
    "Answer",
    "History",
    "Receipt",
    "ReplaySource",
    "RetentionConfig",
    "SamplerConfig",
    "StoreConfig",
    "StoreReader",
    "StoreWriter",
    "Stratum",
]
