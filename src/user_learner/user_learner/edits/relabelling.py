"""Judging stored data anew: any reward plugin, into a column of rewards with its provenance."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from user_core.errors import PluginFault, SuiteError, in_words, is_of_a_person
from user_core.interfaces import Reward
from user_core.plugins import PluginChoice
from user_core.specs import Array
from user_core.types import LARGEST_REWARD, OBSERVATION, Outcome, TaskFeedback
from user_learner.edits.columns import UNKNOWN_SUCCESS, VALUE, ColumnWriter, Provenance
from user_learner.edits.log import default_author
from user_learner.edits.view import EditedEpisodes
from user_learner.replay.reader import EpisodeInfo

#: Files that parameters name are hashed up to this size, bytes.
_HASHED_BYTES = 2**31
#: Steps that are judged between two commits, at least.
_STEPS_AT_ONCE = 20_000


@dataclass
class RelabelReport:
    """What relabelling did.

    Attributes:
        episodes: Episodes in which steps were judged.
        steps: Steps that were.
        before: Episodes that had been judged already.
        changed: Steps that have another reward than the recorded one.
        successes: Episodes in which some step was judged a success.
        skipped: Episodes that could not be judged, and why.
    """

    episodes: int = 0
    steps: int = 0
    before: int = 0
    changed: int = 0
    successes: int = 0
    skipped: list[str] = field(default_factory=list)


def relabel(
    view: EditedEpisodes,
    choice: PluginChoice,
    column: str,
    author: str = "",
    reason: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> RelabelReport:
    """Judge all steps that a column lacks, and commit as it goes; stored data stays as it is.

    A robot's own judgement (:class:`TaskFeedback`) is what was recorded: the recorded reward, and on
    the last step the recorded end and outcome. Labels of people are not part of it.

    Raises:
        SpecError: The column is of another reward or other parameters, or its name is none.
        PluginError: There is no such reward.
    """
    reward: Reward = choice.build("rewards", path="reward")
    reader, report = view.reader, RelabelReport()
    provenance = Provenance(
        name=column,
        plugin=choice.plugin,
        params=dict(choice.params),
        author=author or default_author(),
        reason=reason,
        created_ns=time.time_ns(),
        store=reader.meta.store,
        files=_hashes(choice.params),
    )
    episodes = [episode.info for episode in view.episodes(excluded=True)]
    with ColumnWriter(view.log.path.parent, provenance) as writer:
        pending = 0
        for done, episode in enumerate(episodes):
            if progress:
                progress(done, len(episodes))
            first = writer.column.judged(episode.key)
            if first >= episode.rows - 1:
                report.before += 1
                continue
            try:
                values = _judge(reader.read_episode(episode), episode, first, reward, report)
            except (SuiteError, OSError) as error:
                report.skipped.append(f"episode {episode.key}: {error}")
                continue
            for first_step, part in values:
                writer.add(episode.key, first_step, part)
                pending += len(part)
            report.episodes += bool(values)
            if pending > _STEPS_AT_ONCE:
                writer.commit()
                pending = 0
        writer.commit()
    return report


def _judge(
    columns: dict[str, Array],
    episode: EpisodeInfo,
    first: int,
    reward: Reward,
    report: RelabelReport,
) -> list[tuple[int, Array]]:
    """Values of the steps of each part of an episode whose rows follow each other, from ``first`` on."""
    found: list[tuple[int, Array]] = []
    at, success = 0, False
    observations = {n: c for n, c in columns.items() if n.startswith(OBSERVATION)}
    for first_row, rows in _joined(episode):
        begin = max(first - first_row, 0)
        values = np.zeros(max(0, rows - 1 - begin), VALUE)
        reward.reset()
        for n in range(rows - 1 if begin < rows - 1 else 0):  # from the first: it may remember
            row = at + n
            before = {k[len(OBSERVATION) :]: c[row] for k, c in observations.items()}
            after = {k[len(OBSERVATION) :]: c[row + 1] for k, c in observations.items()}
            task = _feedback(columns, row, episode)
            outcome = _asked(reward, before, columns["action"][row], after, task)
            if n < begin:
                continue
            told = UNKNOWN_SUCCESS if outcome.success is None else int(outcome.success)
            values[n - begin] = (outcome.reward, outcome.terminated, told)
            success |= outcome.success is True
        if len(values):
            recorded = columns["reward"][at + begin : at + rows - 1]
            report.changed += int((np.abs(recorded - values["reward"]) > 1e-6).sum())
            report.steps += len(values)
            found.append((first_row + begin, values))
        at += rows
    report.successes += success
    return found


def _asked(reward: Reward, before: Any, action: Array, after: Any, task: TaskFeedback) -> Any:
    try:
        outcome = reward(before, action, after, task)
    except SuiteError:
        raise
    except BaseException as error:
        if is_of_a_person(error):
            raise
        raise PluginFault(f"reward {type(reward).__name__}", got=in_words(error)) from error
    if not math.isfinite(outcome.reward) or abs(outcome.reward) > LARGEST_REWARD:
        raise PluginFault(
            f"reward {type(reward).__name__}", got=outcome.reward, expected="a finite number"
        )
    return outcome


def _feedback(columns: dict[str, Array], row: int, episode: EpisodeInfo) -> TaskFeedback:
    ended = bool(columns["terminated"][row] or columns["truncated"][row])
    outcome = episode.result.outcome if episode.result is not None else Outcome.UNKNOWN
    return TaskFeedback(
        reward=float(columns["reward"][row]),
        terminated=bool(columns["terminated"][row]),
        truncated=bool(columns["truncated"][row]),
        success=outcome.success if ended else None,
    )


def _joined(episode: EpisodeInfo) -> list[tuple[int, int]]:
    """First row and rows of each part of an episode without a gap."""
    parts: list[tuple[int, int]] = []
    for first_row, _, _, rows in episode.extents:
        if parts and parts[-1][0] + parts[-1][1] == first_row:
            parts[-1] = (parts[-1][0], parts[-1][1] + rows)
        else:
            parts.append((first_row, rows))
    return parts


def _hashes(params: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the files that parameters name, by name: a model that was trained again is another."""
    found: dict[str, str] = {}
    for value in params.values():
        if isinstance(value, Mapping):
            found.update(_hashes(value))
        elif isinstance(value, (list, tuple)):
            for item in value:
                found.update(_hashes(item) if isinstance(item, Mapping) else {})
        elif isinstance(value, str) and 0 < len(value) < 4096:
            path = Path(value)
            try:
                if path.is_file() and path.stat().st_size < _HASHED_BYTES:
                    found[value] = hashlib.sha256(path.read_bytes()).hexdigest()
            except (OSError, ValueError):
                continue
    return found
