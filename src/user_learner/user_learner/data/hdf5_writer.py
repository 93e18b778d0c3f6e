"""Writes episodes as an HDF5 file as robomimic lays it out; what it has no place for stands beside it.

Each episode is ``data/demo_N`` with ``actions``, ``rewards``, ``dones``, ``obs/NAME`` and
``next_obs/NAME``. Its group ``user`` has the other columns of the steps, and its attribute
``user_record`` identity and result, so that it comes back as it was. The file appears under its
name when it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import CodecError
from user_core.runtime.files import replace_durably
from user_core.specs import Array, RobotSpec
from user_core.types import OBSERVATION, EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.data.extras import library
from user_learner.replay.layout import result_from_dict, result_to_dict

MEANING = "user_meaning"
RECORD = "user_record"
VERSION = 1
#: Columns that have a place in robomimic's layout, or follow from the others.
_PLACED = {"action": "actions", "reward": "rewards"}
_STAMP = "final_stamp_ns"


class Hdf5Writer:
    """Writes episodes of one schema to an HDF5 file.

    Args:
        path: The file; must not be there.
        schema: Of the episodes.
        spec: What they mean; None when nobody knows.

    Raises:
        CodecError: There is a file of this name.
    """

    #: Nothing is continued: an export that was stopped begins again.
    written: frozenset[tuple[str, int, int]] = frozenset()
    loss_psnr_db = float("inf")

    def __init__(self, path: str | Path, schema: TrajectorySchema, spec: RobotSpec | None) -> None:
        h5py = library("h5py", "HDF5")
        self.path, self._schema = Path(path), schema
        if self.path.exists():
            raise CodecError(f"{path}", got="a file of this name", expected="a new one")
        self._part = self.path.with_name(self.path.name + ".part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: Any = h5py.File(self._part, "w")
        about = {
            "version": VERSION, "schema": schema.to_dict(), "spec": spec.to_dict() if spec else None
        }  # fmt: skip
        self._file[MEANING] = json.dumps(about)
        self._data = self._file.create_group("data")
        environment = {
            "env_name": spec.robot if spec else "unknown", "type": 2,
            "env_kwargs": {"control_freq": 1 / spec.period_s} if spec else {},
        }  # fmt: skip
        self._data.attrs["env_args"] = json.dumps(environment)
        self._count = self._total = 0

    def add(self, episode: RecordedEpisode) -> None:
        """Write an episode that has at least one step. Raises OSError when the disk is full."""
        columns, step = episode.columns, ~episode.columns["final"]
        group = self._data.create_group(f"demo_{self._count}")
        steps = int(step.sum())
        has_final = steps < len(step)
        group.attrs["num_samples"] = steps
        for name in self._schema.columns:
            rows = columns[name]
            if name.startswith(OBSERVATION):
                short = name[len(OBSERVATION) :]
                group[f"obs/{short}"] = rows[:steps]
                if has_final:
                    group[f"next_obs/{short}"] = rows[1:]
            elif name in _PLACED:
                group[_PLACED[name]] = rows[:steps]
            elif name != "final":
                group[f"user/{name}"] = rows[:steps]
        group["dones"] = (columns["terminated"] | columns["truncated"])[:steps].astype(np.int64)
        key = episode.key
        group.attrs[RECORD] = json.dumps({
            "episode": [key.producer, key.incarnation, key.number], "source": int(episode.source),
            "robot": episode.robot, "task": episode.task, "first_row": episode.first_row,
            "result": result_to_dict(episode.result), "final": has_final,
            _STAMP: int(columns["stamp_ns"][-1]) if has_final else 0,
        })  # fmt: skip
        self._count += 1
        self._total += steps

    def finish(self) -> None:
        """Make the file durable, under its name."""
        self._data.attrs["total"] = self._total
        self._file.close()
        with open(self._part, "rb") as stream:
            os.fsync(stream.fileno())
        replace_durably(self._part, self.path)

    def abort(self) -> None:
        """Remove what is not finished. Idempotent."""
        with suppress(OSError, RuntimeError):  # a full disk: what is left is removed all the same
            self._file.close()
        self._part.unlink(missing_ok=True)


def meaning_of(file: Any) -> tuple[TrajectorySchema, RobotSpec | None] | None:
    """Schema and spec of an export of ours; None for files of others. Raises CodecError."""
    if MEANING not in file:
        return None
    try:
        said = json.loads(file[MEANING].asstr()[()])
        if said["version"] != VERSION:
            raise ValueError(f"version {said['version']}")
        spec = said["spec"]
        return TrajectorySchema.from_dict(said["schema"]), spec and RobotSpec.from_dict(spec)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CodecError(f"{MEANING} of {file.filename}", got=str(error)) from error


def recorded_of(
    schema: TrajectorySchema, record: str, fields: Mapping[str, Array], steps: int, what: str
) -> RecordedEpisode:
    """An episode of ours as it was. Raises CodecError."""
    try:
        said = json.loads(record)
        columns: dict[str, Array] = {}
        for name, spec in schema.columns.items():
            if name.startswith(OBSERVATION):
                rows = fields[f"obs/{name[len(OBSERVATION) :]}"]
            elif name == "final":
                rows = np.zeros(steps, bool)
            else:
                rows = fields[_PLACED.get(name, f"user/{name}")]
            if said["final"] and len(rows) == steps:
                last = np.zeros((1, *spec.shape), spec.dtype)
                last[...] = said[_STAMP] if name == "stamp_ns" else name == "final"
                rows = np.concatenate([rows, last])
            columns[name] = np.asarray(rows, spec.dtype)
        return RecordedEpisode(
            EpisodeKey(*said["episode"]), EpisodeSource(said["source"]), columns,
            result_from_dict(said["result"]), str(said["robot"]), str(said["task"]),
            int(said["first_row"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise CodecError(what, got=repr(error), expected="what the export kept") from error
