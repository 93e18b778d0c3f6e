"""What a person should look at, from the statistics of the episodes of a store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from user_core.specs import Array
from user_core.types import EpisodeKey, Outcome
from user_learner.quality.statistics import EpisodeStatistics

#: Kind of finding, to what it means.
KINDS: dict[str, str] = {
    "gaps": "observations are missing: a time between two of them is many periods long",
    "jitter": "the period varies",
    "time_backwards": "time runs backwards",
    "frozen_camera": "a camera shows the same image all the time",
    "black_camera": "a camera shows nothing",
    "constant": "an element of an observation never moves, though it does in other episodes",
    "jump": "a value jumps within one step",
    "clipped": "many actions lie at a bound",
    "gate": "the safety gate changed many actions of the policy",
    "lag": "observations follow actions later than in the other episodes",
    "outlier": "the episode is unlike all others",
    "duplicate": "the episode is nearly the same as another",
    "label_conflict": "nearly the same as another episode, with the opposite outcome",
    "too_short": "it has hardly any step",
}
#: Those that make an episode `anomalous`; the others describe a policy rather than the data.
ANOMALOUS = frozenset(KINDS) - {"clipped", "gate", "duplicate"}

_GAP_PERIODS, _JITTER = 4.0, 0.25
_JUMP, _CLIPPED, _GATE = 60.0, 0.5, 0.2
_LAG_STEPS, _OUTLIER = 3.0, 8.0
_FEW, _SHORT = 8, 3
_SAME = 1e-3


@dataclass(frozen=True)
class Finding:
    """Something about one episode.

    Attributes:
        kind: One of :data:`KINDS`.
        episode: Which.
        text: What was found, for people.
        size: How much, for sorting within a kind.
        step: Where in the episode; -1: everywhere.
        other: The other episode, where there is one.
    """

    kind: str
    episode: EpisodeKey
    text: str
    size: float = 1.0
    step: int = -1
    other: EpisodeKey | None = None


def judge(
    statistics: Mapping[EpisodeKey, EpisodeStatistics],
    outcomes: Mapping[EpisodeKey, Outcome] | None = None,
) -> list[Finding]:
    """All findings, those of an episode by itself first."""
    found: list[Finding] = []
    for key, one in statistics.items():
        found += _alone(key, one)
    found += _constant(statistics)
    found += _lags(statistics)
    found += _outliers(statistics)
    found += _alike(statistics, outcomes or {})
    return found


def anomalous(findings: Sequence[Finding]) -> dict[EpisodeKey, list[str]]:
    """Episodes that the filter `anomalous` shows, and why."""
    reasons: dict[EpisodeKey, list[str]] = defaultdict(list)
    for finding in findings:
        if finding.kind in ANOMALOUS:
            reasons[finding.episode].append(finding.kind)
    return dict(reasons)


def _alone(key: EpisodeKey, one: EpisodeStatistics) -> list[Finding]:
    found = []

    def add(kind: str, text: str, size: float, step: int = -1) -> None:
        found.append(Finding(kind, key, text, size, step))

    if one.rows <= _SHORT:
        add("too_short", f"{one.rows} rows", 1.0)
        return found
    if one.longest_gap > _GAP_PERIODS and one.period_s > 0:
        text = f"{one.longest_gap * one.period_s:.3g} s without an observation"
        add("gaps", f"{text}, {one.longest_gap:.1f} periods", one.longest_gap)
    if one.jitter > _JITTER:
        add(
            "jitter", f"half of the periods deviate by {100 * one.jitter:.0f} % or more", one.jitter
        )
    if one.backwards:
        add("time_backwards", f"in {one.backwards} steps", one.backwards)
    for camera in one.frozen:
        add("frozen_camera", camera, 1.0)
    for camera in one.black:
        add("black_camera", camera, 1.0)
    if one.jump > _JUMP:
        text = f"{one.jump:.0f} times the usual change, at step {one.jump_at}"
        add("jump", text, one.jump, one.jump_at)
    if one.clipped > _CLIPPED:
        add("clipped", f"{100 * one.clipped:.0f} % of actions at a bound", one.clipped)
    if one.gate_changed > _GATE:
        text = f"{100 * one.gate_changed:.0f} % of the policy's actions were changed"
        add("gate", text, one.gate_changed)
    return found


def _constant(statistics: Mapping[EpisodeKey, EpisodeStatistics]) -> list[Finding]:
    """Elements that are constant in an episode and move in most others."""
    whole = {k: one for k, one in statistics.items() if one.rows > _SHORT}
    if len(whole) < _FEW:
        return []
    still: dict[str, list[EpisodeKey]] = defaultdict(list)
    for key, one in whole.items():
        for name in one.constant:
            still[name].append(key)
    names: dict[EpisodeKey, list[str]] = defaultdict(list)
    for name, keys in still.items():
        if len(keys) <= 0.2 * len(whole):
            for key in keys:
                names[key].append(name)
    return [
        Finding("constant", key, f"{', '.join(mine[:6])} never moved", len(mine))
        for key, mine in names.items()
    ]


def _lags(statistics: Mapping[EpisodeKey, EpisodeStatistics]) -> list[Finding]:
    told = {key: one.lag_steps for key, one in statistics.items() if one.lag_steps >= 0}
    if len(told) < _FEW:
        return []
    usual = float(np.median(list(told.values())))
    return [
        Finding("lag", key, f"{lag:.0f} steps, in most episodes {usual:.0f}", lag - usual)
        for key, lag in told.items()
        if lag - usual >= _LAG_STEPS
    ]


def _outliers(statistics: Mapping[EpisodeKey, EpisodeStatistics]) -> list[Finding]:
    """Means and deviations of actions far from those of the others, by median deviations."""
    found = []
    for keys, features in _by_width(statistics, "actions"):
        if len(keys) < _FEW:
            continue
        middle = np.median(features, axis=0)
        spread = 1.4826 * np.median(np.abs(features - middle), axis=0)
        floor = 1e-3 + 0.05 * np.abs(features).max(axis=0)
        score = (np.abs(features - middle) / np.maximum(spread, floor)).max(axis=1)
        found += [
            Finding(
                "outlier", keys[n], f"actions {score[n]:.1f} deviations from the usual", score[n]
            )
            for n in np.flatnonzero(score > _OUTLIER).tolist()
        ]
    return found


def _alike(
    statistics: Mapping[EpisodeKey, EpisodeStatistics], outcomes: Mapping[EpisodeKey, Outcome]
) -> list[Finding]:
    """Pairs of episodes of nearly the same length, path and actions: neighbours along the direction
    in which all differ the most are compared."""
    found: list[Finding] = []
    for keys, features in _by_width(statistics, "places", "actions"):
        if len(keys) < 2:
            continue
        scale = np.maximum(features.std(axis=0), 1e-9)
        scaled = (features - features.mean(axis=0)) / scale
        # random directions: what is alike lies side by side in all of them
        along = np.random.default_rng(0).normal(size=(scaled.shape[1], 3))
        seen: set[tuple[int, int]] = set()
        for direction in along.T:
            order = np.argsort(scaled @ direction)
            for behind in (1, 2):
                one, other = order[:-behind], order[behind:]
                distance = np.abs(scaled[one] - scaled[other]).max(axis=1)
                for n in np.flatnonzero(distance < _SAME).tolist():
                    seen.add((int(min(one[n], other[n])), int(max(one[n], other[n]))))
        for first, second in sorted(seen):
            a, b = keys[first], keys[second]
            if abs(statistics[a].rows - statistics[b].rows) > 1:
                continue
            found.append(Finding("duplicate", b, f"nearly the same as {a}", other=a))
            labels = {outcomes.get(a, Outcome.UNKNOWN), outcomes.get(b, Outcome.UNKNOWN)}
            if {label.success for label in labels} >= {True, False}:
                text = f"as {a}, which is a {outcomes[a].name.lower()}; this is not"
                found.append(Finding("label_conflict", b, text, other=a))
    return found


def _by_width(
    statistics: Mapping[EpisodeKey, EpisodeStatistics], *names: str
) -> list[tuple[list[EpisodeKey], Array]]:
    """Features of episodes, those with equally many of them together."""
    groups: dict[int, list[tuple[EpisodeKey, list[float]]]] = defaultdict(list)
    for key, one in statistics.items():
        if one.rows <= _SHORT:
            continue
        values = [value for name in names for value in getattr(one, name)]
        if values and np.isfinite(values).all():
            groups[len(values)].append((key, values))
    return [([key for key, _ in g], np.array([v for _, v in g])) for g in groups.values()]
