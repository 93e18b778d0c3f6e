"""Which algorithms and networks may be spread over the processes that train together; without torch."""

from __future__ import annotations

from typing import Any

from user_core.errors import ConfigError
from user_core.interfaces import Algorithm

#: Parameter of an algorithm that spreads its network.
SHARD = "shard"


def require_shardable(algorithm: type[Algorithm], wanted: str) -> None:
    """Raise ConfigError where an algorithm needs its networks as a whole; says why."""
    if why := algorithm.why_not_sharded:
        raise ConfigError(
            f"{SHARD} of {algorithm.__name__}", got=wanted, expected=f"none: {why}",
            hint="bc shards, and with it hg_dagger, whose algorithm it is",
        )  # fmt: skip


def require_no_scale(network: Any) -> None:
    """Raise ConfigError where a network changes whole weights while it learns."""
    if hasattr(network, "keep_outputs"):
        raise ConfigError(
            SHARD, got=f"{type(network).__name__}, whose first layer follows the scale of its inputs",
            expected="a large policy: flow, diffusion, act, lerobot", hint="It is small: train it without",
        )  # fmt: skip
