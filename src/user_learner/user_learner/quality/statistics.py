"""What is measured of each episode of a store, and kept beside it so that it is measured once.

Numbers are read whole; of each camera a few pairs of neighbouring images. The file
``statistics.sqlite`` can be deleted at any time: it is filled again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from user_core.errors import SuiteError
from user_core.specs import Array, RobotSpec
from user_core.types import OBSERVATION, ActedBy, EpisodeKey
from user_learner.replay.layout import RECORDS
from user_learner.replay.meaning import read_meaning
from user_learner.replay.reader import EpisodeInfo, StoreReader
from user_learner.replay.segments import read_rows, segment_directory

FILE = "statistics.sqlite"
#: Changes when what is measured changes: then all is measured again.
VERSION = 3
#: Who decides by what stands as proposed; of these, those that are policies.
_PROPOSING = (ActedBy.POLICY, ActedBy.RANDOM, ActedBy.FALLBACK)
_POLICIES = (ActedBy.POLICY, ActedBy.FALLBACK)
#: Pairs of neighbouring images that are looked at, per camera and episode.
_IMAGE_PAIRS = 8
#: An image of which almost all pixels are darker is black.
_BLACK_LEVEL, _BLACK_SHARE = 16, 0.99
#: Actions closer to a bound than this share of the range are at it.
_AT_BOUND = 1e-3
#: An element that is at a bound in this many steps switches something.
_SWITCHES = 0.95
#: Delays between action and what is seen that are tried, in steps.
_LAGS = 12
#: Steps that a delay is estimated from, at least.
_LAG_STEPS = 24


@dataclass(frozen=True)
class EpisodeStatistics:
    """Of one episode. Shares are 0 to 1; what could not be measured is 0.

    Attributes:
        rows: Rows that were looked at.
        period_s: Median time between two observations, seconds.
        longest_gap: Longest such time, in periods.
        jitter: Median deviation from the period, in periods.
        backwards: Steps by which time went back.
        gate_changed: Share of the steps of policies (also of one that fell in for another) of which another action
            was executed.
        clipped: Share of actions that lie at a bound in some element. An element that hardly ever leaves its
            bounds switches something (a gripper), and is not counted.
        constant: Elements of observations that moved in no row.
        moving: Elements that moved.
        jump: Largest change of an element in one step, in median changes of that element while it moves or, where
            these are larger, around that step. Forces jump at each contact, and are left out.
        jump_at: Step at which it was.
        lag_steps: Delay by which observations follow actions, steps; -1: could not be told.
        frozen: Cameras of which all images looked at are the same.
        black: Cameras of which they are black.
        actions: Means and deviations of the action's elements, for comparing episodes.
        places: First and last observation vector, and a coarse path between, likewise.
    """

    rows: int = 0
    period_s: float = 0.0
    longest_gap: float = 0.0
    jitter: float = 0.0
    backwards: int = 0
    gate_changed: float = 0.0
    clipped: float = 0.0
    constant: tuple[str, ...] = ()
    moving: int = 0
    jump: float = 0.0
    jump_at: int = 0
    lag_steps: float = -1.0
    frozen: tuple[str, ...] = ()
    black: tuple[str, ...] = ()
    actions: tuple[float, ...] = ()
    places: tuple[float, ...] = field(default=(), repr=False)


def measure(columns: Mapping[str, Array], spec: RobotSpec | None) -> EpisodeStatistics:
    """Measure the numbers of an episode; images are not among these columns.

    Args:
        columns: Rows by column, (n, ...).
        spec: What they mean; None: bounds are not known.
    """
    rows = len(columns["reward"])
    if rows < 2:
        return EpisodeStatistics(rows=rows)
    step = ~columns["final"]
    stamps = columns["stamp_ns"].astype(np.int64)
    between = np.diff(stamps) * 1e-9
    period = float(np.median(between))
    scale = period if period > 0 else 1.0
    flat = {
        name: array.reshape(rows, -1).astype(np.float64)
        for name, array in columns.items()
        if name.startswith(OBSERVATION) and array.dtype.kind in "fiu"
    }
    values = np.concatenate(list(flat.values()), axis=1) if flat else np.zeros((rows, 0))
    moves = np.ptp(values, axis=0) > 1e-9 if values.size else np.zeros(0, bool)
    names = [f"{n[len(OBSERVATION) :]}[{i}]" for n, a in flat.items() for i in range(a.shape[1])]
    steady = np.array(
        [not _is_force(n[len(OBSERVATION) :], spec) for n, a in flat.items() for _ in a.T], bool
    )
    jump, jump_at = _jump(values[:, moves & steady])
    action = columns["action"][step].reshape(int(step.sum()), -1).astype(np.float64)
    return EpisodeStatistics(
        rows=rows,
        period_s=max(period, 0.0),
        longest_gap=float(between.max() / scale),
        jitter=float(np.median(np.abs(between - period)) / scale),
        backwards=int((between < 0).sum()),
        gate_changed=_gate_changed(columns, step),
        clipped=_clipped(action, spec),
        constant=tuple(name for name, moving in zip(names, moves.tolist()) if not moving),
        moving=int(moves.sum()),
        jump=jump,
        jump_at=jump_at,
        lag_steps=_lag(action, values[: len(action)][:, moves]),
        actions=tuple(np.concatenate([action.mean(0), action.std(0)]).tolist())
        if len(action)
        else (),
        places=_places(values[:, moves]),
    )


def changed_by_gate(columns: Mapping[str, Array]) -> Array:
    """Where the safety gate let another action through than was wanted, (rows,) bool.

    Only of who decides by proposing: a policy, the policy on the robot that falls in for another one, and random
    warm-up. Beside what a person or a script did, the proposal is what the policy would have done.

    Args:
        columns: Rows of an episode: ``acted_by``, ``action`` and ``proposed_action``.
    """
    proposing = np.isin(columns["acted_by"], _PROPOSING)
    done = columns["action"].reshape(len(proposing), -1)
    proposed = columns["proposed_action"].reshape(done.shape)
    differs = np.abs(done - proposed) > 1e-5 * np.maximum(1.0, np.abs(proposed))
    changed: Array = proposing & differs.any(1)
    return changed


def _gate_changed(columns: Mapping[str, Array], step: Array) -> float:
    by_policy = step & np.isin(columns["acted_by"], _POLICIES)
    return float(changed_by_gate(columns)[by_policy].mean()) if by_policy.any() else 0.0


def _clipped(action: Array, spec: RobotSpec | None) -> float:
    if spec is None or spec.action.low is None or spec.action.high is None or not len(action):
        return 0.0
    low = np.broadcast_to(np.asarray(spec.action.low, np.float64), spec.action.shape).reshape(-1)
    high = np.broadcast_to(np.asarray(spec.action.high, np.float64), spec.action.shape).reshape(-1)
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    if not bounded.any():
        return 0.0
    near = _AT_BOUND * (high - low)[bounded]
    part = action[:, bounded]
    at_bound = (part <= low[bounded] + near) | (part >= high[bounded] - near)
    switches = at_bound.mean(0) >= _SWITCHES
    return float(at_bound[:, ~switches].any(1).mean())


def _is_force(name: str, spec: RobotSpec | None) -> bool:
    known = spec.observation.get(name) if spec is not None else None
    unit = known.unit if known is not None else ""
    return unit in ("N", "N m", "Nm", "N*m", "A") or any(
        word in name for word in ("wrench", "force", "torque", "effort")
    )


def _jump(values: Array) -> tuple[float, int]:
    if values.shape[1] == 0 or len(values) < 8:
        return 0.0, 0
    change = np.abs(np.diff(values, axis=0))
    # What trembles is at rest: an object lies in a simulation's contacts, a sensor has noise, and then
    # a hand carries it away. The largest changes do not say how much it usually moves.
    calm = np.sort(change, axis=0)[: int(0.9 * len(change))].mean(axis=0)
    rest = np.maximum(0.1 * calm, 1e-5 * np.ptp(values, axis=0))
    moving = [c[c > r] for c, r in zip(change.T, rest.tolist())]
    usual = np.array([np.median(c) if len(c) >= 4 else np.inf for c in moving])
    # what moves in few steps only (a gripper) has no usual change, and does not jump
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(change, ((2, 2), (0, 0)), constant_values=np.nan), 5, axis=0
    )  # what sets out fast goes on fast; what jumps, and may jump back, does not
    relative = change / np.maximum(usual, np.nanmedian(around, axis=2))
    largest = relative.max(axis=1)
    at = int(largest.argmax())
    return float(largest[at]), at


def _lag(action: Array, values: Array) -> float:
    """Steps by which changes of observations follow actions: where their correlation is largest,
    for the pair of elements for which it is largest of all."""
    if len(action) < _LAG_STEPS or not values.shape[1] or len(values) < len(action):
        return -1.0
    change = np.diff(values[: len(action)], axis=0)
    for candidate in (action[:-1], np.diff(action, axis=0)):  # velocities, and targets
        best = np.zeros(_LAGS)
        for lag in range(min(_LAGS, len(change) // 2)):
            cause, effect = candidate[: len(change) - lag], change[lag:]
            cause, effect = cause - cause.mean(0), effect - effect.mean(0)
            norm = np.outer(np.linalg.norm(cause, axis=0), np.linalg.norm(effect, axis=0))
            with np.errstate(invalid="ignore", divide="ignore"):
                related = np.abs(cause.T @ effect) / norm
            best[lag] = np.nan_to_num(related).max(initial=0.0)
        if best.max() > 0.5:
            return float(best.argmax())
    return -1.0


def _places(values: Array) -> tuple[float, ...]:
    """Four rows along the episode."""
    if not values.size:
        return ()
    at = np.linspace(0, len(values) - 1, 4).astype(int)
    return tuple(np.round(values[at].reshape(-1), 6).tolist())


def look_at_images(reader: StoreReader, episode: EpisodeInfo) -> tuple[list[str], list[str]]:
    """Cameras of an episode that are frozen, and those that are black."""
    frozen, black = [], []
    for file in reader.layout.files:
        spec = reader.layout.schema.columns.get(file.name)
        if file.name == RECORDS or spec is None or spec.dtype != "uint8" or len(spec.shape) != 3:
            continue
        images = []
        for first in np.linspace(0, max(0, episode.rows - 3), _IMAGE_PAIRS).astype(int):
            images += [
                reader.layout.view(file, raw)[file.name]
                for raw in rows_of(reader, episode, file.name, int(first), 2)
            ]
        if len(images) < 4:
            continue
        name = file.name[len(OBSERVATION) :]
        if all(np.array_equal(images[0], image) for image in images[1:]):
            frozen.append(name)
        if all((image <= _BLACK_LEVEL).mean() >= _BLACK_SHARE for image in images):
            black.append(name)
    return frozen, black


def rows_of(
    reader: StoreReader, episode: EpisodeInfo, file_name: str, first: int, rows: int
) -> list[Array]:
    """Rows of one column file of an episode, as bytes (stride,) each; fewer where some are gone."""
    file = next(file for file in reader.layout.files if file.name == file_name)
    found: list[Array] = []
    for first_row, segment, start, count in episode.extents:
        low, high = max(first, first_row), min(first + rows, first_row + count)
        if low < high:
            path = segment_directory(reader.path, segment)
            found += list(read_rows(path, file, start + low - first_row, high - low))
    return found


def numbers_of(reader: StoreReader, episode: EpisodeInfo) -> dict[str, Array]:
    """The columns of an episode that are no images: what lies in the records."""
    file = next(file for file in reader.layout.files if file.name == RECORDS)
    parts = [
        reader.layout.view(file, read_rows(segment_directory(reader.path, s), file, start, n))
        for _, s, start, n in episode.extents
    ]
    records = np.concatenate(parts) if parts else np.empty(0, file.dtype)
    return {name: records[name] for name in file.dtype.names or ()}


class StatisticsCache:
    """Statistics of the episodes of a store; of one that cannot be written they are kept in memory.

    Args:
        store: Its directory.
    """

    def __init__(self, store: str | Path) -> None:
        self._path = Path(store) / FILE
        #: By episode.
        self.found: dict[EpisodeKey, EpisodeStatistics] = {}
        try:
            self._load()
        except (sqlite3.Error, ValueError, TypeError):  # from another version, or damaged
            with suppress(OSError):  # of a disk that is read-only
                self._path.unlink(missing_ok=True)

    def missing(self, episodes: Sequence[EpisodeInfo]) -> list[EpisodeInfo]:
        """Episodes that were never measured, or have other rows since."""
        return [
            e for e in episodes
            if e.extents
            and (e.key not in self.found or self.found[e.key].rows != sum(x[3] for x in e.extents))
        ]  # fmt: skip

    def update(
        self,
        reader: StoreReader,
        episodes: Sequence[EpisodeInfo],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Measure what was not; return what could not be, for people."""
        missing, skipped = self.missing(episodes), []
        if not missing:
            return []
        schema = reader.schema
        spec = read_meaning(reader.path, schema).spec if schema is not None else None
        fresh: dict[EpisodeKey, EpisodeStatistics] = {}
        for done, episode in enumerate(missing):
            if progress:
                progress(done, len(missing))
            try:
                measured = measure(numbers_of(reader, episode), spec)
                frozen, black = look_at_images(reader, episode)
            except (SuiteError, OSError, KeyError) as error:
                skipped.append(f"episode {episode.key} cannot be read: {error}")
                continue
            values = {**asdict(measured), "frozen": tuple(frozen), "black": tuple(black)}
            fresh[episode.key] = EpisodeStatistics(**values)
            if len(fresh) % 2000 == 0:
                self._save(fresh)
        self._save(fresh)
        return skipped

    def _load(self) -> None:
        if not self._path.exists():
            return
        with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise ValueError("another version")
            for producer, incarnation, number, text in db.execute("SELECT * FROM episodes"):
                values = json.loads(text)
                for name in ("constant", "frozen", "black", "actions", "places"):
                    values[name] = tuple(values[name])
                key = EpisodeKey(producer, incarnation, number)
                self.found[key] = EpisodeStatistics(**values)

    def _save(self, fresh: Mapping[EpisodeKey, EpisodeStatistics]) -> None:
        self.found.update(fresh)
        try:
            with closing(sqlite3.connect(self._path, timeout=10.0)) as db, db:
                db.execute(f"PRAGMA user_version = {VERSION}")
                db.execute(
                    "CREATE TABLE IF NOT EXISTS episodes (producer TEXT, incarnation INTEGER,"
                    " number INTEGER, statistics TEXT, PRIMARY KEY (producer, incarnation, number))"
                )
                db.executemany(
                    "INSERT OR REPLACE INTO episodes VALUES (?, ?, ?, ?)",
                    [
                        (k.producer, k.incarnation, k.number, json.dumps(asdict(v)))
                        for k, v in fresh.items()
                    ],
                )
        except sqlite3.Error:  # a disk that is full or read-only: kept in memory
            return
