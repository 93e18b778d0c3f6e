"""Where things lie in a LeRobotDataset v3, and what of a store becomes which feature.

Beside LeRobot's own folders an export has one more, ``user/``, which LeRobot passes over: what its
format has no place for, so that an episode comes back as it was, number by number::

    user/meaning.json                            schema and spec of the store, features, coding, loss
    user/steps/chunk-000/file-000.parquet        columns of the steps that are no features
    user/episodes/chunk-000/file-000.parquet     identity, result, and final observation of episodes
    meta/episodes/chunk-000/file-000.parquet     LeRobot's table: written last, with it a file counts

Each file of videos, numbers and episodes with one number belongs together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from user_core.runtime.files import replace_durably
from user_core.specs import Array, ArraySpec
from user_core.types import OBSERVATION, TrajectorySchema
from user_learner.data.extras import library
from user_learner.data.source import is_picture

VERSION = "v3.0"
INFO = "meta/info.json"
STATISTICS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OUR_STEPS = "user/steps/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OUR_EPISODES = "user/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OUR_MEANING = "user/meaning.json"
OUR_VERSION = 1
CHUNK = 1000
STATE = "observation.state"
IMAGES = "observation.images."
NO_TASK = "no task was given"
#: What LeRobot itself keeps of every step.
DEFAULTS: dict[str, str] = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
    "task_index": "int64",
}  # fmt: skip
REWARD, DONE = "next.reward", "next.done"
PARQUET = "parquet of a LeRobot dataset"


def numbered(template: str, number: int, key: str = "") -> str:
    """A path of a file by its number over all chunks."""
    return template.format(chunk_index=number // CHUNK, file_index=number % CHUNK, video_key=key)


def rate_of(period_s: float) -> Fraction:
    """Steps per second of a period, whole where it is meant to be whole."""
    rate = 1 / period_s
    whole = round(rate)
    if whole > 0 and abs(rate / whole - 1) < 0.005:
        return Fraction(whole)
    return Fraction(rate).limit_denominator(1000)


@dataclass(frozen=True)
class Features:
    """What the columns of a store become.

    Attributes:
        state: Observations that are joined to the one vector ``observation.state``, in order.
        images: Observations that become pictures, by feature.
        single: Other observations, by feature.
    """

    schema: TrajectorySchema
    state: tuple[str, ...]
    images: Mapping[str, str]
    single: Mapping[str, str]

    @classmethod
    def of(cls, schema: TrajectorySchema) -> Features:
        """Of a schema: vectors of float32 are joined, all others stand alone."""
        names = [n[len(OBSERVATION) :] for n in schema.columns if n.startswith(OBSERVATION)]
        specs = {name: schema.columns[OBSERVATION + name] for name in names}
        images = {
            IMAGES + _key(n): n for n, s in specs.items()
            if is_picture(s.shape, s.dtype) and (len(s.shape) == 2 or s.shape[2] != 4)
        }  # fmt: skip
        state = [n for n, s in specs.items() if s.dtype == "float32" and len(s.shape) <= 1]
        taken = {*state, *images.values()}
        single = {OBSERVATION + _key(n): n for n in names if n not in taken}
        if STATE in single and state:  # a name that LeRobot means something else by
            single[OBSERVATION + "state_alone"] = single.pop(STATE)
        return cls(schema, tuple(state), images, single)

    def info(self, coding: str, rate: Fraction) -> dict[str, dict[str, Any]]:
        """LeRobot's ``features`` of ``info.json``."""
        found: dict[str, dict[str, Any]] = {}
        if self.state:
            names = [n for name in self.state for n in _element_names(name, self.spec(name))]
            found[STATE] = _feature("float32", (len(names),), names)
        for feature, name in self.single.items():
            spec = self.spec(name)
            found[feature] = _feature(spec.dtype, spec.shape or (1,), _names_or_none(spec))
        for feature, name in self.images.items():
            height, width = self.spec(name).shape[:2]
            kind = "image" if coding == "png" else "video"
            found[feature] = _feature(kind, (height, width, 3), ["height", "width", "channels"])
            if kind == "video":
                found[feature]["info"] = {
                    "video.height": height, "video.width": width, "video.fps": float(rate),
                    "video.channels": 3, "video.is_depth_map": False, "has_audio": False,
                    "video.codec": {"av1": "av1"}.get(coding, "h264"),
                }  # fmt: skip
        action = self.schema.columns["action"]
        names = list(action.names) or [f"action_{i}" for i in range(action.size)]
        found["action"] = _feature(action.dtype, action.shape, names)
        found[REWARD] = _feature("float32", (1,), None)
        found[DONE] = _feature("bool", (1,), None)
        found.update({name: _feature(dtype, (1,), None) for name, dtype in DEFAULTS.items()})
        return found

    def spec(self, observation: str) -> ArraySpec:
        """Of an observation."""
        return self.schema.columns[OBSERVATION + observation]

    def numbers(self, columns: Mapping[str, Array], steps: Array) -> dict[str, Array]:
        """The features of the rows that are steps, without pictures."""
        found: dict[str, Array] = {}
        if self.state:
            parts = [columns[OBSERVATION + n][steps].reshape(steps.sum(), -1) for n in self.state]
            found[STATE] = np.concatenate(parts, axis=1)
        for feature, name in self.single.items():
            found[feature] = columns[OBSERVATION + name][steps]
        found["action"] = columns["action"][steps]
        found[REWARD] = columns["reward"][steps]
        found[DONE] = (columns["terminated"] | columns["truncated"])[steps]
        return found

    def ours(self) -> list[str]:
        """Columns of the steps that are no features."""
        kept = {"action", "reward", "final"}
        names = [n for n in self.schema.columns if not n.startswith(OBSERVATION)]
        return [n for n in names if n not in kept]

    def pictures(self, name: str, columns: Mapping[str, Array], rows: Array) -> Array:
        """Pictures of an observation as RGB, (n, H, W, 3)."""
        images = columns[OBSERVATION + name][rows]
        if images.ndim == 3:
            images = images[..., None]
        return images if images.shape[3] == 3 else np.repeat(images, 3, axis=3)

    def columns(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        """The observations of a store from features: the inverse of the above."""
        found: dict[str, Array] = {}
        start = 0
        for name in self.state:
            spec = self.spec(name)
            part = fields[STATE][:, start : start + spec.size]
            found[OBSERVATION + name] = part.reshape(-1, *spec.shape)
            start += spec.size
        for feature, name in (*self.single.items(), *self.images.items()):
            spec, array = self.spec(name), fields[feature]
            if feature in self.images and spec.shape[2:] != (3,):
                array = array[..., :1]
            found[OBSERVATION + name] = array.reshape(-1, *spec.shape)
        return found


def _key(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_")


def _names_or_none(spec: ArraySpec) -> list[str] | None:
    return list(spec.names) or None


def _element_names(name: str, spec: ArraySpec) -> list[str]:
    if spec.names:
        return [f"{name}.{n}" for n in spec.names]
    return [name] if spec.size == 1 else [f"{name}.{i}" for i in range(spec.size)]


def _feature(dtype: str, shape: Sequence[int], names: Sequence[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "names": None if names is None else list(names)}


# --------------------------------------------------------------------------------------------------
# Parquet
# --------------------------------------------------------------------------------------------------


def to_arrow(array: Array) -> Any:
    """Rows (n, ...) as an arrow array: scalars, or lists of a fixed length, nested."""
    arrow = library("pyarrow", PARQUET)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # LeRobot keeps vectors of one as scalars
    found = arrow.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        found = arrow.FixedSizeListArray.from_arrays(found, size)
    return found


def to_numpy(column: Any, rows: int) -> Array:
    """A column of ``rows`` rows as an array (rows, ...). Raises ValueError where lengths differ."""
    arrow = library("pyarrow", PARQUET)
    found = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if isinstance(found, arrow.ChunkedArray):
        found = arrow.concat_arrays(found.chunks) if found.num_chunks else found
    shape: list[int] = [rows]
    while arrow.types.is_nested(found.type) and not arrow.types.is_struct(found.type):
        count = len(found)
        if isinstance(found, arrow.ExtensionArray):
            found = found.storage
            continue
        if found.null_count:
            raise ValueError(f"{found.null_count} values are missing")
        flat = found.flatten()
        if count and len(flat) % count:
            raise ValueError("its rows have different lengths")
        if not arrow.types.is_fixed_size_list(found.type) and count:
            lengths = np.diff(found.offsets.to_numpy())
            if len(set(lengths.tolist())) > 1:
                raise ValueError("its rows have different lengths")
        shape.append(len(flat) // count if count else 0)
        found = flat
    if found.null_count:
        raise ValueError(f"{found.null_count} values are missing")
    return np.asarray(found.to_numpy(zero_copy_only=False)).reshape(shape)


def write_parquet(table: Any, path: Path) -> None:
    """Write a table so that it is there as a whole or not at all, also after a power cut."""
    parquet = library("pyarrow.parquet", PARQUET)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as stream:
        parquet.write_table(table, stream, compression="snappy")
    replace_durably(part, path)


def tasks_table(tasks: Sequence[str]) -> Any:
    """LeRobot's table of tasks: a frame of pandas whose index is the task."""
    arrow = library("pyarrow", PARQUET)
    column = {"numpy_type": "int64", "pandas_type": "int64", "metadata": None}
    index = {"numpy_type": "object", "pandas_type": "unicode", "metadata": None}
    described = {
        "index_columns": ["task"], "column_indexes": [], "pandas_version": "2.0.0",
        "creator": {"library": "pyarrow", "version": arrow.__version__},
        "columns": [{"name": "task_index", "field_name": "task_index", **column},
                    {"name": "task", "field_name": "task", **index}],
    }  # fmt: skip
    table = arrow.table(
        {"task_index": arrow.array(range(len(tasks)), arrow.int64()),
         "task": arrow.array(list(tasks), arrow.string())}
    )  # fmt: skip
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
