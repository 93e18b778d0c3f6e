"""What the arrays of a data set are to a robot: written in YAML, proposed from what the data say.

Where data and robot use other units, rates, orders or kinds of actions, the mapping says both sides
and :class:`~user_learner.data.conversion.Conversion` goes from one to the other, exactly or not at
all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from user_core.codecs.trajectory import RecordedEpisode
from user_core.config import Config, from_mapping, setting, to_mapping, yaml_value
from user_core.errors import CodecError, ConfigError, SpecError
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import (
    OBSERVATION,
    ActedBy,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    RewardSource,
    TrajectorySchema,
)
from user_learner.data.conversion import Conversion
from user_learner.data.frames import Laid, LayoutName, TransformMapping, between, usual_of
from user_learner.data.source import Description, Field, SourceEpisode

#: Producer of episodes that came from elsewhere: their numbers are digests of what they hold.
PRODUCER = "imported"
_IMAGES = "observation.images."
#: What stands where else the name of a field stands.
_WORDS = {"always", "never", "unknown", "success"}


class ArrayMapping(Config):
    """An array of the robot, from fields of the data."""

    fields: tuple[str, ...] = setting(
        doc="Fields of the data, joined in this order where there are several.", min_length=1
    )
    select: tuple[int | str, ...] = setting(
        (), doc="Elements to take, by place or name, in this order; empty for all."
    )
    names: tuple[str, ...] = setting((), doc="Names of the elements, where the data has none.")
    unit: str = setting("", doc="Unit of the data, for instance deg.")
    to_unit: str = setting("", doc="Unit that is wanted; empty for that of the data.")
    dtype: str = setting("", doc="Type of the numbers; empty for that of the data.")
    low: float | tuple[float, ...] | None = setting(None, doc="Smallest value there may be.")
    high: float | tuple[float, ...] | None = setting(None, doc="Largest value there may be.")
    layout: LayoutName | Literal[""] = setting(
        "",
        doc="What the first numbers are, so that rotations and frames can be converted; what follows "
        "them (a gripper) stays as it is. pose: x y z and a quaternion x y z w; pose_wxyz; pose_rpy, roll "
        "pitch yaw about the fixed axes x, y, z; pose_rotvec; pose_6d, the first two columns of the "
        "matrix, pose_6d_rows the first two rows; pose_columns and pose_rows, a matrix of 16 numbers; "
        "point; quaternion and quaternion_wxyz; twist; wrench; change, of a pose in one step, as a "
        "rotation vector, and change_rpy.",
    )
    to_layout: LayoutName | Literal[""] = setting(
        "",
        doc="Another of the same; empty: pose, point, quaternion (x y z w), twist, wrench, change.",
    )
    length: Literal["m", "cm", "mm"] = setting("m", doc="Of a layout: unit of lengths in the data.")
    angle: Literal["rad", "deg"] = setting("rad", doc="Of a layout: unit of angles in the data.")
    frame: str = setting("", doc="Frame that the data are in, for instance base_link.")
    to_frame: str = setting(
        "", doc="Frame that is wanted; transforms says where the data's is. Empty: the same."
    )
    taken_at: Literal["auto", "origin", "tool"] = setting(
        "auto",
        doc="Twists and wrenches in another frame: origin: the velocity is that of the body at the "
        "frame's origin, the torque is about it, so that another origin changes them. tool: both "
        "belong to the tool's own point, and only the axes turn. auto: tool for twists, origin for "
        "wrenches.",
    )
    crop: tuple[int, ...] = setting((), doc="Part of an image: top, left, height, width.")
    size: tuple[int, ...] = setting((), doc="Height and width that an image is brought to.", gt=0)

    def validate(self) -> None:
        """Sizes have two numbers, crops four."""
        if len(self.size) not in (0, 2) or len(self.crop) not in (0, 4):
            raise ConfigError(
                "image", got=f"size {self.size}, crop {self.crop}",
                expected="size [height, width], crop [top, left, height, width]",
            )  # fmt: skip
        fields = list(self.fields)
        said = {
            "to_layout": bool(self.to_layout), "to_frame": bool(self.to_frame),
            "length": self.length != "m", "angle": self.angle != "rad",
            "taken_at": self.taken_at != "auto",
        }  # fmt: skip
        asked = [key for key, is_said in said.items() if is_said]
        if asked and not self.layout:
            raise ConfigError(
                f"{', '.join(asked)} of {fields}", got="no layout",
                expected="what the numbers are",
                hint="layout: pose, pose_rpy, twist, ...: how they turn depends on it",
            )  # fmt: skip
        if self.to_frame and not self.frame:
            raise ConfigError(
                f"to_frame of {fields}", got="no frame", expected="the frame that the data are in"
            )
        if self.layout and (self.unit or self.to_unit):
            raise ConfigError(
                f"unit of {fields}", got=self.unit or self.to_unit,
                expected="length and angle: a layout has both",
            )  # fmt: skip


class ActionMapping(ArrayMapping):
    """The action, from fields of the data."""

    kind: ActionKind = setting(ActionKind.GENERIC, doc="What its numbers do.")
    to_kind: ActionKind | None = setting(
        None, doc="What they shall do: joint targets can become changes, and back."
    )
    grippers: tuple[int, ...] = setting((), doc="Elements that are openings of grippers.")

    def validate(self) -> None:
        """What the numbers do, and how they are laid out, must be of one kind."""
        super().validate()
        wanted = _LAYOUT_OF_KIND.get(self.to_kind or self.kind)
        got = usual_of(self.layout, self.to_layout) if self.layout else None
        if got is not None and wanted != got and self.kind is not ActionKind.GENERIC:
            raise ConfigError(
                f"layout of an action of kind {self.kind.value}", got=got,
                expected=wanted or "none: its numbers are of joints",
                hint="kind: generic takes any layout, and says nothing of what the numbers do",
            )  # fmt: skip


#: How the actions of a kind are laid out, and observations of a standard name.
_LAYOUT_OF_KIND: dict[ActionKind, LayoutName] = {
    ActionKind.EE_POSE: "pose", ActionKind.EE_DELTA: "change", ActionKind.EE_TWIST: "twist",
}  # fmt: skip
_LAYOUT_OF_NAME: dict[str, LayoutName] = {
    "tcp_pose": "pose", "tcp_velocity": "twist", "wrench": "wrench",
}  # fmt: skip
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
_RADIANS = {"rad": 1.0, "deg": np.pi / 180}


class RewardMapping(Config):
    """The reward, where the data has a field of it or has none."""

    field: str = setting("", doc="Field of the data; empty where there is none.")
    each_step: float = setting(0.0, doc="Without a field: reward of each step.")
    at_success: float = setting(1.0, doc="Without a field: what the last step gets on success.")


class DataMapping(Config):
    """A mapping: what of a data set becomes what of a robot."""

    format: str = setting("", doc="Format of the data; empty to find out.")
    options: dict[str, Any] = setting(factory=dict, doc="What only this format understands.")
    robot: str = setting(doc="Name of the kind of robot.", min_length=1)
    period_s: float = setting(doc="Time between two steps of the data.", unit="s", gt=0)
    to_period_s: float | None = setting(
        None, doc="Period that is wanted: a whole multiple.", unit="s", gt=0
    )
    task: str = setting("", doc="Name of the task; empty for what the data say.")
    source: Literal["demonstration", "online", "evaluation"] = setting(
        "demonstration", doc="What the episodes count as."
    )
    observation: dict[str, ArrayMapping] = setting(doc="Arrays of an observation by name.")
    action: ActionMapping = setting(doc="The action.")
    transforms: dict[str, TransformMapping] = setting(
        factory=dict, doc="Where frames are that are fixed to others, by name."
    )
    reward: RewardMapping = setting(factory=RewardMapping, doc="The reward.")
    success: str = setting(
        "unknown",
        doc="always, never, unknown (what the format says, if it does), or a field: true in any row is success.",
    )
    terminated: str = setting(
        "success", doc="Field that ends an episode for good; success: where it succeeded; never."
    )
    final_observation: Literal["auto", "last", "repeat"] = setting(
        "auto",
        doc="Where the data has none. last: the last observation, whose step is left out. repeat: the "
        "last observation again. auto: repeat after a step that terminated, where nobody looks at it, "
        "else last.",
    )


def load_mapping(path: str | Path) -> DataMapping:
    """Read a mapping from YAML. Raises ConfigError."""
    try:
        data = yaml_value(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"mapping {path}", got=str(error), expected="YAML") from error
    return from_mapping(DataMapping, data or {}, str(path))


def propose(description: Description) -> DataMapping:
    """A mapping that takes all that a data set has, as it is.

    What the numbers of the action do is not guessed: their kind is ``generic`` until a person says.

    Raises:
        CodecError: There is no action.
    """
    roles = description.roles
    if "action" not in roles:
        raise CodecError(
            f"data of format {description.format}", got=f"fields {sorted(description.fields)}",
            expected="one that is the action", hint="Write a mapping that says which it is",
        )  # fmt: skip
    taken = set(roles.values())
    observation: dict[str, ArrayMapping] = {}
    for name, field in description.fields.items():
        if name in taken or not (field.is_observation or field.is_image):
            continue
        if not field.is_image and np.dtype(field.dtype).kind not in "biuf":
            continue
        observation[_short(name, field)] = ArrayMapping(fields=(name,), unit=field.unit)
    action = description.fields[roles["action"]]
    success = roles.get("success", "unknown")
    return DataMapping(
        format=description.format,
        robot=description.robot or "unknown",
        period_s=description.period_s or 0.1,
        observation=observation,
        action=ActionMapping(fields=(roles["action"],), unit=action.unit),
        reward=RewardMapping(field=roles.get("reward", "")),
        success=success,
        terminated=roles.get("terminated", "success"),
    )


def to_yaml(mapping: DataMapping, description: Description | None = None) -> str:
    """A mapping as YAML, with what the data say as comments."""
    data = _plain(to_mapping(mapping))
    lines = []
    if description is not None:
        for name, field in description.fields.items():
            said = [f"{field.dtype}{list(field.shape)}", field.unit, field.note]
            lines.append(f"# {name}: " + ", ".join(s for s in said if s))
        if not description.period_s:
            lines.append("# period_s is a guess: the data do not say at which rate they are")
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return "\n".join([*lines, text])


def _plain(value: Any) -> Any:
    """Without what says nothing, which are the defaults."""
    if isinstance(value, Mapping):
        unsaid = ("length", "angle", "taken_at") if not value.get("layout") else ()
        return {
            k: _plain(v) for k, v in value.items()
            if k not in unsaid and v not in ("", None, (), [], {})
        }  # fmt: skip
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _short(name: str, field: Field) -> str:
    if name.startswith(_IMAGES):
        camera = name[len(_IMAGES) :].replace(".", "_")
        return camera if camera.startswith("image") else f"image_{camera}"
    return name.removeprefix("observation.").removeprefix("obs/").replace("/", "_")


class Mapped:
    """A mapping, applied to the episodes of one data set.

    Raises:
        ConfigError: It names fields or elements that the data lacks.
        SpecError: What it wants cannot be had from the data exactly.
    """

    def __init__(self, mapping: DataMapping, description: Description) -> None:
        self.mapping, self._fields = mapping, description.fields
        used = {name for one in self._arrays.values() for name in one.fields}
        used |= {n for n in (mapping.reward.field, mapping.success, mapping.terminated) if n}
        unknown = sorted(used - set(self._fields) - _WORDS)
        if unknown:
            raise ConfigError(
                "fields of a mapping", got=unknown, expected=f"some of {sorted(self._fields)}"
            )
        self.wanted = frozenset(used)
        #: Images that are resized while they are decoded.
        self.sizes = {
            one.fields[0]: (one.size[0], one.size[1])
            for one in self._arrays.values()
            if one.size and not one.crop and len(one.fields) == 1
            and sum(one.fields[0] in other.fields for other in self._arrays.values()) == 1
        }  # fmt: skip
        self._laid = {
            name: self._laid_out(name, one) for name, one in self._arrays.items() if one.layout
        }
        specs = {name: self._spec(name, one) for name, one in self._arrays.items()}
        action, one = specs.pop("action"), mapping.action
        grippers = tuple(i for i in one.grippers)
        self.data = RobotSpec(
            mapping.robot, {n[len(OBSERVATION) :]: s for n, s in specs.items()}, action,
            one.kind, mapping.period_s, grippers=grippers,
        )  # fmt: skip
        wanted = replace(
            self.data,
            observation={
                name: _in_unit(spec, mapping.observation[name].to_unit)
                for name, spec in self.data.observation.items()
            },
            action=_in_unit(action, one.to_unit),
            action_kind=one.to_kind or one.kind,
            period_s=mapping.to_period_s or mapping.period_s,
        )
        self.spec = wanted
        self.schema = TrajectorySchema.of(wanted)
        self._conversion = Conversion(self.data, wanted) if wanted != self.data else None
        self._taken = TrajectorySchema.of(self.data)

    @property
    def _arrays(self) -> dict[str, ArrayMapping]:
        found = {OBSERVATION + name: one for name, one in self.mapping.observation.items()}
        return {**found, "action": self.mapping.action}

    def episode(self, source: SourceEpisode) -> RecordedEpisode:
        """An episode as the robot would have recorded it.

        Raises:
            SpecError, CodecError: It cannot be; says why.
        """
        missing = sorted(self.wanted - set(source.fields) - _WORDS)
        if missing:
            raise SpecError("fields", got=f"no {missing}", expected="them in every episode")
        self._require_rows(source)
        success = self._success(source)
        terminated = self._ended(source, success)
        steps, seen = self._shown(source, terminated)
        columns = self._from_fields(source, seen) | self._labels(source, steps, success, terminated)
        columns = {n: np.asarray(columns[n], s.dtype) for n, s in self._taken.columns.items()}
        _require_finite(columns)
        start_ns, end_ns = int(columns["stamp_ns"][0]), int(columns["stamp_ns"][-1])
        if self._conversion is not None:
            columns = self._conversion.apply(columns)
        key, kind = key_of(source.identity), EpisodeSource[self.mapping.source.upper()]
        outcome = Outcome.UNKNOWN if success is None else (
            Outcome.SUCCESS if success else Outcome.FAILURE
        )  # fmt: skip
        result = EpisodeResult(
            key, kind, outcome, int((~columns["final"]).sum()),
            float(columns["reward"].astype(np.float64).sum()),
            interventions=0, start_ns=start_ns, end_ns=end_ns, reason="imported",
        )  # fmt: skip
        task = self.mapping.task or source.task
        return RecordedEpisode(key, kind, columns, result, self.mapping.robot, task[:256])

    def _shown(self, source: SourceEpisode, terminated: bool) -> tuple[int, Array]:
        """How many steps are taken over, and which row of the source each observation is, (steps + 1,).

        Where the source has no observation behind its last action, that step is left out, or its
        observation is shown once more.
        """
        mapping, steps = self.mapping, source.steps
        given = all(
            len(source.fields[name]) > steps
            for one in mapping.observation.values() for name in one.fields
        )  # fmt: skip
        how = mapping.final_observation
        if how == "auto":
            how = "repeat" if terminated else "last"
        if not given and how == "last":
            steps -= 1
        if steps < 1:
            raise SpecError("episode", got=f"{source.steps} steps", expected="one and what follows")
        row = np.arange(steps + 1)
        return steps, row if given or how == "last" else np.minimum(row, steps - 1)

    def _from_fields(self, source: SourceEpisode, seen: Array) -> dict[str, Array]:
        """Observations and actions, (steps + 1, ...); behind the last observation there is no action: zeros."""
        columns = {}
        for name, one in self._arrays.items():
            if name == "action":
                rows = self._rows(name, one, source.fields, np.arange(len(seen) - 1))
                columns[name] = np.concatenate([rows, np.zeros_like(rows[:1])])
            else:
                columns[name] = self._rows(name, one, source.fields, seen)
        return columns | {"proposed_action": columns["action"]}

    def _labels(
        self, source: SourceEpisode, steps: int, success: bool | None, terminated: bool
    ) -> dict[str, Array]:
        """What stands beside observations and actions, (steps + 1,) each: rewards, ends, who acted, times."""
        how, row = self.mapping.reward, np.arange(steps + 1)
        reward = np.zeros(steps + 1, np.float32)
        if how.field:
            values = source.fields[how.field]
            reward[:-1] = values.reshape(len(values), -1)[:steps, 0]
        else:
            reward[:-1] = how.each_step
            reward[steps - 1] += how.at_success if success else 0.0
        step, last = row < steps, row == steps - 1
        stamps = _stamps(source, steps, self.mapping.period_s)
        judge = RewardSource.ROBOT if how.field else RewardSource.RELABELLED
        return {
            "reward": reward,
            "terminated": last & terminated,
            "truncated": last & (not terminated),
            "final": ~step,
            "acted_by": step * int(ActedBy.HUMAN),
            "reward_source": step * int(judge),
            "policy_version": np.zeros(steps + 1),
            "stamp_ns": stamps,
            "action_stamp_ns": stamps * step,
        }

    def _require_rows(self, source: SourceEpisode) -> None:
        """Which observation belongs to which action, nobody knows where there are other numbers of them."""
        steps = source.steps
        names = [name for one in self._arrays.values() for name in one.fields]
        for name in [*names, *filter(None, [self.mapping.reward.field])]:
            if not steps <= len(source.fields[name]) <= steps + 1:
                raise SpecError(
                    f"field {name!r}", got=f"{len(source.fields[name])} rows beside {steps} actions",
                    expected=f"{steps}, or {steps + 1} with the observation behind the last action",
                )  # fmt: skip

    def _success(self, source: SourceEpisode) -> bool | None:
        said = self.mapping.success
        if said in ("always", "never"):
            return said == "always"
        if said == "unknown":
            return source.success
        values = source.fields[said]
        return bool(values.reshape(len(values), -1)[:, 0].any())

    def _ended(self, source: SourceEpisode, success: bool | None) -> bool:
        said = self.mapping.terminated
        if said in ("success", "never"):
            return said == "success" and bool(success)
        values = source.fields[said]
        return bool(values.reshape(len(values), -1)[source.steps - 1, 0])

    def _rows(
        self, name: str, one: ArrayMapping, fields: Mapping[str, Array], rows: Array
    ) -> Array:
        parts = []
        for field in one.fields:
            array = fields[field]
            if len(array) <= int(rows.max(initial=0)):
                raise SpecError(
                    f"field {field!r}", got=f"{len(array)} rows", expected=f"{int(rows.max()) + 1}"
                )
            # images are not copied where they lie one behind the other anyhow
            whole = self._is_image(one) and len(rows) > 0 and bool((np.diff(rows) == 1).all())
            parts.append(array[int(rows[0]) : int(rows[-1]) + 1] if whole else array[rows])
        found = parts[0]
        if len(parts) > 1:
            found = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        if self._is_image(one):
            return _image_rows(found, one)
        if one.select:
            found = found.reshape(len(found), -1)[:, self._places(one)]
        if name == "action" and found.ndim == 1:
            found = found[:, None]
        if name in self._laid:
            return self._laid[name].apply(found.reshape(len(found), -1))
        return found

    def _laid_out(self, name: str, one: ArrayMapping) -> Laid:
        wanted = _LAYOUT_OF_NAME.get(name.rpartition(".")[2])
        got = usual_of(one.layout, one.to_layout)
        if wanted is not None and got != wanted:
            raise ConfigError(
                f"layout of {name}", got=got, expected=f"{wanted}, as everywhere",
                hint="Another name can have any layout",
            )  # fmt: skip
        way = None
        if one.to_frame and one.to_frame != one.frame:
            way = between(self.mapping.transforms, one.frame, one.to_frame)
        assert one.layout  # noqa: S101 - asked by the caller
        made = Laid(
            name, one.layout, one.to_layout, _METRES[one.length], _RADIANS[one.angle], way,
            one.taken_at,
        )  # fmt: skip
        count = len(one.select) or len(self._names(one))
        if self._is_image(one) or count < made.size:
            raise ConfigError(
                f"layout of {name}", got=f"{count} numbers of {list(one.fields)}",
                expected=f"at least {made.size} for {one.layout}",
            )  # fmt: skip
        return made

    def _is_image(self, one: ArrayMapping) -> bool:
        return len(one.fields) == 1 and self._fields[one.fields[0]].is_image

    def _names(self, one: ArrayMapping) -> list[str]:
        names: list[str] = []
        for field in one.fields:
            info = self._fields[field]
            size = int(np.prod(info.shape, dtype=int))
            names += info.names if len(info.names) == size else [""] * size
        return names

    def _places(self, one: ArrayMapping) -> list[int]:
        names, places = self._names(one), []
        for wanted in one.select:
            if isinstance(wanted, str) and wanted in names:
                places.append(names.index(wanted))
            elif isinstance(wanted, int) and 0 <= wanted < len(names):
                places.append(wanted)
            else:
                raise ConfigError(
                    f"select of {list(one.fields)}", got=wanted,
                    expected=f"0 to {len(names) - 1}, or one of {[n for n in names if n]}",
                )  # fmt: skip
        return places

    def _spec(self, name: str, one: ArrayMapping) -> ArraySpec:
        info = self._fields[one.fields[0]]
        dtype = one.dtype or info.dtype
        if self._is_image(one):
            shape = info.shape
            if one.crop:
                shape = (*one.crop[2:], *shape[2:])
            if one.size:
                shape = (*one.size, *shape[2:])
            return ArraySpec(tuple(shape), "uint8")
        places = self._places(one) if one.select else []
        if len(one.fields) == 1 and not places and (name != "action" or info.shape):
            shape = tuple(info.shape)
        else:
            shape = (len(places) or len(self._names(one)),)
        names = self._names(one)
        names = [names[i] for i in places] if places else names
        unit, laid = one.unit, self._laid.get(name)
        if laid is not None:
            names, unit = [*laid.names, *names[laid.size :]], laid.unit
            shape = (len(names),)
            dtype = dtype if np.dtype(dtype).kind == "f" else "float32"
        names = list(one.names) or (names if all(names) and len(set(names)) == len(names) else [])
        if len(shape) != 1:
            names = []
        return ArraySpec(
            shape, dtype, one.low, one.high, unit, one.to_frame or one.frame, tuple(names)
        )


def key_of(identity: str) -> EpisodeKey:
    """The key of an episode that came from elsewhere: its digest, in two numbers."""
    number = int(identity[:32], 16)
    return EpisodeKey(PRODUCER, number >> 65, number & (2**63 - 1))


def _in_unit(spec: ArraySpec, unit: str) -> ArraySpec:
    if not unit or unit == spec.unit:
        return spec
    if spec.low is not None or spec.high is not None:
        raise ConfigError(
            "bounds of an array whose unit is converted", got=f"{spec.low} to {spec.high}",
            expected="none: they would be of either unit",
        )  # fmt: skip
    return replace(spec, unit=unit)


def _require_finite(columns: Mapping[str, Array]) -> None:
    """Raise SpecError where a number is none, with its step."""
    for name, rows in columns.items():
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            at = int(np.argwhere(~np.isfinite(rows))[0][0])
            raise SpecError(
                name, got=f"a value that is not finite at step {at}", expected="finite numbers"
            )


def _stamps(source: SourceEpisode, steps: int, period_s: float) -> Array:
    period = round(period_s * 1e9)
    if source.stamps_ns is None:
        return np.arange(steps + 1, dtype=np.int64) * period
    stamps = source.stamps_ns[: steps + 1].astype(np.int64)
    if len(stamps) == steps:
        stamps = np.append(stamps, stamps[-1] + period)
    return np.maximum(stamps - min(0, int(stamps[0])), 0)


def _image_rows(images: Array, one: ArrayMapping) -> Array:
    if one.crop:
        top, left, height, width = one.crop
        images = images[:, top : top + height, left : left + width]
        if images.shape[1:3] != (height, width):
            raise SpecError("crop of an image", got=one.crop, expected="a part of the image")
    if one.size and images.shape[1:3] != tuple(one.size):
        import cv2

        size = (one.size[1], one.size[0])
        images = np.stack([cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in images])
    return images
