"""The episodes of a recording: from events, and from silence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from user_core.specs import Array
from user_core.types import Outcome
from user_hal.robots.ros2.field_paths import FieldPath
from user_hal.robots.ros2.recorded.config import EventConfig, RecordingConfig

#: Of service introspection (ServiceEventInfo): a request was sent, or received.
_REQUESTS = (0, 1)
#: What tells of the result may come this long after the end.
_AFTERTHOUGHT_NS = 2_000_000_000


@dataclass(frozen=True)
class Cut:
    """An episode of a recording.

    Attributes:
        start_ns: From when, by the clock of the recording.
        end_ns: To when.
        outcome: What came of it.
        reason: What ended it, for people.
        task: Name of its task.
    """

    start_ns: int
    end_ns: int
    outcome: Outcome = Outcome.UNKNOWN
    reason: str = ""
    task: str = ""


@dataclass
class Events:
    """When something happened.

    Args:
        config: What.
    """

    config: EventConfig
    times_ns: list[int] = field(default_factory=list)
    _was: bool = False
    _calls: set[Any] = field(default_factory=set)

    def take(self, time_ns: int, message: Any) -> None:
        """Look at a message of its topic. Raises AttributeError where the field is not there."""
        if self.config.service:
            info = message.info
            call = (bytes(info.client_gid), int(info.sequence_number))
            if int(info.event_type) in _REQUESTS and call not in self._calls:
                self._calls.add(call)  # the client's and the server's event are one call
                self.times_ns.append(time_ns)
            return
        holds = True
        if self.config.field:
            value = FieldPath(self.config.field).get(message)
            value = value.item() if isinstance(value, np.generic) else value
            wanted = self.config.equals
            wanted = wanted if isinstance(wanted, (list, tuple)) or wanted is None else [wanted]
            holds = bool(value) if wanted is None else value in wanted
        if holds and not (self._was and self.config.field and not self.config.every):
            self.times_ns.append(time_ns)
        self._was = holds


class Silences:
    """When a topic was silent for too long.

    Args:
        longest_ns: By topic.
        times_ns: When messages came, by topic: sorted.

    Attributes:
        found: From when to when which topic was silent.
        missing: Topics that never spoke.
    """

    def __init__(self, longest_ns: Mapping[str, int], times_ns: Mapping[str, Array]) -> None:
        self.found: list[tuple[int, int, str]] = []
        spoken = {topic: times_ns[topic] for topic in longest_ns if len(times_ns.get(topic, ()))}
        self.missing = sorted(set(longest_ns) - set(spoken))
        for topic, times in spoken.items():
            for place in np.flatnonzero(np.diff(times) > longest_ns[topic]):
                self.found.append((int(times[place]), int(times[place + 1]), topic))
        self._ends = [(int(times[0]), int(times[-1])) for times in spoken.values()]

    def span(self) -> tuple[int, int]:
        """From when to when all of them spoke."""
        return max(first for first, _ in self._ends), min(last for _, last in self._ends)


def cut(
    config: RecordingConfig,
    events: Mapping[str, Events],
    silences: Silences,
    tasks: list[tuple[int, str]],
) -> list[Cut]:
    """The episodes, in their order.

    Args:
        config: Where they begin and end.
        events: By key of the configuration.
        silences: Of the topics of the observation.
        tasks: When which task was said.
    """
    first_ns, last_ns = silences.span()
    marks = [(t, "start") for t in events["start"].times_ns] if "start" in events else []
    marks += [(t, "end") for t in events["end"].times_ns] if "end" in events else []
    spans: list[tuple[int, int, str]] = []
    opened: int | None = None if config.start is not None else first_ns
    for time_ns, what in sorted(marks):
        if opened is not None and (what == "end" or config.start is not None):
            spans.append((opened, time_ns, what))
        opened = time_ns if what == "start" or config.start is None else None
    if opened is not None:
        spans.append((opened, last_ns, "the recording ends"))
    found = [
        piece
        for start, end, why in spans
        for piece in _without_silence(max(start, first_ns), min(end, last_ns), why, silences)
    ]
    least_ns = round(config.least_s * 1e9)
    found = [(start, end, why) for start, end, why in found if end - start >= max(least_ns, 1)]
    following = [start for start, _, _ in found[1:]] + [2**62]
    return [
        Cut(
            start, end, _outcome(start, min(end + _AFTERTHOUGHT_NS, after), events), why,
            config.task or _task(end, tasks),
        )
        for (start, end, why), after in zip(found, following)
    ]  # fmt: skip


def _without_silence(
    start: int, end: int, why: str, silences: Silences
) -> list[tuple[int, int, str]]:
    found = []
    for last, again, topic in sorted(silences.found):
        if again <= start or last >= end:
            continue
        if last > start:
            found.append((start, last, f"silence of {topic}"))
        start = max(start, again)
    return [*found, (start, end, why)]


def _outcome(start: int, end: int, events: Mapping[str, Events]) -> Outcome:
    said = [
        (time_ns, outcome)
        for key, outcome in (("success", Outcome.SUCCESS), ("failure", Outcome.FAILURE))
        if key in events
        for time_ns in events[key].times_ns
        if start < time_ns <= end
    ]
    return max(said)[1] if said else Outcome.UNKNOWN


def _task(end: int, tasks: list[tuple[int, str]]) -> str:
    said = [text for time_ns, text in tasks if time_ns <= end]
    return said[-1] if said else ""
