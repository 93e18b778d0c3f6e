"""Writes LeRobotDataset v3, file by file, so that an export that was killed continues.

A file of numbers, its videos and its tables are made durable before LeRobot's table of episodes
names them; what is not named is written again. ``meta/info.json`` comes last: until then LeRobot
finds no data set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.images import psnr_db
from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import CodecError, ConfigError
from user_core.runtime.files import write_atomically
from user_core.specs import Array, RobotSpec
from user_core.types import OBSERVATION, TrajectorySchema
from user_learner.data.extras import library
from user_learner.data.lerobot import layout as at
from user_learner.data.lerobot.layout import Features, numbered, to_arrow, write_parquet
from user_learner.data.lerobot.statistics import joined, of_images, of_numbers
from user_learner.data.lerobot.video import CODINGS, VideoWriter
from user_learner.replay.layout import result_to_dict

#: A file is full with this many steps, or with this many bytes of pictures before coding.
FILE_STEPS = 20_000
FILE_BYTES = 2 * 2**30
_PERIOD_UNKNOWN_S = 0.1


class LeRobotWriter:
    """Writes episodes of one schema as a LeRobotDataset v3.

    Args:
        path: Its directory: new, or of an export that was not finished.
        schema: Of the episodes.
        spec: What they mean; None when nobody knows. The rate is then taken for 10 Hz.
        coding: How images are kept, see :data:`CODINGS`.
        file_steps: Steps of a file.
        origin: What is exported (a store and a filter): another one is not mixed into it.

    Raises:
        CodecError: Something else is there.
        ConfigError: The coding is not known.
    """

    def __init__(
        self,
        path: str | Path,
        schema: TrajectorySchema,
        spec: RobotSpec | None,
        coding: str = "h264",
        file_steps: int = FILE_STEPS,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self._arrow = library("pyarrow", at.PARQUET)
        if coding not in CODINGS:
            raise ConfigError("coding of images", got=coding, expected=f"one of {list(CODINGS)}")
        self.path, self._schema, self._coding = Path(path), schema, coding
        self._features = Features.of(schema)
        self._file_steps = file_steps
        self._rate: Fraction = at.rate_of(spec.period_s if spec else _PERIOD_UNKNOWN_S)
        self._robot = spec.robot if spec else ""
        self._about = {
            "version": at.OUR_VERSION,
            "schema": schema.to_dict(),
            "spec": spec.to_dict() if spec else None,
            "images": coding,
            "origin": dict(origin or {}),
        }
        self._tasks: dict[str, int] = {}
        self._losses: list[float] = []
        #: Episodes that earlier runs of this export have written: their identities.
        self.written: set[tuple[str, int, int]] = set()
        self._file = self._episode = self._frame = 0
        self._rows: list[dict[str, Any]] = []
        self._data: list[Any] = []
        self._ours: list[Any] = []
        self._records: list[dict[str, Any]] = []
        self._videos: dict[str, VideoWriter] = {}
        self._begin_or_continue(origin or {})
        self._open_file()

    @property
    def loss_psnr_db(self) -> float:
        """What the coding has lost of the pictures that were measured, dB; infinite without loss."""
        return psnr_db(float(np.mean(self._losses)) if self._losses else 0.0)

    def add(self, episode: RecordedEpisode) -> None:
        """Write an episode that has at least one step. Raises OSError when the disk is full."""
        columns = episode.columns
        steps = ~columns["final"]
        count = int(steps.sum())
        task = episode.task or at.NO_TASK
        task_index = self._tasks.setdefault(task, len(self._tasks))
        numbers = self._features.numbers(columns, steps)
        frames = np.arange(count)
        numbers |= {
            "timestamp": (frames / float(self._rate)).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, self._episode),
            "index": self._frame + frames,
            "task_index": np.full(count, task_index),
        }
        row: dict[str, Any] = {
            "episode_index": self._episode, "tasks": [task], "length": count,
            "data/chunk_index": self._file // at.CHUNK, "data/file_index": self._file % at.CHUNK,
            "dataset_from_index": self._frame, "dataset_to_index": self._frame + count,
        }  # fmt: skip
        statistics = {name: of_numbers(values) for name, values in numbers.items()}
        arrow = {name: to_arrow(values) for name, values in numbers.items()}
        for feature, name in self._features.images.items():
            images = self._features.pictures(name, columns, steps)
            statistics[feature] = of_images(images)
            self._file_bytes += images.nbytes
            if self._coding == "png":
                arrow[feature] = self._arrow.array(
                    [
                        {"bytes": png(image), "path": f"{i:06d}.png"}
                        for i, image in enumerate(images)
                    ],
                    self._arrow.struct(
                        [("bytes", self._arrow.binary()), ("path", self._arrow.string())]
                    ),
                )
                continue
            video = self._video(feature, images.shape[1:3])
            row |= {
                f"videos/{feature}/chunk_index": self._file // at.CHUNK,
                f"videos/{feature}/file_index": self._file % at.CHUNK,
                f"videos/{feature}/from_timestamp": len(video) / float(self._rate),
                f"videos/{feature}/to_timestamp": (len(video) + count) / float(self._rate),
            }
            video.add(images)
        for feature, values in statistics.items():
            row |= {f"stats/{feature}/{kind}": v.tolist() for kind, v in values.items()}
        row |= {"meta/episodes/chunk_index": self._file // at.CHUNK,
                "meta/episodes/file_index": self._file % at.CHUNK}  # fmt: skip
        self._rows.append(row)
        self._data.append(self._arrow.table(arrow))
        self._keep_ours(episode, steps)
        self._episode += 1
        self._frame += count
        self._steps += count
        if self._steps >= self._file_steps or self._file_bytes >= FILE_BYTES:
            self._close_file()
            self._open_file()

    def finish(self) -> None:
        """Write what is left, and what makes it a data set."""
        self._close_file()
        rows = list(self._all_rows())
        write_parquet(at.tasks_table(list(self._tasks)), self.path / at.TASKS)
        info = self._features.info(self._coding, self._rate)
        statistics = {}
        for feature in info if rows else ():
            kinds = [
                k.rpartition("/")[2] for k in rows[0] if k.rpartition("/")[0] == f"stats/{feature}"
            ]
            parts = [{k: np.array(row[f"stats/{feature}/{k}"]) for k in kinds} for row in rows]
            statistics[feature] = {k: v.tolist() for k, v in joined(parts).items()}
        write_atomically(self.path / at.STATISTICS, json.dumps(statistics))
        loss = self.loss_psnr_db
        about = {**self._about, "psnr_db": None if np.isinf(loss) else round(loss, 2)}
        write_atomically(self.path / at.OUR_MEANING, json.dumps(about, indent=1))
        rate = self._rate
        videos = any(feature["dtype"] == "video" for feature in info.values())
        write_atomically(self.path / at.INFO, json.dumps({
            "codebase_version": at.VERSION, "robot_type": self._robot or None,
            "total_episodes": self._episode, "total_frames": self._frame,
            "total_tasks": len(self._tasks), "chunks_size": at.CHUNK,
            "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
            "fps": int(rate) if rate.denominator == 1 else float(rate),
            "splits": {"train": f"0:{self._episode}"}, "data_path": at.DATA,
            "video_path": at.VIDEO if videos else None, "features": info,
        }, indent=4))  # fmt: skip

    def abort(self) -> None:
        """Leave what is not finished for a later run."""
        for video in self._videos.values():
            video.abort()
        self._videos = {}

    def _begin_or_continue(self, origin: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        mark = self.path / at.OUR_MEANING
        if mark.exists():
            try:
                before = json.loads(mark.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise CodecError(f"{mark}", got=str(error), expected="JSON") from error
            differing = [k for k in self._about if before.get(k) != self._about[k]]
            if "schema" in differing and _arrays(before) == _arrays(self._about):
                # Begun when names of elements were not told. What they are is in `spec`, which is compared, too.
                differing.remove("schema")
            edits = before.get("origin", {}).get("edits"), origin.get("edits")
            if differing == ["origin"] and edits[0] != edits[1]:
                raise CodecError(
                    f"data set {self.path}",
                    got=f"an export that began with {edits[0]} edits in the store's log, where there are {edits[1]} now",
                    expected="the same edits: what is written would be as before them, the rest as after them",
                    hint="Export to a new directory; this one stays as it is, and can be removed",
                )
            if differing:
                raise CodecError(
                    f"data set {self.path}", got=f"another export: its {', '.join(differing)} differs",
                    expected="a new directory, or the same export again to continue it",
                )  # fmt: skip
        elif any(self.path.iterdir()):
            raise CodecError(
                f"data set {self.path}", got="a directory with other files", expected="a new one"
            )
        (self.path / at.INFO).unlink(missing_ok=True)
        mark.parent.mkdir(exist_ok=True)
        write_atomically(mark, json.dumps(self._about, indent=1))
        parquet = library("pyarrow.parquet", at.PARQUET)
        for row in self._all_rows():
            self._episode, self._frame = row["episode_index"] + 1, row["dataset_to_index"]
            for task in row["tasks"]:
                self._tasks.setdefault(task, len(self._tasks))
        while (self.path / numbered(at.EPISODES, self._file)).exists():
            table = parquet.read_table(self.path / numbered(at.OUR_EPISODES, self._file))
            for text in table.column("record").to_pylist():
                key = json.loads(text)["episode"]
                self.written.add((key[0], key[1], key[2]))
            self._file += 1

    def _all_rows(self) -> Sequence[dict[str, Any]]:
        parquet = library("pyarrow.parquet", at.PARQUET)
        rows: list[dict[str, Any]] = []
        number = 0
        while (path := self.path / numbered(at.EPISODES, number)).exists():
            rows += parquet.read_table(path).to_pylist()
            number += 1
        return rows

    def _open_file(self) -> None:
        self._rows, self._data, self._ours, self._records = [], [], [], []
        self._videos = {}
        self._steps = self._file_bytes = 0

    def _video(self, feature: str, size: Sequence[int]) -> VideoWriter:
        if feature not in self._videos:
            path = self.path / numbered(at.VIDEO, self._file, feature)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._videos[feature] = VideoWriter(path, self._rate, (size[0], size[1]), self._coding)
        return self._videos[feature]

    def _keep_ours(self, episode: RecordedEpisode, steps: Array) -> None:
        kept = {name: to_arrow(episode.columns[name][steps]) for name in self._features.ours()}
        kept["episode_index"] = to_arrow(np.full(int(steps.sum()), self._episode))
        self._ours.append(self._arrow.table(kept))
        key = episode.key
        final: dict[str, bytes] = {}
        last = episode.columns["final"]
        for name in (
            (n for n in self._schema.columns if n.startswith(OBSERVATION)) if last.any() else ()
        ):
            short = name[len(OBSERVATION) :]
            rows = episode.columns[name][last]
            if short in self._features.images.values():
                final[name] = png(self._features.pictures(short, episode.columns, last)[0])
            else:
                final[name] = rows[0].tobytes()
        if last.any():
            final["stamp_ns"] = episode.columns["stamp_ns"][last][0].tobytes()
        self._records.append({
            "episode_index": self._episode,
            "record": json.dumps({
                "episode": [key.producer, key.incarnation, key.number],
                "source": int(episode.source), "robot": episode.robot, "task": episode.task,
                "first_row": episode.first_row, "result": result_to_dict(episode.result),
            }),
            "final": list(final.items()),
        })  # fmt: skip

    def _close_file(self) -> None:
        if not self._rows:
            return
        arrow, number = self._arrow, self._file
        for video in self._videos.values():
            self._losses.append(video.close())
        self._videos = {}
        write_parquet(arrow.concat_tables(self._data), self.path / numbered(at.DATA, number))
        write_parquet(arrow.concat_tables(self._ours), self.path / numbered(at.OUR_STEPS, number))
        final = arrow.map_(arrow.string(), arrow.binary())
        records = arrow.Table.from_pylist(self._records, arrow.schema(
            [("episode_index", arrow.int64()), ("record", arrow.string()), ("final", final)]
        ))  # fmt: skip
        write_parquet(records, self.path / numbered(at.OUR_EPISODES, number))
        table = arrow.Table.from_pylist(self._rows)
        write_parquet(table, self.path / numbered(at.EPISODES, number))
        self._file += 1


def png(image: Array) -> bytes:
    """A picture (H, W, 3) uint8 as PNG, without loss."""
    import cv2

    done, data = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise CodecError("picture", got=image.shape, expected="one that can be a PNG")
    return bytes(data.tobytes())


def _arrays(about: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Shape and dtype of each column, of what a data set says about itself."""
    schema = about.get("schema") or {}
    return {name: (column.get("shape"), column.get("dtype")) for name, column in schema.items()}
