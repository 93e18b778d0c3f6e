"""Writes episodes as a Minari data set of its HDF5 backend; Minari is not needed for it.

The directory is the data set (``data/main_data.hdf5``, ``data/metadata.json``): Minari finds it where it stands below
``MINARI_DATASETS_PATH``. Pictures of 32 pixels or more are PNG in place of Minari's JPEG, which it opens as well and
which lose nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import CodecError
from user_core.runtime.files import sync_directory
from user_core.specs import Array, ArraySpec, RobotSpec
from user_core.types import OBSERVATION, TrajectorySchema
from user_learner.data.extras import library

#: Whose metadata these are.
_MINARI = "0.5.3"
_SMALLEST = 32


class MinariWriter:
    """Writes episodes of one schema as a Minari data set.

    Args:
        path: Its directory, whose name is the data set's (``-v0`` is added where it has no
            version); must not be there. It appears when it is complete.
        schema: Of the episodes.
        spec: What they mean; None when nobody knows.

    Raises:
        CodecError: There is something of this name.
    """

    #: Nothing is continued: an export that was stopped begins again.
    written: frozenset[tuple[str, int, int]] = frozenset()
    loss_psnr_db = float("inf")

    def __init__(self, path: str | Path, schema: TrajectorySchema, spec: RobotSpec | None) -> None:
        h5py = library("h5py", "Minari")
        path = Path(path)
        name = re.sub(r"[^\w-]", "_", path.name)
        self.path = path.with_name(name if re.search(r"-v\d+$", name) else f"{name}-v0")
        if self.path.exists():
            raise CodecError(f"{self.path}", got="something of this name", expected="a new one")
        self._schema, self._spec = schema, spec
        self._part = self.path.with_name(self.path.name + ".part")
        shutil.rmtree(self._part, ignore_errors=True)
        (self._part / "data").mkdir(parents=True)
        self._file: Any = h5py.File(self._part / "data" / "main_data.hdf5", "w", track_order=True)
        self._names = [n for n in schema.columns if n.startswith(OBSERVATION)]
        self._coded = {n for n in self._names if _is_picture(schema.columns[n])}
        self._vlen = h5py.vlen_dtype(np.uint8)
        self._count = self._steps = 0

    def add(self, episode: RecordedEpisode) -> None:
        """Write an episode that has its final observation; one that has none ends a step earlier.
        Raises OSError when the disk is full."""
        columns = episode.columns
        steps = int((~columns["final"]).sum())
        if steps == len(columns["final"]):
            steps -= 1  # the last observation is the final one
        if steps < 1:
            return
        group = self._file.create_group(f"episode_{self._count}")
        group.attrs["id"], group.attrs["total_steps"] = self._count, steps
        for name in self._names:
            place = f"observations/{name.removeprefix(OBSERVATION)}"
            rows = columns[name][: steps + 1]
            if name in self._coded:
                data = group.create_dataset(place, (len(rows),), dtype=self._vlen)
                for at, row in enumerate(rows):
                    data[at] = _png(row)
            else:
                group[place] = rows
        group["actions"] = columns["action"][:steps]
        group["rewards"] = columns["reward"][:steps].astype(np.float64)
        group["terminations"] = columns["terminated"][:steps]
        truncated = columns["truncated"][:steps].copy()
        truncated[-1] |= not columns["terminated"][steps - 1]
        group["truncations"] = truncated
        group.create_group("infos")
        self._count += 1
        self._steps += steps

    def finish(self) -> None:
        """Make the data set durable, under its name."""
        self._file.close()
        data = self._part / "data"
        observed = {
            name.removeprefix(OBSERVATION): space_of(self._schema.columns[name])
            for name in self._names
        }
        action = self._spec.action if self._spec else self._schema.columns["action"]
        said: Mapping[str, Any] = {
            "total_episodes": self._count, "total_steps": self._steps, "data_format": "hdf5",
            "observation_space": json.dumps({"type": "Dict", "subspaces": observed}),
            "action_space": json.dumps(space_of(action)), "dataset_id": self.path.name,
            "minari_version": _MINARI, "algorithm_name": "unknown", "author": [], "author_email": [],
            "description": f"Episodes of {self._spec.robot if self._spec else 'a robot'}, from USER",
            "dataset_size": round((data / "main_data.hdf5").stat().st_size / 1e6, 1),
        }  # fmt: skip
        (data / "metadata.json").write_text(json.dumps(said), encoding="utf-8")
        for file in data.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        self._part.rename(self.path)
        sync_directory(self.path.parent)

    def abort(self) -> None:
        """Remove what is not finished. Idempotent."""
        with suppress(OSError, RuntimeError):  # a full disk: what is left is removed all the same
            self._file.close()
        shutil.rmtree(self._part, ignore_errors=True)


def space_of(spec: ArraySpec) -> dict[str, Any]:
    """A Gymnasium Box, as Minari writes it."""
    whole = np.dtype(spec.dtype)
    low, high = (-np.inf, np.inf) if whole.kind == "f" else (0, 1)
    if whole.kind in "iu":
        low, high = np.iinfo(whole).min, np.iinfo(whole).max
    known = [spec.low is not None, spec.high is not None]
    bounds = [spec.low if known[0] else low, spec.high if known[1] else high]
    plain = [
        np.broadcast_to(
            np.asarray(b, whole if whole.kind != "b" else np.uint8), spec.shape
        ).tolist()
        for b in bounds
    ]
    return {
        "type": "Box", "dtype": whole.name, "shape": list(spec.shape),
        "low": plain[0], "high": plain[1],
    }  # fmt: skip


def _is_picture(spec: ArraySpec) -> bool:
    """Whether Minari takes it for one, and decodes it."""
    return (
        spec.dtype == "uint8"
        and len(spec.shape) in (2, 3)
        and min(spec.shape[:2]) >= _SMALLEST
        and spec.shape[2:] in ((), (3,))
        and spec.low in (None, 0)
        and spec.high in (None, 255)
    )


def _png(image: Array) -> Array:
    import cv2

    pixels = image[..., ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise CodecError("picture", got=image.shape, expected="one that PNG can hold")
    return np.asarray(data).reshape(-1)
