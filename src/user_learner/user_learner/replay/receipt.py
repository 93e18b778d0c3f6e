"""What the writer answers to a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from user_core.types import TrajectoryAck


class Receipt(str, Enum):
    """What became of a chunk that was appended."""

    STAGED = "staged"
    """Written; the next commit makes it durable and moves the acknowledged number on."""
    DUPLICATE = "duplicate"
    """It was here before. Nothing changed; acknowledge again."""
    EARLY = "early"
    """A chunk before it is missing. It must count as not delivered until acknowledged."""
    REFUSED = "refused"
    """It cannot be stored as it is; the answer says why. It must not be sent again as it is."""


@dataclass(frozen=True)
class Answer:
    """The writer's answer to one chunk.

    Attributes:
        receipt: What became of it.
        ack: What to tell its producer: the number up to which all is durable, and for a
            refused chunk its number, code and reason.
    """

    receipt: Receipt
    ack: TrajectoryAck
