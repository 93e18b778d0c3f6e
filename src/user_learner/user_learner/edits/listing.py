"""Lists of episodes with filters: for the shell and the console."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from user_core.errors import SpecError
from user_core.types import EpisodeKey, EpisodeSource, Outcome
from user_learner.edits.view import EditedEpisode, EditedEpisodes

#: Share of the policy's actions that the gate changed, from which an episode is gate-limited.
GATE_LIMITED = 0.01
#: Share of successes by which a robot lies below all together, from which it counts as poor; of this many episodes.
LOW_SUCCESS, _FEW = 0.1, 8
_JUDGED = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT)


@dataclass(frozen=True)
class EpisodeFilter:
    """Which episodes are shown; those that fulfil all that is asked for.

    Attributes:
        failed: Not solved.
        succeeded: Solved.
        outcome: With this outcome; None: any.
        intervened: A person or script overruled the policy in some step.
        gate_limited: The safety gate changed actions of the policy.
        low_success: Of a robot that succeeds clearly less often than all robots together.
        anomalous: Something about it should be looked at, see :mod:`user_learner.quality`.
        excluded: None: without those that edits exclude; True: only those; False: likewise all.
        min_steps: At least this many steps.
        max_steps: At most this many; 0: any.
        tags: All of these.
        robot: Name of the robot.
        task: Name of the task.
        sources: Of these sources; none: all.
        text: Part of key, task or reason of its end.
        last: Only this many, the newest; 0: all.
    """

    failed: bool = False
    succeeded: bool = False
    outcome: Outcome | None = None
    intervened: bool = False
    gate_limited: bool = False
    low_success: bool = False
    anomalous: bool = False
    excluded: bool | None = None
    min_steps: int = 0
    max_steps: int = 0
    tags: tuple[str, ...] = ()
    robot: str = ""
    task: str = ""
    sources: tuple[EpisodeSource, ...] = ()
    text: str = ""
    last: int = 0

    @property
    def needs_statistics(self) -> bool:
        """Whether rows have to be measured for it."""
        return self.gate_limited or self.anomalous

    def takes(self, episode: EditedEpisode) -> bool:
        """Whether it lets an episode through, as far as that can be told without the others and without
        measuring rows. Of a cut episode the steps that are kept count."""
        edits, result, info = episode.edits, episode.info.result, episode.info
        if self.excluded is not False and edits.excluded != bool(self.excluded):
            return False
        if self.failed and episode.outcome not in (Outcome.FAILURE, Outcome.TIMEOUT):
            return False
        if self.succeeded and episode.outcome is not Outcome.SUCCESS:
            return False
        if self.outcome is not None and episode.outcome is not self.outcome:
            return False
        if self.intervened and not (result is not None and result.interventions):
            return False
        if episode.steps < self.min_steps or 0 < self.max_steps < episode.steps:
            return False
        if self.tags and not set(self.tags) <= set(edits.tags):
            return False
        if self.robot and info.robot != self.robot:
            return False
        if self.task and info.task != self.task:
            return False
        if self.sources and episode.source not in self.sources:
            return False
        reason = result.reason if result is not None else ""
        return not self.text or self.text.lower() in f"{episode.key} {info.task} {reason}".lower()


@dataclass(frozen=True)
class Listed:
    """An episode in a list, with its number: its place in the order in which episodes came, which never
    changes in a store."""

    number: int
    episode: EditedEpisode

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        episode, result, edits = self.episode, self.episode.info.result, self.episode.edits
        return {
            "number": self.number,
            "episode": str(episode.key),
            "source": episode.source.name.lower(),
            "robot": episode.info.robot,
            "task": episode.info.task,
            "outcome": episode.outcome.name.lower(),
            "recorded_outcome": result.outcome.name.lower() if result else "unfinished",
            "steps": episode.steps,
            "return": result.episode_return if result else None,
            "interventions": result.interventions if result else 0,
            "start_ns": result.start_ns if result else 0,
            "excluded": edits.excluded,
            "cut": [edits.start, edits.stop] if edits.cut else None,
            "tags": list(edits.tags),
            "notes": [
                {"text": n.text, "author": n.author, "time_ns": n.time_ns} for n in edits.notes
            ],
        }


def list_all(view: EditedEpisodes) -> list[Listed]:
    """All episodes of a store, those that edits exclude too."""
    return [Listed(n, episode) for n, episode in enumerate(view.episodes(excluded=True))]


def select(
    listed: Sequence[Listed],
    wanted: EpisodeFilter,
    gate_changed: Mapping[EpisodeKey, float] | None = None,
    anomalous: Collection[EpisodeKey] = (),
) -> list[Listed]:
    """Those that a filter lets through.

    Args:
        listed: From :func:`list_all`.
        wanted: The filter.
        gate_changed: Share of actions that the gate changed, by episode, where measured.
        anomalous: Episodes that should be looked at.
    """
    gate, poor = gate_changed or {}, _poor_robots(listed) if wanted.low_success else ()
    found = [
        item
        for item in listed
        if wanted.takes(item.episode)
        and not (wanted.gate_limited and gate.get(item.episode.key, 0.0) < GATE_LIMITED)
        and not (wanted.anomalous and item.episode.key not in anomalous)
        and not (wanted.low_success and item.episode.info.robot not in poor)
    ]
    return found[-wanted.last :] if wanted.last else found


def _poor_robots(listed: Sequence[Listed]) -> set[str]:
    """Robots that succeed clearly less often than all robots together; excluded episodes do not count."""
    counts: dict[str, list[int]] = {}
    for item in listed:
        if not item.episode.edits.excluded and item.episode.outcome in _JUDGED:
            count = counts.setdefault(item.episode.info.robot, [0, 0])
            count[0] += item.episode.outcome is Outcome.SUCCESS
            count[1] += 1
    solved, tried = (sum(column) for column in zip(*counts.values())) if counts else (0, 0)
    return {
        robot
        for robot, (own, of) in counts.items()
        if of >= _FEW and own / of < solved / tried - LOW_SUCCESS
    }


def named(listed: Sequence[Listed], words: Sequence[str]) -> list[Listed]:
    """Episodes by number (``17``), range (``3-7``) or key (``arm/1730/4``). Raises SpecError."""
    by_key = {str(item.episode.key): item for item in listed}
    found: dict[int, Listed] = {}
    for word in words:
        if (item := by_key.get(word)) is not None:
            found[item.number] = item
            continue
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not numbers or numbers[-1] >= len(listed):
            raise SpecError(
                "episode", got=repr(word),
                expected=f"a number or range of 0 to {len(listed) - 1}, or a key as `ls` shows it",
                hint="user episodes ls STORE",
            )  # fmt: skip
        found.update((number, listed[number]) for number in numbers)
    return list(found.values())
