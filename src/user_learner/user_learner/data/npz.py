"""A directory of npz files, an episode each (or one such file): arrays by name, never pickled."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from user_core.errors import CodecError
from user_core.specs import Array
from user_learner.data.hdf5 import ACTIONS, natural, observations_of, roles_of, stamps_of
from user_learner.data.source import (
    Description,
    EpisodeRef,
    Field,
    SourceEpisode,
    array_parts,
    identity_of,
    in_one_line,
    is_picture,
    place_of,
    plain_array,
)


class NpzFormat:
    """npz files."""

    name = "npz"
    title = "an npz file, or a directory of them, each an episode"

    def recognises(self, path: Path) -> bool:
        """Whether there are npz files."""
        if path.is_dir():
            return next(path.glob("*.npz"), None) is not None
        return path.suffix == ".npz" and path.is_file()

    def open(self, path: Path, options: Mapping[str, Any]) -> NpzSource:
        """Open a file or directory."""
        return NpzSource(path, float(options.get("period_s") or 0.0))


FORMAT = NpzFormat()


class NpzSource:
    """npz files that are open for reading.

    Args:
        path: One file, or a directory; not trusted.
        period_s: Time between steps; 0 for unknown.

    Raises:
        CodecError: There is no file, or none of them can be read.
    """

    def __init__(self, path: Path, period_s: float = 0.0) -> None:
        self.path, self._period_s = path, period_s
        files = sorted(path.glob("*.npz"), key=lambda p: natural(p.name))
        self._files = files if path.is_dir() else [path]

    def describe(self) -> Description:
        """What it says of itself, by its first file that can be read."""
        notes, error = [], None
        for file in self._files:
            try:
                arrays = self._load(file)
            except CodecError as damaged:
                error = damaged
                continue
            steps = self._steps(arrays, file)
            found = {}
            for name, array in arrays.items():
                if array.ndim and len(array) >= steps:
                    shape, dtype = array.shape[1:], array.dtype.name
                    found[name] = Field(
                        shape, dtype, is_image=is_picture(shape, dtype),
                        is_observation=name.startswith(("obs", "next_obs")),
                    )  # fmt: skip
            if error is not None:
                notes.append(in_one_line(error))
            roles = roles_of(found)
            found = observations_of(found, roles)
            period = self._period_s or None
            return Description(
                "npz", found, period, "", len(self._files), roles=roles, notes=tuple(notes)
            )
        raise error or CodecError(f"{self.path}", got="no npz file", expected="one an episode")

    def episodes(self) -> Sequence[EpisodeRef]:
        """One for each file."""
        return [EpisodeRef(i, -1, place_of(file)) for i, file in enumerate(self._files)]

    def read(
        self,
        ref: EpisodeRef,
        wanted: Collection[str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceEpisode:
        """Read an episode; raises CodecError where it is damaged, or would have to be unpickled."""
        file = self._files[ref.number]
        fields = self._load(file)
        steps = self._steps(fields, file)
        stamps = stamps_of(fields, str(file))
        return SourceEpisode(fields, steps, identity_of(array_parts(fields)), stamps_ns=stamps)

    def close(self) -> None:
        """Nothing is kept open."""

    def _load(self, file: Path) -> dict[str, Array]:
        try:
            with np.load(file, allow_pickle=False) as data:
                return {name: plain_array(data[name], f"{name} of {file}") for name in data.files}
        except CodecError:
            raise
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise CodecError(
                f"{file}", got=" ".join(str(error).split()),
                expected="a whole npz file of numbers (objects are never unpickled)",
            ) from error  # fmt: skip

    def _steps(self, arrays: Mapping[str, Array], file: Path) -> int:
        for name in ACTIONS:
            if name in arrays and arrays[name].ndim:
                return len(arrays[name])
        raise CodecError(f"{file}", got=f"arrays {sorted(arrays)}", expected="one named action")
