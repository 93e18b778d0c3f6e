"""Labels: a person's verdict on the running episode."""

from __future__ import annotations

from enum import IntEnum


class Label(IntEnum):
    """What a person says by a key or button. The values travel; never renumber them."""

    NONE = 0
    SUCCESS = 1
    """The task is solved."""
    FAILURE = 2
    """The attempt has failed."""
    ABORT = 3
    """End the episode without a verdict."""
