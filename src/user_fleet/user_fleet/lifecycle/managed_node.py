"""What the manager knows of one node, and the orders that it gives."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.reasons import NO_REASON
from user_fleet.deployment.model import ProcessSpec
from user_fleet.supervisor.restarts import Restarts

UNKNOWN = "unknown"
#: In the detail of a failed transition whose cause is not known yet.
_SEE_LOG = "its log and /diagnostics say why"
PRIMARY = ("unconfigured", "inactive", "active", "finalized")


@dataclass(frozen=True)
class Call:
    """A call that is not answered yet.

    Attributes:
        what: ``get_state``, or the transition.
        since_s: When it was made.
    """

    what: str
    since_s: float


class ManagedNode:
    """Belief about one node, and what happened to it. All times are monotonic seconds.

    Attributes:
        state: Label of its last known state; ``unknown`` before the first and after its death.
        heard_s: When it last said anything; None if never.
        call: The call that is under way.
        was_up: Whether it has been active in this process's or an earlier life.
        held: Whether a person has taken it in hand by ``ros2 lifecycle``.
        reactivate: Whether it has to be deactivated and activated, for what it depends on was
            restarted.
        given_up: Whether it failed too often.
        failures: How often it failed.
        over: Whether it was finalized, and need not be again.
        doubted: Whether its state must be asked for before anything else.
        asked: The last transition that it was asked for.
        detail: What was last wrong, for people.
        cause: By what its last transition failed, as it says itself; false if it did not.
        pid: Its process; 0 if none is known.
    """

    def __init__(self, spec: ProcessSpec, now_s: float) -> None:
        self.spec, self.name = spec, spec.name
        self.drives = not spec.parameters.get("autostart", False)
        self.state = UNKNOWN
        self.heard_s: float | None = None
        self.call: Call | None = None
        self.retry_s = self.next_ask_s = now_s
        self.since_s = self.active_since_s = now_s
        self.waiting_since_s: float | None = None
        self.was_up = self.held = self.reactivate = self.given_up = self.over = False
        self.doubted, self.asked = False, ""
        self.failures = 0
        self.detail = ""
        self.cause = NO_REASON
        self.pid, self.pid_since_s = 0, now_s
        self._restarts = Restarts(spec.restart)

    def enter(self, state: str, now_s: float) -> None:
        """It is in this state now."""
        if state != self.state:
            self.state, self.since_s = state, now_s
            if state == "active":
                self.active_since_s, self.was_up = now_s, True
                self.waiting_since_s = None

    def failed(self, now_s: float, detail: str, wait: bool = True) -> None:
        """Count a failure; with ``wait`` the next attempt is made after a backoff."""
        uptime_s = now_s - self.active_since_s if self.state == "active" else 0.0
        self.failures += 1
        self.detail = detail
        wait_s = self._restarts.ended(now_s, uptime_s, 1)
        if wait_s is None and self.spec.restart.max_failures:
            self.given_up = True
        elif wait:
            self.retry_s = now_s + (wait_s or 0.0)

    @property
    def why(self) -> str:
        """What was last wrong, with the cause that the node itself gave."""
        if not self.cause:
            return self.detail
        cause = f"{self.cause.text} [{self.cause.code}]"
        known = not self.detail or _SEE_LOG in self.detail
        return cause if known else f"{self.detail}; {cause}"

    def silent_s(self, now_s: float) -> float:
        """For how long it has said nothing."""
        return now_s - max(self.heard_s or 0.0, self.pid_since_s)

    @property
    def settled(self) -> bool:
        """Whether others need not wait for it."""
        return self.state == "active" or self.given_up or self.held or not self.drives


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
    """Call ``get_state``; its answer goes to ``LifecycleManager.state_answered``."""

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
    """End a process that hangs; its supervisor starts it again."""

    node: str
    pid: int
    reason: str


Order = AskState | ChangeState | Kill
