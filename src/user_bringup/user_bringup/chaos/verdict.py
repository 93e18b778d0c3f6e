"""What a run has left behind, judged: outboxes, store, checkpoints, policy versions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from user_actor.outbox.storage import OutboxDatabase
from user_bringup.chaos.evidence import ChunkName, checksum
from user_core.codecs.weights import content_hash, read_arrays, read_version
from user_core.command_line import many
from user_core.errors import SuiteError
from user_core.types import Outcome
from user_learner.replay import StoreReader
from user_learner.replay.layout import LogEntry
from user_learner.replay.maintenance import verify
from user_learner.training.checkpoint import CheckpointStore

#: A version that is so old has reached the robot, whatever happened.
_POLICY_PATIENCE_S = 45.0


@dataclass(frozen=True)
class Check:
    """One promise: whether it was kept, and what was looked at."""

    name: str
    good: bool
    detail: str


@dataclass(frozen=True)
class Count:
    """Steps over all outboxes and the store.

    Attributes:
        committed: Steps ever committed by the outboxes.
        stored: Steps in the store.
        waiting: Steps in chunks that the store does not have and the outboxes hold.
        aside: Chunks that were set aside, for instance because the store refused them.
    """

    committed: int
    stored: int
    waiting: int
    aside: int


def judge(
    run_dir: Path, seen: Mapping[ChunkName, tuple[int, int]], versions: Mapping[int, str]
) -> list[Check]:
    """Judge a run that has ended.

    Args:
        run_dir: Its folder.
        seen: Rows and checksum of the chunks that a graph recorder saw on their way.
        versions: Content hash by number of the policy versions that it saw announced.
    """
    checks = []
    for name, check in (
        ("every committed step is stored once", _steps),
        ("the store is sound", _store),
        ("episodes are whole and in order", _episodes),
        ("what was sent is what is stored", lambda folder: _contents(folder, seen)),
        ("checkpoints can be loaded", _checkpoints),
        ("policy versions are complete and count upward", lambda folder: _versions(folder, versions)),
    ):  # fmt: skip
        checks.append(_guarded(name, check, run_dir))
    return checks


def _guarded(name: str, check: Callable[[Path], tuple[bool, str]], run_dir: Path) -> Check:
    try:
        return Check(name, *check(run_dir))
    except (SuiteError, OSError, ValueError, KeyError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def count_steps(run_dir: Path) -> Count:
    """Where every committed step is. Raises SuiteError, OSError."""
    reader = StoreReader(run_dir / "replay")
    try:
        # What is in both was stored, and its ack did not come before the end.
        acknowledged = {
            (producer, incarnation): sequence
            for producer, incarnation, sequence in reader.connection.execute(
                "SELECT producer, incarnation, sequence FROM producers"
            )
        }
        stored = sum(reader.meta.steps.values())
    finally:
        reader.close()
    committed = waiting = aside = 0
    for file in sorted((run_dir / "outbox").glob("*/outbox.sqlite")):
        database = OutboxDatabase(file, file.parent.name)
        try:
            have = acknowledged.get((database.producer, database.incarnation), 0)
            for entry in database.upcoming(have, 1_000_000):
                chunk = database.read(entry.sequence)
                waiting += int((~chunk.columns["final"]).sum())
            committed += database.steps
            aside += database.aside
        finally:
            database.close()
    return Count(committed, stored, waiting, aside)


def _steps(run_dir: Path) -> tuple[bool, str]:
    count = count_steps(run_dir)
    lost = count.committed - count.stored - count.waiting
    what = f"{lost} lost" if lost > 0 else f"{-lost} doubled" if lost else "0 lost, 0 doubled"
    return lost == 0 and count.aside == 0 and count.committed > 0, (
        f"{count.committed} committed, {count.stored} stored, {count.waiting} on the way, "
        f"{many(count.aside, 'chunk')} set aside: {what}"
    )


def _store(run_dir: Path) -> tuple[bool, str]:
    report = verify(run_dir / "replay")
    text = f"{many(report.rows, 'row')}, {many(report.chunks, 'chunk')}, {report.segments} segments"
    trouble = [*report.errors, *report.unread, *report.warnings]
    return report.ok and not report.damages, "; ".join([text, *trouble[:3]])


def _episodes(run_dir: Path) -> tuple[bool, str]:
    reader = StoreReader(run_dir / "replay")
    try:
        count, unfinished, wrong, last = 0, 0, [], None
        for episode in reader.episodes():
            count, last = count + 1, episode
            if episode.gaps:
                wrong.append(f"{episode.key}: {many(episode.gaps, 'row')} are missing")
            if episode.result is None:
                unfinished += 1
                continue
            whole = episode.result.outcome is not Outcome.UNFINISHED
            if episode.rows != episode.result.length + whole:
                wrong.append(f"{episode.key}: {many(episode.rows, 'row')}, {episode.result}")
            columns = reader.read_episode(episode)
            # A step that began without a newer observation shows the one before again.
            acted_ns = columns["action_stamp_ns"][~columns["final"]]
            if (np.diff(columns["stamp_ns"]) < 0).any() or (np.diff(acted_ns) <= 0).any():
                wrong.append(f"{episode.key}: times go back")
        actors = len(list((run_dir / "outbox").glob("*/outbox.sqlite")))
        if unfinished > actors:
            wrong.append(
                f"{many(unfinished, 'episode')} without an end, {actors} actors; {last and last.key}"
            )
    finally:
        reader.close()
    return not wrong and count > 0, "; ".join([f"{many(count, 'episode')}", *wrong[:3]])


def _contents(run_dir: Path, seen: Mapping[ChunkName, tuple[int, int]]) -> tuple[bool, str]:
    """Compare the rows in the store, chunk by chunk, with what was seen on the wire."""
    reader = StoreReader(run_dir / "replay")
    compared, wrong = 0, []
    try:
        pieces: dict[ChunkName, list[tuple[int, LogEntry]]] = defaultdict(list)
        for (segment,) in reader.connection.execute("SELECT id FROM segments").fetchall():
            for entry in reader.log(segment):
                if entry.chunk is not None:
                    name = (entry.chunk.producer, entry.chunk.incarnation, entry.chunk.sequence)
                    pieces[name].append((segment, entry))
        for name, parts in pieces.items():
            if name not in seen or not parts[0][1].total:
                continue
            parts.sort(key=lambda part: part[1].offset)
            read = [reader.read(segment, e.start, e.rows) for segment, e in parts]
            columns = {key: np.concatenate([part[key] for part in read]) for key in read[0]}
            compared += 1
            if checksum(columns) != seen[name]:
                wrong.append(f"{name}: {many(checksum(columns)[0], 'row')} differ from those sent")
    finally:
        reader.close()
    enough = compared > 0 or not seen
    return not wrong and enough, "; ".join(
        [f"{compared} of {many(len(pieces), 'chunk')} compared byte by byte", *wrong[:3]]
    )


def _checkpoints(run_dir: Path) -> tuple[bool, str]:
    wrong, loaded, newest = [], 0, -1
    folder = run_dir / "learner" / "checkpoints"
    for file in sorted(folder.glob("checkpoint-*.safetensors")):
        try:
            _, metadata = read_arrays(file)
            identity = json.loads(metadata["content"])["identity"]
            newest = CheckpointStore(folder, identity).read(file).info.update
            loaded += 1
        except (SuiteError, KeyError) as error:
            wrong.append(str(error))
    wrong += [f"refused: {file.name}" for file in (folder / "refused").glob("*.safetensors*")]
    return not wrong and loaded > 0, "; ".join(
        [f"{loaded} loaded, the newest of update {newest}", *wrong[:3]]
    )


def _versions(run_dir: Path, versions: Mapping[int, str]) -> tuple[bool, str]:
    learner = run_dir / "learner"
    counter = int((learner / "policy_version").read_text())
    newest = read_version(learner / "policy.safetensors")
    wrong = []
    if newest.number > counter:
        wrong.append(f"the newest is {newest.number}, the counter says {counter}")
    if versions.get(newest.number, content_hash(newest)) != content_hash(newest):
        wrong.append(f"version {newest.number} in the file is not the one that was announced")
    if versions and max(versions) > counter:
        wrong.append(f"{max(versions)} was announced, the counter says {counter}")
    states = [line for line in _history(run_dir) if line["kind"] == "state"]
    acted = [line["actor_version"] for line in states if line.get("actor_version")]
    if not acted:
        wrong.append("no version ever acted")
    elif max(acted) > counter:
        wrong.append(f"{max(acted)} acted, the counter says {counter}")
    elif max(acted) < (due := _version_of(states, states[-1]["t"] - _POLICY_PATIENCE_S)):
        wrong.append(
            f"{max(acted)} was the last to act, {due} was there {_POLICY_PATIENCE_S:g} s before"
        )
    return not wrong, "; ".join(
        [f"{counter} made, {len(versions)} seen, {max(acted, default=0)} the last to act", *wrong]
    )


def _version_of(states: Sequence[Mapping[str, Any]], at_s: float) -> int:
    """The learner's newest version at a time."""
    made = [
        line["policy_version"] for line in states if line["t"] <= at_s and "policy_version" in line
    ]
    return max(made, default=0)


def _history(run_dir: Path) -> list[dict[str, Any]]:
    from user_bringup.monitor.history import read_history

    file = run_dir / "history.jsonl"
    return read_history(file) if file.exists() else []
