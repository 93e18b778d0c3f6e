"""Data of one meaning as data of another: rates, units, order of names, targets and changes.

What can be said exactly is converted, each element of an action by its own kind; everything else is
refused. Groups of an action are found by their names, in any order, and may be left out. Actions are not cut to the
bounds that are wanted: how many lie outside is counted where the result is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from user_core.errors import ConfigError, SchemaMismatch, SpecError, StoreError, SuiteError
from user_core.meaning import meaning_differences
from user_core.specs import ActionKind, Array, Arrays, ArraySpec, RobotSpec
from user_core.types import OBSERVATION, TrajectorySchema
from user_learner.data.source import find_format
from user_learner.replay.index import store_at
from user_learner.replay.meaning import join_meaning, read_meaning, require_meaning
from user_learner.replay.reader import StoreReader
from user_learner.replay.transfer import TransferReport, incomplete, recorded, take
from user_learner.replay.writer import StoreWriter

#: Numbers in a unit, times this, are numbers in SI.
_TO_SI = {
    "rad": ("angle", 1.0), "deg": ("angle", np.pi / 180), "m": ("length", 1.0),
    "cm": ("length", 1e-2), "mm": ("length", 1e-3), "rad/s": ("turning", 1.0),
    "deg/s": ("turning", np.pi / 180), "m/s": ("speed", 1.0), "mm/s": ("speed", 1e-3),
}  # fmt: skip
_JOINTS = "joint_position"
_ACTIONS = ("action", "proposed_action")
#: Of several steps in one: absolute targets are those of the last, changes add up, velocities
#: are averaged; None is a gripper.
_LAST = (ActionKind.JOINT_POSITION, ActionKind.EE_POSE, None)
_SUM = (ActionKind.JOINT_DELTA,)
_MEAN = (ActionKind.JOINT_VELOCITY, ActionKind.EE_TWIST, ActionKind.BASE_TWIST)
_TOLERANCE = 0.02


class Conversion:
    """Turns the columns of an episode into what another spec means.

    Args:
        data: What they mean.
        wanted: What they are to mean.

    Raises:
        SpecError: There is no exact way from one to the other.
    """

    def __init__(self, data: RobotSpec, wanted: RobotSpec) -> None:
        self._data, self._wanted = data, wanted
        self.schema = TrajectorySchema.of(wanted)
        missing = sorted(set(wanted.observation) - set(data.observation))
        if missing:
            raise _impossible("observations", f"no {missing}", sorted(wanted.observation))
        self._observations = {
            name: _element_wise(data.observation[name], spec, f"observation {name!r}")
            for name, spec in wanted.observation.items()
        }
        order = _group_order(data, wanted)
        as_they_are = (*wanted.grippers, *wanted.action.categorical)
        self._action = _element_wise(data.action, wanted.action, "action", as_they_are, order)
        if order is None and data.action.names and wanted.action.names:
            order = np.array([data.action.names.index(name) for name in wanted.action.names])
        if order is None and data.action.shape == wanted.action.shape:
            order = np.arange(wanted.action.size)
        self._chosen = _openings_to_choices(data, wanted, order)
        self._kinds = _kinds_of(wanted)
        #: Elements that are targets where changes are wanted, or the other way round.
        self._turned = _of_another_kind(_kinds_of(data), self._kinds, order)
        self._every = _steps_in_one(data, wanted, self._kinds)
        left = [d for d in meaning_differences(data, wanted) if d.key == "frames"]
        if left:
            raise _impossible(left[0].key, left[0].got, left[0].expected)

    def apply(self, columns: Arrays) -> dict[str, Array]:
        """The columns of a whole episode. Raises SpecError where it does not say enough."""
        found = {n: columns[n] for n in self.schema.columns if n in columns}
        for name, convert in self._observations.items():
            found[OBSERVATION + name] = convert(columns[OBSERVATION + name])
        steps = ~columns["final"]
        for name in _ACTIONS:
            action = self._action(columns[name]).astype(np.float64)
            if self._turned:
                action = self._other_kind(action, found, steps)
            for element, opening, choice in self._chosen:
                action[:, element] = _chosen(action[:, element], steps, opening, choice)
            found[name] = action * steps[:, None]
        if self._every > 1:
            found = self._resampled(found)
        return {n: np.asarray(found[n], spec.dtype) for n, spec in self.schema.columns.items()}

    def _other_kind(self, action: Array, columns: Arrays, steps: Array) -> Array:
        """Joint targets as changes, or back, where the wanted kind is the other one."""
        action, places = action.copy(), _joints_of(self._wanted)
        for i in self._turned:
            name, place = places[i]
            joints = columns.get(OBSERVATION + name)
            if joints is None or joints.ndim != 2 or joints.shape[1] <= place or not len(joints):
                raise SpecError(
                    "targets to changes, or back", got=f"no {name} of element {i} of the action",
                    expected="an observation that says where an episode began",
                )  # fmt: skip
            begin, moved = float(joints[0, place]), action[:, i]
            if self._kinds[i] is ActionKind.JOINT_DELTA:
                action[:, i] = np.diff(moved, prepend=begin)
            else:
                action[:, i] = begin + np.cumsum(moved * steps)
        return action

    def _resampled(self, columns: Arrays) -> dict[str, Array]:
        """One row for this many steps each, and the final observation."""
        steps = np.flatnonzero(~columns["final"])
        starts = np.arange(0, len(steps), self._every)
        first = steps[starts]
        last = steps[np.minimum(starts + self._every, len(steps)) - 1]
        counts = last - first + 1
        keep = np.concatenate([first, np.flatnonzero(columns["final"])])
        found = {name: array[keep].copy() for name, array in columns.items()}
        if not len(first):
            return found
        rows = slice(0, len(first))
        summed = [i for i, kind in enumerate(self._kinds) if kind in _SUM]
        averaged = [i for i, kind in enumerate(self._kinds) if kind in _MEAN]
        for name in _ACTIONS:
            action = columns[name]
            ends = action[last]
            whole = np.add.reduceat(action[steps], starts)
            ends[:, summed] = whole[:, summed]
            ends[:, averaged] = (whole / counts[:, None])[:, averaged]
            found[name][rows] = ends
        found["reward"][rows] = np.add.reduceat(columns["reward"][steps], starts)
        for name in ("terminated", "truncated"):
            found[name][rows] = columns[name][last]
        return found


def convert(
    source: str | Path, target: StoreWriter, wanted: RobotSpec, data: RobotSpec | None = None
) -> TransferReport:
    """Take the episodes of a store into another one, converted to what is wanted.

    Args:
        source: The store; only read.
        target: Where to; new, or of the meaning that is wanted.
        wanted: What the numbers are to mean.
        data: What they mean; None for what the store says.

    Raises:
        StoreError: There is no store, or nobody knows what it means.
        SpecError: There is no exact way from one meaning to the other.
        SchemaMismatch: ``target`` has data of another meaning.
    """
    report = TransferReport()
    with closing(StoreReader(source)) as reader:
        known = data or read_meaning(source, reader.layout.schema).spec
        if known is None:
            raise StoreError(
                f"conversion of {source}", got="a store of which nobody knows what it means",
                expected="a known meaning", hint="Give a spec with --from SPEC.json",
            )  # fmt: skip
        conversion = Conversion(known, wanted)
        report.notes += join_meaning(target.path, target.schema, wanted, f"{source}, converted")
        for episode in reader.episodes():
            reason = incomplete(reader, episode)
            if reason:
                report.skipped.append(f"episode {episode.key}: {reason}")
                continue
            one = recorded(reader, episode)
            columns = conversion.apply(one.columns)
            result = one.result
            if result is not None:
                length = len(columns["final"]) - int(columns["final"].sum())
                result = replace(result, length=length)
            one = replace(one, columns=columns, result=result, first_row=0)
            take(target, one, conversion.schema.hash, report)
        target.commit()
    return report


def require_data_of(store: Path, spec: RobotSpec, what: str, accepted: Sequence[str] = ()) -> None:
    """Whether what lies in a store is what a robot shows and does, so that one policy learns from both.

    Args:
        store: Its directory; it is only read. A new one, to which nothing ever came, fits.
        spec: The robot's.
        what: The data, for messages: demonstrations, an older store.
        accepted: Differences in meaning that a person has accepted, by name.

    Raises:
        ConfigError: It is no store.
        StoreError: It cannot be read.
        SchemaMismatch: Its arrays have other names, shapes or types, or mean other things.
    """
    if store_at(store) is None:
        _refuse_another_format(store, what)
    with closing(StoreReader(store, with_extents=False)) as reader:
        schema = reader.schema
    if schema is None:
        return
    mine = {name: _shape_of(one) for name, one in schema.required.columns.items()}
    wanted = {
        name: _shape_of(one) for name, one in TrajectorySchema.of(spec).required.columns.items()
    }
    wrong = [n for n in sorted(mine.keys() | wanted.keys()) if mine.get(n) != wanted.get(n)]
    wrong = [name for name in wrong if name != "proposed_action" or "action" not in wrong]
    if wrong:
        raise SchemaMismatch(
            f"{what} {store}, for the robot {spec.robot!r}",
            got="; ".join(f"{_column(n)} {mine.get(n, 'is not there')}" for n in wrong),
            expected="; ".join(f"{_column(n)} {wanted.get(n, 'left out')}" for n in wrong),
            hint=_how_to_fit(store, schema, spec),
        )
    require_meaning(store, schema, spec, accepted, "data.accept_differences: ")


def _refuse_another_format(place: Path, what: str) -> None:
    """Say what a place is that is no store. Raises ConfigError."""
    try:
        found, hint = (
            f"data of the format {find_format(place).name}",
            f"`user data import {place} --into STORE`",
        )
        hint += " makes a store of them"
    except SuiteError as error:
        found, hint = str(error.got or error), error.hint
    raise ConfigError(f"{what} {place}", got=found, expected="a replay store", hint=hint)


def _shape_of(spec: ArraySpec) -> str:
    return f"{spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}"


def _column(name: str) -> str:
    return name.removeprefix(OBSERVATION)


def _how_to_fit(store: Path, schema: TrajectorySchema, spec: RobotSpec) -> str:
    """What can be done about arrays that are not those of a robot."""
    known = read_meaning(store, schema).spec
    anew = "Record them anew with this robot as it is now, or start the robot with the cameras and image size of the data"
    if known is None:
        return anew
    try:
        Conversion(known, spec)
    except SpecError:
        return anew
    return (
        f"`user replay convert {store} --into NEW --like WHAT` makes a store that fits; WHAT is a run or a "
        "store of this robot, of one episode even"
    )


def _kinds_of(spec: RobotSpec) -> list[ActionKind | None]:
    """What each element of an action does; None for a gripper, which opens or closes."""
    kinds: list[ActionKind | None] = [spec.action_kind] * spec.action.size
    if spec.action_groups:
        kinds = [group.kind for group in spec.action_groups for _ in range(group.size)]
    for gripper in spec.grippers:
        kinds[gripper] = None
    return kinds


def _joints_of(spec: RobotSpec) -> list[tuple[str, int]]:
    """Where the joint of each element of an action is shown: an observation, and a place in it."""
    places: list[tuple[str, int]] = []
    groups = [(f"{group.name}.{_JOINTS}", group.size) for group in spec.action_groups]
    for name, size in groups or [(_JOINTS, spec.action.size)]:
        place = 0
        for _ in range(size):
            places.append((name, place))
            place += len(places) - 1 not in spec.grippers
    return places


def _group_order(data: RobotSpec, wanted: RobotSpec) -> Array | None:
    """Elements of the data's actions in the order of the wanted groups, found by the names of the
    groups; None where names of elements decide, or there are no groups on both sides."""
    if not (data.action_groups and wanted.action_groups):
        return None
    if data.action.names and wanted.action.names:
        return None
    begin, starts = 0, dict[str, tuple[int, int]]()
    for group in data.action_groups:
        starts[group.name] = (begin, group.size)
        begin += group.size
    found: list[int] = []
    for group in wanted.action_groups:
        start, size = starts.get(group.name, (0, -1))
        if size != group.size:
            raise _impossible("action groups", _words(data), _words(wanted))
        found += range(start, start + size)
    return np.array(found)


def _words(spec: RobotSpec) -> str:
    return ", ".join(f"{g.name}: {g.size} x {g.kind.value}" for g in spec.action_groups)


def _element_wise(
    data: ArraySpec,
    wanted: ArraySpec,
    what: str,
    without_unit: tuple[int, ...] = (),
    order: Array | None = None,
) -> Callable[[Array], Array]:
    """Rows of one array in the order and unit of another; grippers have no unit."""
    if order is not None:
        pass
    elif data.names and wanted.names and data.names != wanted.names:
        unknown = [name for name in wanted.names if name not in data.names]
        if unknown:
            raise _impossible(f"names of {what}", list(data.names), list(wanted.names))
        order = np.array([data.names.index(name) for name in wanted.names])
    elif data.shape != wanted.shape:
        raise _impossible(f"shape of {what}", data.shape, f"{wanted.shape}, or names for both")
    factor = 1.0
    if data.unit and wanted.unit and data.unit != wanted.unit:
        mine, yours = _TO_SI.get(data.unit), _TO_SI.get(wanted.unit)
        if mine is None or yours is None or mine[0] != yours[0]:
            raise _impossible(f"unit of {what}", data.unit, wanted.unit)
        factor = mine[1] / yours[1]

    def apply(array: Array) -> Array:
        taken = array if order is None else array[:, order]
        if factor == 1.0:
            return taken
        scaled: Array = taken.astype(np.float64) * factor
        scaled[..., list(without_unit)] = taken[..., list(without_unit)]
        return scaled

    return apply


_Range = tuple[float, float]


def _openings_to_choices(
    data: RobotSpec, wanted: RobotSpec, order: Array | None
) -> list[tuple[int, _Range, _Range]]:
    """Grippers whose openings become choices: the element, its range as an opening, and the choices
    that close and open it.

    Raises:
        SpecError: Other choices differ.
    """
    order = np.arange(data.action.size) if order is None else order
    counts = dict(zip(data.action.categorical, data.action.counts, strict=True))
    mine = {new: counts[old] for new, old in enumerate(order.tolist()) if old in counts}
    theirs = dict(zip(wanted.action.categorical, wanted.action.counts, strict=True))
    low, high = data.action.low_array, data.action.high_array
    first, last = wanted.action.low_array, wanted.action.high_array
    found = []
    for i in sorted(theirs.keys() - mine.keys()):
        if i in wanted.grippers and int(order[i]) in data.grippers and data.action.low is not None:
            opening = (float(low[order[i]]), float(high[order[i]]))
            found.append((i, opening, (float(first[i]), float(last[i]))))
            mine[i] = theirs[i]
    if mine != theirs:
        raise _impossible("choices, by element", mine, theirs)
    return found


def _chosen(values: Array, steps: Array, opening: _Range, choice: _Range) -> Array:
    """Choices that close and open, of openings (n,) in rows that are steps.

    Raises:
        SpecError: A gripper was told to open by a part.
    """
    low, high = opening
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    between = float(np.abs(share - np.rint(share))[steps].max(initial=0.0))
    if between > _TOLERANCE:
        raise _impossible(
            "openings of a gripper to choices", "openings between", "closed and open ones"
        )
    return np.where(np.rint(share) > 0, choice[1], choice[0])


def _of_another_kind(
    mine: Sequence[ActionKind | None], wanted: Sequence[ActionKind | None], order: Array | None
) -> list[int]:
    """Elements of an action whose kind is another one than wanted; None is a gripper.

    Raises SpecError unless one is a target of a joint and the other its change: nothing else can be made of each other.
    """
    if order is not None:
        mine = [mine[i] for i in order]
    joints = {ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA}
    found = [i for i in range(len(wanted)) if mine[i] is not wanted[i]]
    for i in found:
        if {mine[i], wanted[i]} != joints:
            got, expected = (getattr(kind, "value", "a gripper") for kind in (mine[i], wanted[i]))
            raise _impossible(f"action kind of element {i}", got, expected)
    return found


def _steps_in_one(data: RobotSpec, wanted: RobotSpec, kinds: Sequence[ActionKind | None]) -> int:
    """How many steps of the data one that is wanted takes together.

    Raises SpecError where that is no whole number, or where it is unknown what actions of a kind make together.
    """
    ratio = wanted.period_s / data.period_s
    every = round(ratio)
    if every < 1 or abs(ratio / every - 1) > _TOLERANCE:
        raise _impossible("period", f"{data.period_s:.4g} s", f"{wanted.period_s:.4g} s")
    for kind in kinds if every > 1 else ():
        if kind is not None and kind not in _LAST + _SUM + _MEAN:
            raise _impossible(f"period of actions of kind {kind.value}", ratio, "the same")
    return every


def _impossible(what: str, got: object, expected: object) -> SpecError:
    return SpecError(
        f"conversion of data: {what}", got=got, expected=expected,
        hint="This cannot be converted exactly; record anew, or convert it by hand",
    )  # fmt: skip
