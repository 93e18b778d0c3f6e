"""The state of a system as plain data for a page: the same that the table of the terminal is drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from user_bringup.monitor.state import EVALUATION, ONLINE, SystemState, level_of
from user_bringup.monitor.table import (
    ACTOR_STATES,
    GATE_STATES,
    LEARNER_STATES,
    duration,
    number,
    percent,
    size,
)
from user_bringup.running.process_board import ProcessLine
from user_core.command_line import many

EMERGENCY, STOPPED = 3, 2


@dataclass(frozen=True)
class RobotCard:
    """What is shown of one robot; texts for people.

    Attributes:
        namespace: Of its topics.
        name: Its name.
        state: One word.
        why: Reason of the state; empty where it acts.
        code: Code of that reason.
        safety: State of its safety gate.
        stopped: Whether the gate lets nothing through.
        emergency: Whether that is an emergency stop, which a person must reset.
        figures: Name and value, in the order in which they are shown.
    """

    namespace: str
    name: str
    state: str
    why: str = ""
    code: str = ""
    safety: str = ""
    stopped: bool = False
    emergency: bool = False
    figures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class NodeLine:
    """A node that the lifecycle manager looks after.

    Attributes:
        name: Of its process.
        node: Its full name in the graph; empty where it is not known.
        state: Of its life cycle.
        level: 0 well, 1 warning, 2 error.
        failures: How often it has failed or was started anew lately.
        why: What is the matter; empty when nothing is.
    """

    name: str
    node: str
    state: str
    level: int
    failures: str = ""
    why: str = ""


@dataclass(frozen=True)
class Snapshot:
    """All that the live page shows.

    Attributes:
        success: Share of successes of the last episodes, 0 to 1; NaN before the first.
        evaluation_rate: Share of successes of the newest evaluations; NaN before the first.
        robots: Their cards.
        learner: Figures of the learner and the store.
        learner_state: One word.
        nodes: Managed nodes.
        processes: Those of `user up`, where it runs on this machine and its run is known.
        links: Links to other hosts and what goes over them; by the columns of
            :data:`user_comm.net.flow_table.HEAD`.
        warnings: What a person should look at.
        numbers: Steps, updates, and more, for curves and large figures.
    """

    success: float = math.nan
    evaluation_rate: float = math.nan
    robots: tuple[RobotCard, ...] = ()
    learner: tuple[tuple[str, str], ...] = ()
    learner_state: str = ""
    nodes: tuple[NodeLine, ...] = ()
    processes: tuple[ProcessLine, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


def snapshot(state: SystemState, processes: tuple[ProcessLine, ...] = ()) -> Snapshot:
    """What there is to show now; take the monitor's lock.

    Args:
        state: What was heard.
        processes: Those of the run.
    """
    online, _ = state.rate_of(ONLINE)
    evaluation, _ = state.evaluations.shown
    learner_state, learner, numbers = _learner(state)
    robots = tuple(_robots(state))
    corrections = state.corrections
    if corrections.total.takeovers:
        learner = (*learner, ("corrections", str(corrections)))
    numbers["steps"] = float(sum(a.message.steps for a in state.actors.values()))
    return Snapshot(
        success=online,
        evaluation_rate=evaluation.rate,
        robots=robots,
        learner=learner,
        learner_state=learner_state,
        nodes=tuple(_nodes(state)),
        processes=processes,
        links=tuple(state.links()),
        warnings=tuple(state.warnings()),
        numbers=numbers,
    )


def _nodes(state: SystemState) -> Iterator[NodeLine]:
    for name, latest in state.managed.items():
        said, level = latest.message, level_of(latest.message)
        values = {entry.key: entry.value for entry in said.values}
        yield NodeLine(
            name, values.get("node", ""), values.get("state", ""), level,
            values.get("failures", ""), said.message if level else "",
        )  # fmt: skip


def _robots(state: SystemState) -> list[RobotCard]:
    silent = set(state.silent())
    cards = []
    seen = set()
    for name, latest in sorted(state.actors.items()):
        a = latest.message
        namespace, gate = _gate_of(state, a.actor)
        seen.add(namespace)
        episodes = state.episodes.get((a.robot, EVALUATION))
        evaluated = percent(episodes.success_rate) if episodes else "-"
        cards.append(
            RobotCard(
                namespace=namespace,
                name=a.robot or a.actor,
                state="silent" if name in silent else _word(ACTOR_STATES, a.state),
                why=a.detail,
                code=a.code,
                **_safety(gate),
                figures=(
                    ("task", a.task),
                    ("success", percent(a.success_rate)),
                    ("evaluated", evaluated),
                    ("return", number(a.last_return, 2)),
                    ("steps", f"{a.steps}"),
                    ("episodes", f"{a.episodes}"),
                    ("policy", f"v{a.policy_version}, {duration(a.policy_age_s)} old"),
                    ("rate", f"{a.rate_hz:.1f}/s"),
                    ("late p99", f"{number(a.lateness_p99_ms, 1)} ms"),
                    ("outbox", f"{size(a.outbox_bytes)}, {a.outbox_fill:.0%} full"),
                ),
            )
        )
    for namespace, gate in state.gates.items():
        if namespace not in seen:
            cards.append(
                RobotCard(
                    namespace, namespace.strip("/") or "robot", "no actor", **_safety(gate.message)
                )
            )
    return cards


def _gate_of(state: SystemState, actor: str) -> tuple[str, Any]:
    """Namespace and gate of the robot that an actor drives: the one that it has the lease of, or the one in its
    namespace."""
    for namespace, gate in state.gates.items():
        if gate.message.lease_holder == actor:
            return namespace, gate.message
    best = ("", None)
    for namespace, gate in state.gates.items():
        dotted = namespace.strip("/").replace("/", ".")
        if actor == dotted or actor.startswith(f"{dotted}."):
            best = (namespace, gate.message)
    return best


def _safety(gate: Any) -> dict[str, Any]:
    if gate is None:
        return {}
    word = _word(GATE_STATES, gate.state)
    why = f": {gate.detail}" if gate.state >= STOPPED and gate.detail else ""
    limited = (
        f", {gate.limited} limited, {gate.refused} refused" if gate.limited or gate.refused else ""
    )
    return {
        "safety": f"{word}{why}{limited}",
        "stopped": gate.state >= STOPPED,
        "emergency": gate.state == EMERGENCY,
    }


def _learner(state: SystemState) -> tuple[str, tuple[tuple[str, str], ...], dict[str, float]]:
    figures: list[tuple[str, str]] = []
    numbers: dict[str, float] = {}
    word = ""
    for name, latest in sorted(state.learners.items()):
        m = latest.message
        word = "silent" if name in state.silent() else _word(LEARNER_STATES, m.state)
        figures += [
            ("algorithm", m.algorithm),
            ("updates", f"{m.update}, {m.updates_per_s:.1f}/s"),
            ("UTD", f"{number(m.utd_ratio, 2)} of {number(m.utd_target, 2)}"),
            ("policy", f"v{m.policy_version}"),
            ("waits for data", percent(m.data_wait_share)),
        ]
        numbers.update(updates=float(m.update), updates_per_s=float(m.updates_per_s))
    for _, latest in sorted(state.replays.items()):
        m = latest.message
        figures += [
            ("stored", f"{many(m.steps, 'step')}, {many(m.episodes, 'episode')}"),
            ("store", f"{size(m.disk_bytes)}, {size(m.disk_free_bytes)} free"),
        ]
        numbers.update(stored=float(m.steps))
    return word, tuple(figures), numbers


def _word(words: tuple[str, ...], index: int) -> str:
    return words[index] if 0 <= index < len(words) else f"state {index}"
