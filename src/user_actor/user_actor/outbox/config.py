"""Parameters of the outbox."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from user_core.codecs.images import is_lossy
from user_core.config import Config, setting
from user_core.errors import ConfigError

KIB, MIB, GIB = 2**10, 2**20, 2**30


class OutboxConfig(Config):
    """Parameters of :class:`~user_actor.outbox.Outbox`."""

    directory: Path = setting(
        Path("outbox"), doc="Where outboxes live; each actor has a folder of its own in it."
    )
    chunk_s: float = setting(0.5, doc="Longest time that one chunk collects steps.", unit="s", gt=0)
    chunk_bytes: int = setting(
        256 * KIB, doc="Largest size of a chunk; a larger single row is a chunk.", unit="B", ge=KIB
    )
    quota_bytes: int = setting(
        8 * GIB, doc="Disk space that unacknowledged data may fill.", unit="B", ge=MIB
    )
    min_free_bytes: int = setting(256 * MIB, doc="Disk space that must stay free.", unit="B", ge=0)
    memory_bytes: int = setting(
        64 * MIB, doc="Steps in memory that wait for the disk, at most.", unit="B", ge=MIB
    )
    durability: Literal["full", "normal"] = setting(
        "full",
        doc="full: a committed step survives a power cut; normal: it survives the end of the "
        "process, and a power cut may cost the last seconds.",
    )
    window_min_bytes: int = setting(
        64 * KIB, doc="Sent and unacknowledged data that is always allowed.", unit="B", ge=KIB
    )
    window_max_bytes: int = setting(
        8 * MIB, doc="Sent and unacknowledged data, at most.", unit="B", ge=KIB
    )
    resend_min_s: float = setting(
        1.0, doc="Shortest time after which a chunk is sent again.", unit="s", gt=0
    )
    resend_max_s: float = setting(
        10.0, doc="Longest time after which a chunk is sent again.", unit="s", gt=0
    )
    rebind_after_s: float = setting(
        15.0,
        doc="Silence of the store after which another store that answers counts as its successor.",
        unit="s",
        gt=0,
    )

    image_coding: Literal["auto", "none", "lossless", "lossy"] = setting(
        "auto",
        doc="How images travel to the store. auto: plain while delivery keeps up, else lossless, "
        "and then as lossy_coding says, if it says anything.",
    )
    lossy_coding: str = setting(
        "",
        doc="Lossy coding that images may travel in, which the store records: jpegQ or webpQ with the "
        "quality Q, for instance jpeg90; empty: none.",
    )
    coding_after_s: float = setting(
        5.0, doc="Age of the backlog at which images are coded more strongly.", unit="s", gt=0
    )

    def validate(self) -> None:
        if self.lossy_coding and not is_lossy(self.lossy_coding):
            raise ConfigError(
                "lossy_coding", got=self.lossy_coding, expected="jpegQ, webpQ or nothing"
            )
        if self.image_coding == "lossy" and not self.lossy_coding:
            raise ConfigError("lossy_coding", got="nothing", expected="jpegQ or webpQ, for lossy")
        for low, high in (
            ("window_min_bytes", "window_max_bytes"),
            ("resend_min_s", "resend_max_s"),
            ("chunk_bytes", "memory_bytes"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(low, got=getattr(self, low), expected=f"at most {high}")
