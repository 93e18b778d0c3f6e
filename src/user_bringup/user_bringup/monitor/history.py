"""What happened, line by line: the file that the report of a run is drawn from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from user_bringup.monitor.state import SystemState


class History:
    """Appends JSON lines: every episode as it ends, and the state of the system once a second.

    Lines carry ``t`` (seconds since the epoch) and ``kind`` (``episode`` or ``state``). A
    line that was cut off by a crash is skipped when reading.
    """

    def __init__(self, file: Path, clock_s: Callable[[], float] = time.time) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("a", encoding="utf-8")
        self._clock_s = clock_s

    def episode(self, message: Any) -> None:
        """Write one ``user_msgs/EpisodeResult``."""
        names = (
            "robot", "task", "source", "outcome", "length", "episode_return", "interventions",
            "takeovers", "first_version", "last_version", "start_ns", "end_ns", "reason_code", "reason",
        )  # fmt: skip
        self.write("episode", **{name: getattr(message, name) for name in names})

    def state(self, state: SystemState) -> None:
        """Write the numbers that are plotted later."""
        silent = set(state.silent())  # the last that was heard of them is not so any more
        actors = [latest.message for name, latest in state.actors.items() if name not in silent]
        learner = next((latest.message for latest in state.learners.values()), None)
        replay = next((latest.message for latest in state.replays.values()), None)
        numbers: dict[str, Any] = {
            "actor_rate_hz": sum(a.rate_hz for a in actors),
            "policy_age_s": max(
                (a.policy_age_s for a in actors if not math.isnan(a.policy_age_s)), default=math.nan
            ),
            "actor_version": min((a.policy_version for a in actors), default=0),
            "outbox_bytes": sum(a.outbox_bytes for a in actors),
            "lateness_p99_ms": max((a.lateness_p99_ms for a in actors), default=math.nan),
            "robots": {
                a.robot or a.actor: {
                    "steps": a.steps,
                    "success": a.success_rate,
                    "version": a.policy_version,
                    "age_s": a.policy_age_s,
                    "rate_hz": a.rate_hz,
                }
                for a in actors
            },
        }
        if state.corrections.total.takeovers:
            lately = state.corrections.lately
            numbers.update(takeovers_per_episode=lately.per_episode, person_share=lately.share)
        if flags := state.flags():
            numbers["flags"] = flags
        if returns := state.returns():
            numbers["returns"] = returns
        if learner is not None:
            names = (
                "update", "environment_steps", "utd_ratio", "updates_per_s", "data_wait_share",
                "policy_version", "state",
            )  # fmt: skip
            numbers.update({name: getattr(learner, name) for name in names})
            numbers["metrics"] = dict(
                zip(learner.metric_names, map(float, learner.metric_values), strict=False)
            )
        if replay is not None:
            numbers.update(stored_steps=replay.steps, store_bytes=replay.disk_bytes)
        if state.standbys:
            numbers.update(standbys=len(state.standbys), standby_bytes=sum(state.standbys.values()))
        if state.memory:
            numbers["memory"] = state.memory
        if state.gpu_memory:
            numbers["gpu_memory"] = state.gpu_memory
        self.write("state", **numbers)

    def ended(self, why: str, causes: Mapping[str, str]) -> None:
        """Write that the run did not end well: why it ended, and what went wrong with what."""
        self.write("ended", why=why, causes=dict(causes))

    def write(self, kind: str, **values: Any) -> None:
        """Write a line of any kind."""
        line = {"t": round(self._clock_s(), 3), "kind": kind, **values}
        self._stream.write(json.dumps(line, default=float) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_history(file: Path) -> list[dict[str, Any]]:
    """All whole lines of a history file."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
