"""Reads LeRobotDatasets v3, v2.1 and v2.0: parquet and mp4, without any of LeRobot's code."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import CodecError, SuiteError
from user_core.specs import Array, RobotSpec
from user_core.types import OBSERVATION, EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.data.extras import library
from user_learner.data.lerobot import layout as at
from user_learner.data.lerobot.layout import Features, numbered, to_numpy
from user_learner.data.lerobot.video import VideoReader
from user_learner.data.source import (
    Description,
    EpisodeRef,
    Field,
    SourceEpisode,
    identity_of,
    inside,
    place_of,
    plain_array,
)
from user_learner.replay.layout import result_from_dict

_OLD_EPISODES = "meta/episodes.jsonl"
_OLD_TASKS = "meta/tasks.jsonl"
_MOST_PIXELS = 2**26


class LeRobotFormat:
    """LeRobotDataset, by its ``meta/info.json``."""

    name = "lerobot"
    title = "a LeRobotDataset of version 2.0, 2.1 or 3"

    def recognises(self, path: Path) -> bool:
        """Whether there is ``meta/info.json``."""
        return (path / at.INFO).is_file() or (path / at.OUR_MEANING).is_file()

    def open(self, path: Path, options: Mapping[str, Any]) -> LeRobotSource:
        """Open a data set."""
        return LeRobotSource(path)


FORMAT = LeRobotFormat()


class LeRobotSource:
    """A LeRobotDataset that is open for reading.

    Args:
        path: Its directory; nothing in it is trusted.

    Raises:
        CodecError: It is damaged, unfinished, or of a version that is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / at.INFO).is_file():
            raise CodecError(
                f"data set {path}", got="an export that was not finished",
                expected=at.INFO, hint="Run the same export again: it continues",
            )  # fmt: skip
        self._info = _json(path / at.INFO)
        version = str(self._info.get("codebase_version", ""))
        if version not in ("v2.0", "v2.1", "v3.0"):
            raise CodecError(
                f"version of data set {path}", got=version or "none", expected="v2.0, v2.1 or v3.0",
                hint="LeRobot converts older ones",
            )  # fmt: skip
        self._old = not version.startswith("v3")
        try:
            self._fps = float(self._info["fps"])
            self._features: dict[str, dict[str, Any]] = dict(self._info["features"])
            self._shapes = {n: tuple(map(int, f["shape"])) for n, f in self._features.items()}
            if not 0 < self._fps < 1e6:
                raise ValueError(f"fps {self._fps}")
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(
                f"{path / at.INFO}", got=repr(error), expected="fps and features"
            ) from error
        self._videos: dict[str, VideoReader] = {}
        self._table: tuple[Path, Any, Array] | None = None
        self._records: tuple[int, list[dict[str, Any]], Any] | None = None
        self._about = _json(path / at.OUR_MEANING) if (path / at.OUR_MEANING).is_file() else None
        self._schema: TrajectorySchema | None = None
        self._spec: RobotSpec | None = None
        if self._about is not None:
            try:
                self._schema = TrajectorySchema.from_dict(self._about["schema"])
                if self._about["spec"] is not None:
                    self._spec = RobotSpec.from_dict(self._about["spec"])
            except (KeyError, TypeError) as error:
                raise CodecError(f"{path / at.OUR_MEANING}", got=repr(error)) from error

    def describe(self) -> Description:
        """What it says of itself."""
        fields = {}
        for name, feature in self._features.items():
            if name in at.DEFAULTS:
                continue
            kind = str(feature.get("dtype"))
            image = kind in ("image", "video")
            fields[name] = Field(
                _rows_first(self._shapes[name], feature) if image else self._shapes[name],
                "uint8" if image else kind,
                names=_names(feature.get("names")) if not image else (),
                is_image=image,
                is_observation=name.startswith("observation"),
                note=kind if image else "",
            )
        roles = {"action": "action"} if "action" in fields else {}
        for role, names in {"reward": (at.REWARD, "reward"), "success": ("next.success",),
                            "terminated": ("next.terminated",), "done": (at.DONE,),
                            "truncated": ("next.truncated",)}.items():  # fmt: skip
            for name in names:
                if name in fields:
                    roles.setdefault(role, name)
        notes = [] if self._spec or not self._schema else ["the store did not know what it means"]
        if self._about and self._about.get("psnr_db"):
            notes.append(f"images were kept with a loss: {self._about['psnr_db']} dB PSNR")
        return Description(
            "lerobot", fields, 1 / self._fps, str(self._info.get("robot_type") or ""),
            len(self.episodes()), sum(ref.steps for ref in self.episodes()),
            tuple(self._tasks.values()), self._schema, self._spec, roles, tuple(notes),
        )  # fmt: skip

    def episodes(self) -> Sequence[EpisodeRef]:
        """Its episodes."""
        return self._refs

    @cached_property
    def _refs(self) -> list[EpisodeRef]:
        refs = []
        for number, row in self._rows.items():
            try:
                path = self._data_path(row)
            except SuiteError:
                path = self.path
            refs.append(EpisodeRef(number, int(row.get("length", -1)), place_of(path, number)))
        return refs

    def read(
        self,
        ref: EpisodeRef,
        wanted: Collection[str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceEpisode:
        """Read an episode; raises CodecError where it is damaged."""
        row = self._rows[ref.number]
        if self._schema is not None:  # all of it is needed, as it was
            wanted, sizes = None, None
        sizes = sizes or {}
        table, steps = self._rows_of(ref.number, row)
        pieces: list[tuple[str, bytes | memoryview]] = []  # what tells this episode from others
        fields: dict[str, Array] = {}
        videos = []
        for name, feature in self._features.items():
            kind = str(feature.get("dtype"))
            if kind == "video":
                videos.append(name)
            if kind in ("video", "string", "language"):
                continue
            if name not in table.column_names:
                raise CodecError(self._of(ref), got=f"no column {name!r}", expected="all features")
            column = table.column(name)
            if kind == "image":
                stored = [_bytes(self.path, value) for value in column.to_pylist()]
                of_all = identity_of((f"{i:08d}", b) for i, b in enumerate(stored))
                pieces.append((name, of_all.encode()))
                if wanted is None or name in wanted:
                    pictures = [_picture(data, sizes.get(name), self._of(ref)) for data in stored]
                    fields[name] = np.stack(pictures)
                continue
            values = self._numbers(name, kind, column, steps, ref)
            if name not in at.DEFAULTS or name == "timestamp":
                pieces.append((name, np.ascontiguousarray(values).reshape(-1).view(np.uint8).data))
            fields[name] = values
        times = fields["timestamp"].reshape(-1) if "timestamp" in fields else None
        if times is not None:
            _require_forward(times, f"{self._of(ref)}, timestamp")
        for name in videos:
            if wanted is None or name in wanted:
                fields[name], digest = self._decode(name, row, steps, sizes.get(name), ref)
                pieces.append((name, digest.encode()))
        task = self._task_of(row, fields)
        pieces.append(("task", task.encode()))
        episode = SourceEpisode(fields, steps, identity_of(iter(pieces)), task)
        if times is not None:
            episode.stamps_ns = np.rint(times.astype(np.float64) * 1e9).astype(np.int64)
        if self._schema is not None:
            episode.recorded = self._recorded(ref, row, fields, steps)
        return episode

    def _numbers(self, name: str, kind: str, column: Any, steps: int, ref: EpisodeRef) -> Array:
        """A column of numbers, (steps, ...) of the type and shape that the data set says."""
        try:
            values = plain_array(to_numpy(column, steps), f"{self._of(ref)}, {name}")
            if values.dtype.name != kind:
                values = values.astype(kind)
            shaped: Array = values.reshape(steps, *self._shapes[name])
        except (ValueError, TypeError) as error:
            raise CodecError(
                f"{self._of(ref)}, {name}", got=str(error),
                expected=f"{kind}{list(self._shapes[name])} in every row",
            ) from error  # fmt: skip
        return shaped

    def close(self) -> None:
        """Close all files. Idempotent."""
        while self._videos:
            self._videos.popitem()[1].close()
        self._table = self._records = None

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        """What the tables say of each episode, by its number."""
        if self._old:
            rows = _json_lines(self.path / _OLD_EPISODES)
        else:
            parquet = library("pyarrow.parquet", at.PARQUET)
            rows = []
            for path in sorted((self.path / "meta/episodes").glob("*/*.parquet")):
                try:
                    names = parquet.read_schema(path).names
                    rows += parquet.read_table(
                        path, columns=[n for n in names if not n.startswith("stats/")]
                    ).to_pylist()
                except (OSError, ValueError) as error:
                    raise _damaged(path, error) from error
        try:
            return {int(row["episode_index"]): row for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(f"episodes of {self.path}", got=repr(error)) from error

    @cached_property
    def _tasks(self) -> dict[int, str]:
        if self._old:
            path = self.path / _OLD_TASKS
            rows = _json_lines(path) if path.is_file() else []
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        parquet = library("pyarrow.parquet", at.PARQUET)
        path = self.path / at.TASKS
        if not path.is_file():
            return {}
        try:
            rows = parquet.read_table(path).to_pylist()
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        return {
            int(row["task_index"]): str(row.get("task", row.get("__index_level_0__", "")))
            for row in rows
        }

    def _of(self, ref: EpisodeRef) -> str:
        return f"episode {ref.number} of {self.path}"

    def _task_of(self, row: Mapping[str, Any], fields: Mapping[str, Array]) -> str:
        tasks = row.get("tasks") or []
        if "task_index" in fields and len(fields["task_index"]):
            found = self._tasks.get(int(fields["task_index"].reshape(-1)[0]))
            if found is not None:
                return found
        return str(tasks[0]) if tasks else ""

    def _path(self, template: str, default: str, values: Mapping[str, Any]) -> Path:
        try:
            name = str(self._info.get(template) or default).format_map(dict(values))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise CodecError(f"{template} of {self.path}", got=repr(error)) from error
        return inside(self.path, name)

    def _data_path(self, row: Mapping[str, Any]) -> Path:
        if self._old:
            number = int(row["episode_index"])
            chunk = number // int(self._info.get("chunks_size") or 1000)
            return self._path("data_path", "", {"episode_chunk": chunk, "episode_index": number})
        return self._path("data_path", at.DATA, {
            "chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])
        })  # fmt: skip

    def _video_path(self, name: str, row: Mapping[str, Any]) -> tuple[Path, float]:
        if self._old:
            number = int(row["episode_index"])
            chunk = number // int(self._info.get("chunks_size") or 1000)
            values = {"episode_chunk": chunk, "episode_index": number, "video_key": name}
            return self._path("video_path", "", values), 0.0
        values = {
            "chunk_index": int(row[f"videos/{name}/chunk_index"]),
            "file_index": int(row[f"videos/{name}/file_index"]), "video_key": name,
        }  # fmt: skip
        start = float(row[f"videos/{name}/from_timestamp"])
        return self._path("video_path", at.VIDEO, values), start

    def _rows_of(self, number: int, row: Mapping[str, Any]) -> tuple[Any, int]:
        """The rows of an episode in its file; the file is kept for the next."""
        parquet = library("pyarrow.parquet", at.PARQUET)
        path = self._data_path(row)
        if self._table is None or self._table[0] != path:
            try:
                table = parquet.read_table(path)
                index: Array = to_numpy(table.column("episode_index"), len(table)).reshape(-1)
            except (OSError, ValueError, KeyError) as error:
                raise _damaged(path, error) from error
            self._table = (path, table, index)
        _, table, index = self._table
        if bool((np.diff(index) < 0).any()):
            places: Array = np.flatnonzero(index == number)
            start, steps = (int(places[0]) if len(places) else 0), len(places)
        else:
            start = int(np.searchsorted(index, number))
            steps = int(np.searchsorted(index, number, side="right")) - start
        if not steps or steps != int(row.get("length", steps)):
            raise CodecError(
                f"episode {number} of {self.path}", got=f"{steps} rows in {path.name}",
                expected=f"{row.get('length')}",
            )  # fmt: skip
        return table.slice(start, steps), steps

    def _decode(
        self,
        name: str,
        row: Mapping[str, Any],
        steps: int,
        size: tuple[int, int] | None,
        ref: EpisodeRef,
    ) -> tuple[Array, str]:
        try:
            path, start = self._video_path(name, row)
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(
                f"{self._of(ref)}, {name}", got="no video", expected="one of every camera"
            ) from error
        known = self._videos.get(name)
        if known is None or known.path != path:
            if known is not None:
                known.close()
                del self._videos[name]
            self._videos[name] = known = VideoReader(path, size)
            height, width = known.shape[:2]
            if height * width > _MOST_PIXELS:
                raise CodecError(f"video {path}", got=known.shape, expected="smaller pictures")
        return known.frames(start, steps, self._fps)

    def _recorded(
        self, ref: EpisodeRef, row: Mapping[str, Any], fields: Mapping[str, Array], steps: int
    ) -> RecordedEpisode:
        """The episode as the store had it."""
        if self._schema is None:
            raise AssertionError("only of an export of ours")
        record, ours = self._record_of(ref, row)
        features = Features.of(self._schema)
        try:
            said = json.loads(record["record"])
            final = dict(record["final"])
            columns = features.columns(fields)
            columns["action"] = fields["action"]
            columns["reward"] = fields[at.REWARD].reshape(-1)
            for name in features.ours():
                spec = self._schema.columns[name]
                columns[name] = to_numpy(ours.column(name), steps).reshape(steps, *spec.shape)
            columns["final"] = np.zeros(steps, bool)
            if final:
                for name, spec in self._schema.columns.items():
                    columns[name] = np.concatenate([
                        columns[name].astype(spec.dtype, copy=False),
                        _final_row(name, spec, final, features),
                    ])  # fmt: skip
            return RecordedEpisode(
                EpisodeKey(*said["episode"]), EpisodeSource(said["source"]),
                {n: np.asarray(columns[n], s.dtype) for n, s in self._schema.columns.items()},
                result_from_dict(said["result"]), str(said["robot"]), str(said["task"]),
                int(said["first_row"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(
                self._of(ref), got=repr(error), expected="what the export kept"
            ) from error

    def _record_of(self, ref: EpisodeRef, row: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        file = int(row["data/chunk_index"]) * at.CHUNK + int(row["data/file_index"])
        if self._records is None or self._records[0] != file:
            parquet = library("pyarrow.parquet", at.PARQUET)
            try:
                records = parquet.read_table(
                    self.path / numbered(at.OUR_EPISODES, file)
                ).to_pylist()
                steps = parquet.read_table(self.path / numbered(at.OUR_STEPS, file))
            except (OSError, ValueError) as error:
                raise _damaged(self.path / "user", error) from error
            index = to_numpy(steps.column("episode_index"), len(steps))
            self._records = (file, records, (steps, index))
        _, records, (steps, index) = self._records
        first = int(records[0]["episode_index"]) if records else 0
        place = ref.number - first
        if not 0 <= place < len(records) or records[place]["episode_index"] != ref.number:
            raise CodecError(self._of(ref), got="no record of it", expected="one in user/episodes")
        start = int(np.searchsorted(index, ref.number))
        stop = int(np.searchsorted(index, ref.number, side="right"))
        return records[place], steps.slice(start, stop - start)


def _final_row(name: str, spec: Any, final: Mapping[str, bytes], features: Features) -> Array:
    if name == "final":
        return np.ones(1, bool)
    if name not in final:
        return np.zeros((1, *spec.shape), spec.dtype)
    if name[len(OBSERVATION) :] in features.images.values():
        image = _picture(final[name], None, "final observation")
        return (image if spec.shape[2:] == (3,) else image[..., :1]).reshape(1, *spec.shape)
    return np.frombuffer(final[name], spec.dtype).reshape(1, *spec.shape)


def _names(names: Any) -> tuple[str, ...]:
    """Of elements: LeRobot writes a list, or a mapping of groups to lists."""
    if isinstance(names, Mapping):
        parts = [v if isinstance(v, list) else [v] for v in names.values()]
        names = [name for part in parts for name in part]
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _rows_first(shape: tuple[int, ...], feature: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of pictures as (H, W, C); some data sets say (C, H, W)."""
    names = _names(feature.get("names"))
    if len(shape) == 3 and (
        names[:1] in (("channels",), ("channel",)) or (shape[0] in (1, 3) and shape[2] > 4)
    ):
        return (shape[1], shape[2], shape[0])
    return shape


def _require_forward(times_s: Array, what: str) -> None:
    """Raise CodecError unless each step came after the one before."""
    back = np.diff(times_s) <= 0
    if back.any():
        raise CodecError(
            what, got=f"time that runs backwards at step {int(np.argmax(back)) + 1}",
            expected="each step after the one before",
        )  # fmt: skip


def _bytes(root: Path, value: Any) -> bytes:
    """A picture of a column: its bytes, or those of the file that it names."""
    if isinstance(value, dict) and value.get("bytes"):
        return bytes(value["bytes"])
    name = value.get("path") if isinstance(value, dict) else value
    if not name:
        raise CodecError(f"picture of {root}", got="nothing", expected="its bytes")
    try:
        return inside(root, str(name)).read_bytes()
    except OSError as error:
        raise CodecError(f"picture {name} of {root}", got=error.strerror) from error


def _picture(data: bytes, size: tuple[int, int] | None, what: str) -> Array:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise CodecError(f"picture of {what}", got=f"{len(data)} bytes", expected="PNG or JPEG")
    if size is not None and image.shape[:2] != size:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1])


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CodecError(f"{path}", got=str(error), expected="JSON") from error
    if not isinstance(data, dict):
        raise CodecError(f"{path}", got=type(data).__name__, expected="a mapping")
    return data


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise CodecError(f"{path}", got=str(error), expected="a line of JSON for each") from error


def _damaged(path: Path, error: Exception) -> CodecError:
    return CodecError(
        f"{path}", got=" ".join(str(error).split())[:300], expected="a whole parquet file",
        hint="It may be cut short",
    )  # fmt: skip
