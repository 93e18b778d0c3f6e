"""Parameters of the lifecycle manager."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting


@dataclass(frozen=True)
class LifecycleConfig(Config):
    """How long is waited for what."""

    hang_timeout_s: float = setting(
        15.0,
        doc="Silence (no heartbeat, no answer of get_state) after which a node counts as dead "
        "and its process is killed.",
        unit="s",
        gt=0,
    )
    startup_timeout_s: float = setting(
        60.0, doc="The same for a process that has not said anything yet.", unit="s", gt=0
    )
    transition_timeout_s: float = setting(
        60.0, doc="Longest time that a transition may take.", unit="s", gt=0
    )
    patience_s: float = setting(
        10.0,
        doc="How long a node waits for those before it; then it is brought up without them, "
        "and reactivated when they come.",
        unit="s",
        ge=0,
    )
    stale_after_s: float = setting(
        1.5, doc="Silence after which a node is asked for its state.", unit="s", gt=0
    )
    ask_timeout_s: float = setting(
        0.5, doc="How long an answer of get_state is waited for.", unit="s", gt=0
    )
