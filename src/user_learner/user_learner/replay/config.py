"""Configuration of the replay store: how it writes and what it keeps."""

from __future__ import annotations

from typing import Literal

from user_core.codecs.images import is_lossy
from user_core.config import Config, setting
from user_core.meaning import MEANINGS, check_accepted
from user_core.types import OBSERVATION

#: Coding of what is not compressed.
RAW = "raw"


class RetentionConfig(Config):
    """What may be forgotten. The default keeps everything; demonstrations always stay.

    The oldest online (or evaluation) segment goes first, and never one that is still being filled.
    With ``keep`` or ``thin`` the episodes that count stay, and only the others go.
    """

    max_bytes: int = setting(
        0, doc="Bytes of rows to keep at most; 0 for no limit.", unit="B", ge=0
    )
    max_rows: int = setting(0, doc="Rows to keep at most; 0 for no limit.", ge=0)
    keep: tuple[Literal["successes", "interventions", "tagged"], ...] = setting(
        (),
        doc="Episodes that stay however old they are, beside demonstrations: successes (also as edits "
        "say), those in which a person took over, and those with the tag `keep` (user episodes tag).",
    )
    thin: int = setting(
        0,
        doc="Of the other old episodes one in this many stays, always the same ones; 0: none does.",
        ge=0,
    )

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever dropped."""
        return self.max_bytes == 0 and self.max_rows == 0

    def most_rows(self, row_nbytes: int) -> int:
        """Rows that may stay, for rows of this many bytes; not for one that keeps all."""
        return min(n for n in (self.max_rows, self.max_bytes // row_nbytes) if n)

    @property
    def by_rule(self) -> bool:
        """Whether some old episodes stay."""
        return bool(self.keep or self.thin)


class CompressionConfig(Config):
    """How the images of full segments are kept. Compressing needs a part of a core in the background;
    nothing else waits for it."""

    images: str = setting(
        "zstd",
        doc="Columns of at least 4096 bytes a row: zstd: without loss; jpegQ or webpQ: images with the loss of "
        "quality Q (0 to 100), others without; raw: as they came.",
    )
    cameras: dict[str, str] = setting(
        factory=dict,
        doc="The same for single columns, by the name of the observation, for instance image_wrist: jpeg95.",
    )
    raw_bytes: int = setting(
        4 * 2**30,
        doc="The newest rows stay as they came, this many bytes of them: a store below it is not compressed.",
        unit="B",
        ge=0,
    )

    @property
    def is_off(self) -> bool:
        """Whether nothing is compressed."""
        return self.images == RAW and all(coding == RAW for coding in self.cameras.values())

    def coding(self, column: str) -> str:
        """How a column is kept."""
        return self.cameras.get(column.removeprefix(OBSERVATION), self.images)

    def validate(self) -> None:
        """Codings are known."""
        for coding in (self.images, *self.cameras.values()):
            if coding != RAW:
                is_lossy(coding)


class StoreConfig(Config):
    """How a replay store is written."""

    durability: Literal["fsync", "kernel"] = setting(
        "fsync",
        doc="fsync: an acknowledged chunk survives a power cut. kernel: it survives the death "
        "of every process, but not of the machine.",
    )
    segment_bytes: int = setting(
        256 * 2**20, doc="Size of a segment, about; it has 1024 to 65536 rows.", unit="B", ge=1
    )
    commit_bytes: int = setting(
        16 * 2**20, doc="Staged rows that make `append` commit by itself.", unit="B", ge=1
    )
    commit_period_s: float = setting(
        0.05, doc="Age of the oldest staged chunk at which a commit is due.", unit="s", ge=0
    )
    max_chunk_bytes: int = setting(
        16 * 2**20, doc="Largest chunk that is accepted.", unit="B", ge=1
    )
    accept_differences: tuple[str, ...] = setting(
        (),
        doc="Differences in meaning between the store and a robot that sends to it that are none, by "
        f"name: {', '.join(MEANINGS)}.",
    )
    max_chunk_rows: int = setting(8192, doc="Most rows of a chunk that is accepted.", ge=1)
    reorder_bytes: int = setting(
        32 * 2**20,
        doc="Chunks that came before their predecessors are held in memory up to this size.",
        unit="B",
        ge=0,
    )
    min_free_bytes: int = setting(
        256 * 2**20,
        doc="Space to leave on the disk, so that what is staged can always be committed.",
        unit="B",
        ge=0,
    )
    max_open_segments: int = setting(
        64, doc="Segments of one source that are filled side by side.", ge=1
    )
    retention: RetentionConfig = setting(
        factory=RetentionConfig, doc="How much is kept; by default everything."
    )
    compression: CompressionConfig = setting(
        factory=CompressionConfig, doc="How images are kept; by default without loss."
    )

    def validate(self) -> None:
        """Differences have names."""
        check_accepted(self.accept_differences)
