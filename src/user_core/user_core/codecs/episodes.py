"""Episode files: recorded episodes in one portable file, for demonstrations and exchange.

A file is a zip archive of ``.npy`` arrays and JSON, so ``numpy.load(file)`` opens it anywhere
without this package; each member carries a CRC-32, episodes are written and read one at a
time, and nothing in it is executed (no pickle)::

    dataset.json                    format, version, schema
    000000/episode.json             identity, source, robot, task, result, first row
    000000/observation.<name>.npy   one array (rows, ...) per column of the schema
    000001/...

The last row of an episode is its final observation, see
:class:`~user_core.types.TrajectorySchema`.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from user_core.errors import CodecError, SpecError
from user_core.runtime.files import replace_durably
from user_core.specs import Array, ArraySpec
from user_core.types import (
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectorySchema,
)

FORMAT = "user-episodes"
VERSION = 1
_DATASET = "dataset.json"
_EPISODE = "episode.json"
_JSON_BYTES = 2**20
_npy: Any = npy_format  # it has no types
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal content gives equal files


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode, or what is left of one, with its rows.

    Attributes:
        key: Identity.
        source: Why it was recorded.
        columns: Rows by column, (n, ...), consecutive.
        result: What came of it; None where nobody told.
        robot: Name of the robot.
        task: Name of the task.
        first_row: Index of the first row within the episode.
    """

    key: EpisodeKey
    source: EpisodeSource
    columns: Mapping[str, Array]
    result: EpisodeResult | None = None
    robot: str = ""
    task: str = ""
    first_row: int = 0

    def __len__(self) -> int:
        return len(self.columns["reward"])


class EpisodeFileWriter:
    """Writes an episode file. It appears under its name when it is complete.

    Args:
        path: The file; replaced when it is there.
        schema: Schema of all its episodes.
        compress: Whether to deflate; images hardly shrink, and it is slow.
    """

    def __init__(self, path: str | Path, schema: TrajectorySchema, compress: bool = False) -> None:
        self._path, self._schema = Path(path), schema
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        self._archive = zipfile.ZipFile(self._partial, "w")
        self._count = 0
        self._write_json(
            _DATASET, {"format": FORMAT, "version": VERSION, "schema": schema.to_dict()}
        )

    def __enter__(self) -> EpisodeFileWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        replace_durably(self._partial, self._path)

    def __len__(self) -> int:
        return self._count

    def add(self, episode: RecordedEpisode) -> None:
        """Append an episode. Raises SpecError unless its columns are of the schema."""
        self._schema.check(episode.columns)
        folder = f"{self._count:06d}"
        self._write_json(
            f"{folder}/{_EPISODE}",
            {
                "key": asdict(episode.key),
                "source": int(episode.source),
                "robot": episode.robot,
                "task": episode.task,
                "first_row": episode.first_row,
                "result": None if episode.result is None else asdict(episode.result),
            },
        )
        for name, array in episode.columns.items():
            with self._open(f"{folder}/{name}.npy") as member:
                _npy.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
        self._count += 1

    def _write_json(self, name: str, data: Mapping[str, Any]) -> None:
        with self._open(name) as member:
            member.write(json.dumps(data, allow_nan=False).encode())

    def _open(self, name: str) -> IO[bytes]:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.compress_type = self._method
        return self._archive.open(info, "w", force_zip64=True)


class EpisodeFileReader:
    """Reads an episode file that may come from anybody, one episode at a time.

    Raises:
        CodecError: It is no episode file, of another version, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._archive = zipfile.ZipFile(self._path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise CodecError(
                f"episode file {path}", got=str(error), expected="a zip archive"
            ) from error
        try:
            head = self._read_json(_DATASET)
            if head.get("format") != FORMAT or head.get("version") != VERSION:
                raise CodecError(
                    f"episode file {path}",
                    got=f"format {head.get('format')!r}, version {head.get('version')!r}",
                    expected=f"{FORMAT!r}, version {VERSION}",
                )
            self.schema = TrajectorySchema.from_dict(head["schema"])
        except (KeyError, AttributeError, TypeError, SpecError) as error:
            self._archive.close()
            raise self._damaged(_DATASET, error) from error
        except CodecError:
            self._archive.close()
            raise
        names = (name.split("/") for name in self._archive.namelist())
        self._folders = sorted({n[0] for n in names if len(n) == 2 and n[1] == _EPISODE})

    def __enter__(self) -> EpisodeFileReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()

    def __len__(self) -> int:
        return len(self._folders)

    def __iter__(self) -> Iterator[RecordedEpisode]:
        """The episodes; raises CodecError at one that is damaged or not of the schema."""
        for folder in self._folders:
            yield self._episode(folder)

    def _episode(self, folder: str) -> RecordedEpisode:
        values = self._read_json(f"{folder}/{_EPISODE}")
        try:
            result = values["result"]
            episode = RecordedEpisode(
                key=_key(values["key"]),
                source=EpisodeSource(values["source"]),
                columns=self._columns(folder),
                result=None if result is None else _result(result),
                robot=str(values["robot"]),
                task=str(values["task"]),
                first_row=int(values["first_row"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, (CodecError, SpecError)):
                raise
            raise self._damaged(f"{folder}/{_EPISODE}", error) from error
        return episode

    def _columns(self, folder: str) -> dict[str, Array]:
        columns: dict[str, Array] = {}
        rows: int | None = None
        for name, spec in self.schema.columns.items():
            array = self._read_array(f"{folder}/{name}.npy", spec, rows)
            rows = len(array)
            columns[name] = array
        return columns

    def _read_array(self, name: str, spec: ArraySpec, rows: int | None) -> Array:
        """Read one array, after its header and size were found to be right."""
        try:
            info = self._archive.getinfo(name)
            with self._archive.open(info) as member:
                version = _npy.read_magic(member)
                if version != (1, 0):
                    raise ValueError(f"version {version} of an array")
                shape, fortran, dtype = _npy.read_array_header_1_0(member)
                wanted = (shape[0] if rows is None and shape else rows, *spec.shape)
                if shape != wanted or dtype != np.dtype(spec.dtype) or fortran:
                    raise ValueError(f"{dtype}{list(shape)}, not {spec.dtype}{list(wanted)}")
                nbytes = shape[0] * spec.nbytes
                if nbytes > info.file_size:
                    raise ValueError(f"{info.file_size} bytes for {nbytes}")
                data = member.read(nbytes + 1)
        except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error,
                NotImplementedError) as error:  # fmt: skip
            raise self._damaged(name, error) from error
        if len(data) != nbytes:
            raise self._damaged(name, ValueError(f"{len(data)} bytes for {nbytes}"))
        return np.frombuffer(data, dtype).reshape(shape) if data else np.empty(shape, dtype)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            info = self._archive.getinfo(name)
            if info.file_size > _JSON_BYTES:
                raise ValueError(f"{info.file_size} bytes")
            data = json.loads(self._archive.read(info))
        except (KeyError, OSError, ValueError, RecursionError, EOFError, zipfile.BadZipFile,
                zlib.error, NotImplementedError) as error:  # fmt: skip
            raise self._damaged(name, error) from error
        if not isinstance(data, dict):
            raise self._damaged(name, TypeError(f"a {type(data).__name__}, not a mapping"))
        return data

    def _damaged(self, member: str, error: Exception) -> CodecError:
        return CodecError(
            f"{member} in episode file {self._path}",
            got=f"{type(error).__name__}: {error}",
            expected=f"a whole {FORMAT} file, version {VERSION}",
        )


def _key(data: Mapping[str, Any]) -> EpisodeKey:
    return EpisodeKey(str(data["producer"]), int(data["incarnation"]), int(data["number"]))


def _result(data: Mapping[str, Any]) -> EpisodeResult:
    integers = (
        "length", "interventions", "first_version", "last_version", "start_ns", "end_ns",
    )  # fmt: skip
    return EpisodeResult(
        key=_key(data["key"]),
        source=EpisodeSource(data["source"]),
        outcome=Outcome(data["outcome"]),
        episode_return=float(data["episode_return"]),
        reason=str(data["reason"]),
        **{name: int(data[name]) for name in integers},
    )
