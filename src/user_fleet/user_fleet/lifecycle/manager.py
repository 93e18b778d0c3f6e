"""The lifecycle manager, as plain Python: it is told what is seen, and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from user_core.config import Config, setting
from user_core.reasons import (
    NO_REASON,
    NODE_FAILED,
    NODE_GIVEN_UP,
    NODE_HELD,
    NODE_PAUSED,
    NODE_SILENT,
    NODE_STARTING,
    NODE_WAITS,
    Reason,
)
from user_fleet.deployment.model import ProcessSpec, start_order
from user_fleet.lifecycle.managed_node import (
    GOALS,
    PRIMARY,
    TRANSITIONS,
    UNKNOWN,
    AskState,
    Call,
    ChangeState,
    Kill,
    ManagedNode,
    Order,
)
from user_fleet.lifecycle.memory import Memory, Mode


class LifecycleConfig(Config):
    """Times after which the manager acts."""

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
        doc="How long a node waits for the nodes before it; then it is brought up without them, "
        "and reactivated when they come.",
        unit="s",
        ge=0,
    )
    stale_after_s: float = setting(
        1.5, doc="Silence after which a node is asked for its state.", unit="s", gt=0
    )
    ask_timeout_s: float = setting(0.5, doc="Time-out of get_state.", unit="s", gt=0)


class LifecycleManagerConfig(Config):
    """Parameters of lifecycle_manager."""

    deployment: Path = setting(
        doc="File with the deployment as it runs: deployment.yaml of a run's folder."
    )
    bring_up: bool = setting(
        True, doc="Bring the nodes up from the start; false: once the service ~/resume is called."
    )
    times: LifecycleConfig = setting(
        factory=LifecycleConfig, doc="Times after which the manager acts."
    )
    host: str = setting("", doc="Manage only the processes of this host; empty: all.")
    memory_file: str = setting(
        "", doc="Where mode and nodes taken in hand are kept; empty: beside the deployment."
    )


_GET_STATE = "get_state"
_NOT_YET = "not brought up yet, as configured; the service ~/resume of lifecycle_manager does it"
#: A heartbeat that comes this long after a transition was asked for says that it was not heard.
_UNHEARD_S = 1.0


@dataclass(frozen=True)
class NodeReport:
    """The state of one node; ``reason`` says why it is not as it should be, if it is not."""

    name: str
    node: str
    state: str
    reason: Reason
    serious: bool
    failures: int
    pid: int
    since_s: float


class LifecycleManager:
    """Compares what is with what should be, and orders the next step of each node.

    It keeps no plan: whatever has happened meanwhile, to the nodes or to itself, the next
    :meth:`step` starts from what is seen. So it may be killed and come back at any time.

    In mode RUN a node is brought up once those it depends on are active, and, the first time,
    those of lower order; none is waited for longer than ``patience_s``. A node that was
    restarted is configured and activated again, and whatever depends on it is deactivated and
    activated once more. One that hangs is killed. One that fails too often (``max_failures``
    in ``window_s`` of its restart policy) is left alone until :meth:`resume`; so is, until it is
    activated again, one that a person deactivated or shut down by its life-cycle service.
    A node with ``autostart`` is watched only.

    Args:
        processes: The managed nodes.
        config: Time limits.
        memory: What must survive this process.
        now_s: Monotonic seconds.
        find: Process ids by name of the process, for those of this machine.
        slowness: By how much everything takes longer now, from 1: an overloaded machine is not
            relieved by killing who is late.
        is_alive: Whether a process that ``find`` has found is there still.
    """

    def __init__(
        self,
        processes: Iterable[ProcessSpec],
        config: LifecycleConfig,
        memory: Memory,
        now_s: float,
        find: Callable[[Sequence[str]], dict[str, int]] = lambda names: {},
        slowness: Callable[[], float] = lambda: 1.0,
        is_alive: Callable[[int], bool] = lambda pid: True,
    ) -> None:
        self.config, self._memory, self._find = config, memory, find
        self._slowness, self._is_alive = slowness, is_alive
        ordered = start_order([p for p in processes if p.lifecycle and p.ros])
        self.nodes = {spec.name: ManagedNode(spec, now_s) for spec in ordered}
        self.mode = memory.mode
        self._next_look_s = now_s
        for name in memory.held & self.nodes.keys():
            self.nodes[name].held = True

    # --- what a person wants ------------------------------------------------------------

    def pause(self) -> None:
        """Deactivate all nodes, the last one first."""
        self._want(Mode.PAUSED)

    def resume(self) -> None:
        """Bring all nodes up, also those that were given up or taken in hand."""
        for node in self.nodes.values():
            node.given_up = node.held = node.over = False
        self._want(Mode.RUN)

    def shut_down(self) -> None:
        """Finalize all nodes, the last one first; their processes end."""
        for node in self.nodes.values():
            node.over = node.state == "finalized"
        self._want(Mode.SHUT_DOWN)

    def _want(self, mode: Mode) -> None:
        self.mode = mode
        self._remember()

    def _remember(self) -> None:
        held = frozenset(node.name for node in self.nodes.values() if node.held)
        self._memory.keep(self.mode, held)

    # --- what is seen ---------------------------------------------------------------------

    def heartbeat(self, name: str, state: str, now_s: float) -> None:
        """A node has said on its own how it is. That it lives is certain; what it said may have
        been overtaken by our own calls, so that it is asked where it differs."""
        node = self.nodes[name]
        node.heard_s = now_s
        if node.call is not None:
            if node.call.what != _GET_STATE and now_s - node.call.since_s > _UNHEARD_S:
                node.call = None  # the process that was asked is gone, or never heard it
                node.doubted = True
        elif state != node.state:
            node.doubted = True

    def complained(self, name: str, cause: Reason) -> None:
        """A node has said by what its last transition failed; false: it did not fail."""
        self.nodes[name].cause = cause

    def state_answered(self, name: str, state: str, now_s: float) -> None:
        """A node has answered ``get_state``."""
        node = self.nodes[name]
        node.heard_s, node.doubted = now_s, False
        if node.call is not None and node.call.what == _GET_STATE:
            node.call = None
        if state not in PRIMARY:
            return  # within a transition; it will be asked again
        before = node.state
        if before in ("active", "inactive") and state == "unconfigured":
            node.pid = 0  # perhaps another one now
            if before == "active" and node.asked != "cleanup":
                node.failed(now_s, "came down by itself, or was restarted", wait=False)
        elif node.drives and before in ("active", "inactive") and self.mode is Mode.RUN:
            lower = state == "finalized" or (before, state) == ("active", "inactive")
            if lower and GOALS.get(node.asked) != state:
                node.held = True
                node.detail = "taken in hand by its life-cycle service"
                self._remember()
        self._enter(node, state, now_s)

    def changed(self, name: str, success: bool, now_s: float) -> None:
        """A node has answered ``change_state``."""
        node = self.nodes[name]
        node.heard_s = now_s
        call, node.call = node.call, None
        if call is None or call.what == _GET_STATE:
            return
        node.doubted = True  # after a failure it may be in either of two states
        if success:
            node.doubted = False
            self._enter(node, GOALS[call.what], now_s)
            node.cause = NO_REASON
            if call.what == "activate":
                node.detail = ""
        else:
            node.failed(now_s, f"could not {call.what}; its log and /diagnostics say why")

    def unanswered(self, name: str) -> None:
        """A call could not be made, or its answer will not come."""
        self.nodes[name].call = None
        self.nodes[name].doubted = True

    def _enter(self, node: ManagedNode, state: str, now_s: float) -> None:
        rose = state == "active" and node.state != "active"
        news = node.was_up or node.state != UNKNOWN  # or else this manager has only just come
        node.enter(state, now_s)
        if state == "finalized":
            node.over = True
        if rose:
            if node.held:
                node.held = False
                self._remember()
            for other in self.nodes.values():
                if news and node.name in other.spec.depends_on and other.state == "active":
                    other.reactivate = True

    # --- what to do ------------------------------------------------------------------------

    def step(self, now_s: float) -> list[Order]:
        """The calls to be made now; each is answered by :meth:`told`, :meth:`changed` or
        :meth:`unanswered`. Call it every 50 ms or so, and after every answer."""
        orders: list[Order] = []
        self._look_for_processes(now_s, orders)
        for node in self.nodes.values():
            self._expire(node, now_s)
            if node.call is not None:
                continue
            order = self._ask(node, now_s) or self._change(node, now_s)
            if order is not None:
                orders.append(order)
                node.call = Call(_GET_STATE, now_s)
                if isinstance(order, ChangeState):
                    node.asked = order.transition
                    node.call = Call(order.transition, now_s)
        return orders

    def report(self, now_s: float) -> list[NodeReport]:
        """The state of each node."""
        return [self._report(node, now_s) for node in self.nodes.values()]

    def _expire(self, node: ManagedNode, now_s: float) -> None:
        if node.call is None:
            return
        waited_s = now_s - node.call.since_s
        if node.call.what == _GET_STATE:
            if waited_s > self.config.ask_timeout_s:
                node.call = None
        elif waited_s > self.config.transition_timeout_s:
            node.failed(now_s, f"no answer to {node.call.what} within {waited_s:.0f} s")
            node.call, node.doubted = None, True

    def _ask(self, node: ManagedNode, now_s: float) -> Order | None:
        """Ask for the state where it is unknown, doubtful, or long not heard of."""
        stale = node.heard_s is None or now_s - node.heard_s > self.config.stale_after_s
        wanted = node.doubted or stale or node.state == UNKNOWN
        if not wanted or now_s < node.next_ask_s:
            return None
        node.next_ask_s = now_s + 0.1
        return AskState(node.name)

    def _change(self, node: ManagedNode, now_s: float) -> Order | None:
        if node.doubted or node.state == UNKNOWN or not node.drives:
            return None
        transition = self._next_transition(node, now_s)
        number = TRANSITIONS.get((node.state, transition))
        return None if number is None else ChangeState(node.name, transition, number)

    def _next_transition(self, node: ManagedNode, now_s: float) -> str:
        if self.mode is Mode.RUN:
            if node.held or node.given_up or now_s < node.retry_s:
                return ""
            if node.state == "active" and node.reactivate:
                return "deactivate"
            if node.state == "inactive" and node.reactivate:
                node.reactivate = False
                return "activate"
            if node.state in ("unconfigured", "inactive") and self._may_rise(node, now_s):
                return "configure" if node.state == "unconfigured" else "activate"
            return ""
        if not self._may_fall(node):
            return ""
        if self.mode is Mode.PAUSED:
            return "deactivate" if node.state == "active" else ""
        return "" if node.over else "shutdown"

    def _may_rise(self, node: ManagedNode, now_s: float) -> bool:
        """Whether what it waits for is there, or was waited for long enough."""
        if not self._missing(node):
            return True
        if node.waiting_since_s is None:
            node.waiting_since_s = now_s
        return now_s - node.waiting_since_s >= self.config.patience_s

    def _missing(self, node: ManagedNode) -> list[str]:
        needed = set(node.spec.depends_on) & self.nodes.keys()
        if not node.was_up:  # the order of the first start; later nobody waits for strangers
            needed |= {o.name for o in self.nodes.values() if o.spec.order < node.spec.order}
        return [
            name
            for name, other in self.nodes.items()
            if name in needed
            and other.state != "active"
            and (name in node.spec.depends_on or not other.settled)
        ]

    def _may_fall(self, node: ManagedNode) -> bool:
        """Whether all that come after it are down, or beyond reach."""
        names = list(self.nodes)
        later = [self.nodes[name] for name in names[names.index(node.name) + 1 :]]
        down = ("inactive", "unconfigured", "finalized", UNKNOWN)
        if self.mode is Mode.SHUT_DOWN:
            return all(o.over or o.state == UNKNOWN or not o.drives for o in later)
        return all(o.state in down or not o.drives for o in later)

    def _look_for_processes(self, now_s: float, orders: list[Order]) -> None:
        """Find out who is dead and who hangs, on this machine."""
        if now_s < self._next_look_s and not self._one_has_died():
            return
        self._next_look_s = now_s + 1.0
        pids = self._find(list(self.nodes))
        for node in self.nodes.values():
            pid = pids.get(node.name, 0)
            if pid != node.pid:
                self._has_process(node, pid, now_s)
            elif node.state != "finalized" and self._hangs(node, now_s):
                self._give_for_dead(node, now_s, orders)

    def _one_has_died(self) -> bool:
        return any(node.pid and not self._is_alive(node.pid) for node in self.nodes.values())

    def _has_process(self, node: ManagedNode, pid: int, now_s: float) -> None:
        before, node.pid, node.pid_since_s = node.pid, pid, now_s
        if not before:
            return  # the one that we have been talking with
        if node.state == "active":  # what we knew was of another process
            node.failed(now_s, "its process ended", wait=False)
        node.call, node.doubted = None, False
        self._enter(node, UNKNOWN, now_s)

    def _hangs(self, node: ManagedNode, now_s: float) -> bool:
        config = self.config
        spoke = node.heard_s is not None and node.heard_s >= node.pid_since_s
        if not node.pid:
            limit_s = config.hang_timeout_s * self._slowness()
            return node.state != UNKNOWN and node.silent_s(now_s) > limit_s
        if node.call is not None and node.call.what != _GET_STATE:
            return False  # a transition has its own limit
        limit_s = config.hang_timeout_s if spoke else config.startup_timeout_s
        return node.silent_s(now_s) > limit_s * self._slowness()

    def _give_for_dead(self, node: ManagedNode, now_s: float, orders: list[Order]) -> None:
        reason = f"said nothing for {node.silent_s(now_s):.0f} s"
        node.failed(now_s, reason, wait=False)
        node.enter(UNKNOWN, now_s)
        node.call = None
        if node.pid:
            orders.append(Kill(node.name, node.pid, reason))
            node.pid, node.pid_since_s = 0, now_s

    def _with_cause(self, name: str) -> str:
        """A node that another waits for, and why it is not there."""
        node = self.nodes[name]
        return f"{name} ({node.why})" if node.why else name

    def _report(self, node: ManagedNode, now_s: float) -> NodeReport:
        reason, serious = NO_REASON, False
        if node.given_up:
            policy = node.spec.restart
            text = f"given up after {policy.max_failures} failures in {policy.window_s:g} s"
            reason, serious = Reason(NODE_GIVEN_UP, f"{text}: {node.why}"), True
        elif node.held:
            reason = Reason(NODE_HELD, node.detail or "taken in hand by its life-cycle service")
        elif node.state == UNKNOWN and not node.over:
            reason, serious = Reason(NODE_SILENT, node.why or "not heard of yet"), node.was_up
        elif self.mode is not Mode.RUN:
            reason = Reason(NODE_PAUSED, self.mode.value if self._memory.was_set else _NOT_YET)
        elif node.state != "active":
            missing = self._missing(node)
            code = NODE_WAITS if missing else NODE_FAILED if node.detail else NODE_STARTING
            waited_for = ", ".join(self._with_cause(name) for name in missing)
            text = f"waits for {waited_for}" if missing else "is being brought up"
            reason = Reason(code, f"{text}; {node.why}" if node.why else text)
        return NodeReport(
            node.name, node.spec.node_name, node.state, reason, serious, node.failures,
            node.pid, now_s - node.since_s,
        )  # fmt: skip
