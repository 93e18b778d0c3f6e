"""What the manager wants done; the node does it."""

from __future__ import annotations

from dataclasses import dataclass

#: Transitions by the state they start from, as ``lifecycle_msgs/Transition`` numbers them.
TRANSITIONS: dict[tuple[str, str], int] = {
    ("unconfigured", "configure"): 1,
    ("inactive", "cleanup"): 2,
    ("inactive", "activate"): 3,
    ("active", "deactivate"): 4,
    ("unconfigured", "shutdown"): 5,
    ("inactive", "shutdown"): 6,
    ("active", "shutdown"): 7,
}
#: Where a transition ends when it goes well.
GOALS = {
    "configure": "inactive",
    "cleanup": "unconfigured",
    "activate": "active",
    "deactivate": "inactive",
    "shutdown": "finalized",
}


@dataclass(frozen=True)
class AskState:
    """Call ``get_state``; its answer goes to ``LifecycleManager.told``."""

    node: str


@dataclass(frozen=True)
class ChangeState:
    """Call ``change_state``; its answer goes to ``LifecycleManager.changed``.

    Attributes:
        node: Name of the process.
        transition: What is wanted.
        number: The same, as a number of ``lifecycle_msgs/Transition``.
    """

    node: str
    transition: str
    number: int


@dataclass(frozen=True)
class Kill:
    """End a process that hangs; whoever started it starts it again."""

    node: str
    pid: int
    reason: str


Order = AskState | ChangeState | Kill
