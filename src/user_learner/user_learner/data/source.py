"""What a data set in another format is to the import: a description, and episodes of named arrays.

A format is a :class:`Format`, registered in the entry-point group ``user.data_formats``. It opens
a path as a :class:`Source`. Nothing that comes from a source is trusted: names are data, paths stay
in the directory of the data set (:func:`inside`), and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode, is_episode_file
from user_core.errors import CodecError, PluginError, SuiteError
from user_core.specs import Array, RobotSpec
from user_core.types import TrajectorySchema
from user_learner.replay.index import store_at

GROUP = "user.data_formats"


@dataclass(frozen=True)
class Field:
    """One named array of a data set, a row for each step.

    Attributes:
        shape: Of one row.
        dtype: As numpy names it.
        unit: As far as it is known.
        names: Of the elements of a vector, as far as they are known.
        is_image: Whether it is a picture (H, W, C).
        is_observation: Whether it may have one more row than there are steps: what was seen last.
        note: What else a person should know of it.
    """

    shape: tuple[int, ...]
    dtype: str
    unit: str = ""
    names: tuple[str, ...] = ()
    is_image: bool = False
    is_observation: bool = False
    note: str = ""


@dataclass(frozen=True)
class Description:
    """What a data set says of itself.

    Attributes:
        format: Name of the format.
        fields: Its arrays by name.
        period_s: Time between two steps; None where nobody says.
        robot: Name of the robot; empty where nobody says.
        episodes: How many there are.
        steps: How many steps in all; -1 where only reading tells.
        tasks: Names of the tasks.
        as_it_was: Schema of the store that this was exported from; None for data of others.
        spec: What the columns of that store mean, where it is known.
        roles: Names of the fields that are, by the rules of the format, the ``action``, the
            ``reward``, ``terminated``, ``truncated``, ``success``, ``time``.
        notes: What a person should know: gaps, rates that vary, what is missing.
        contract: A robot's file that the data suggest, YAML, where they are read by one and none
            was given.
    """

    format: str
    fields: Mapping[str, Field]
    period_s: float | None = None
    robot: str = ""
    episodes: int = 0
    steps: int = -1
    tasks: tuple[str, ...] = ()
    as_it_was: TrajectorySchema | None = None
    spec: RobotSpec | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    contract: str = ""


@dataclass(frozen=True)
class EpisodeRef:
    """An episode that can be read.

    Attributes:
        number: Its place in the data set.
        steps: Its steps; -1 where only reading tells.
        place: Where it is and how the file there looks (size, time of change): equal as long as
            nothing changed, so that an import that is continued need not read it again.
    """

    number: int
    steps: int = -1
    place: str = ""


@dataclass
class SourceEpisode:
    """An episode of a data set.

    Attributes:
        fields: Arrays by name, each with a row per step; observations may have one more row.
        steps: Number of steps.
        identity: Digest of what it holds, in hexadecimal: equal for an equal episode elsewhere.
        task: Name of its task.
        stamps_ns: When each step began, (steps,) int64; None where nobody says.
        success: Whether it solved its task; None where the data set does not say.
        recorded: The whole episode as a store had it, where it was exported from one.
    """

    fields: Mapping[str, Array]
    steps: int
    identity: str
    task: str = ""
    stamps_ns: Array | None = None
    success: bool | None = None
    recorded: RecordedEpisode | None = None


class Source(Protocol):
    """A data set that is open for reading."""

    path: Path

    def describe(self) -> Description:
        """What it says of itself."""

    def episodes(self) -> Sequence[EpisodeRef]:
        """Its episodes; cheap."""

    def read(
        self,
        ref: EpisodeRef,
        wanted: Collection[str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceEpisode:
        """Read one episode.

        Args:
            ref: Which.
            wanted: Names of the fields; None for all.
            sizes: Height and width that images are brought to while they are decoded.

        Raises:
            SuiteError: It is damaged; others may be whole.
        """

    def close(self) -> None:
        """Close it. Idempotent."""


@runtime_checkable
class Format(Protocol):
    """A format of data sets."""

    name: str
    #: What it reads, for people.
    title: str

    def recognises(self, path: Path) -> bool:
        """Whether a path looks like a data set of this format; reads little, imports no library."""

    def open(self, path: Path, options: Mapping[str, Any]) -> Source:
        """Open a data set.

        Args:
            path: Where it is.
            options: What only this format understands, from the mapping's ``options``.

        Raises:
            SuiteError: It cannot be read; says why.
        """


def formats() -> dict[str, Format]:
    """All installed formats by name."""
    found: dict[str, Format] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        found[point.name] = point.load()
    return found


def find_format(path: Path, name: str = "") -> Format:
    """The format of a path: the named one, or the one that recognises it.

    Raises:
        CodecError: None does, or there is nothing.
        PluginError: There is no format of this name.
    """
    known = formats()
    if name:
        if name not in known:
            raise PluginError("data format", got=name, expected=f"one of {sorted(known)}")
        if path.exists() and not known[name].recognises(path):
            others = [one.name for one in known.values() if one.recognises(path)]
            if others:
                raise CodecError(
                    f"data set {path}", got=f"data of the format {' or '.join(others)}",
                    expected=name, hint="format in the mapping, or --format, says which it is",
                )  # fmt: skip
        return known[name]
    if not path.exists():
        raise CodecError(f"data set {path}", got="nothing there", expected="a file or directory")
    if is_episode_file(path):
        raise CodecError(
            f"data set {path}", got="an episode file of `user replay export`", expected="data of another format",
            hint=f"user replay import {path} --into STORE takes it",
        )  # fmt: skip
    for one in known.values():
        if one.recognises(path):
            return one
    if store_at(path) is not None:
        raise CodecError(
            f"data set {path}", got="a replay store", expected="data of another format",
            hint="user replay info and user data check look into it, user replay merge takes it into another one",
        )  # fmt: skip
    raise CodecError(
        f"data set {path}",
        got="an empty folder" if path.is_dir() and not any(path.iterdir()) else "no format that is known",
        expected="; ".join(f"{one.name}: {one.title}" for one in known.values()),
        hint="--format NAME says which it is",
    )  # fmt: skip


def open_source(
    path: str | Path, name: str = "", options: Mapping[str, Any] | None = None
) -> AbstractContextManager[Source]:
    """Open a data set of any installed format, ``with open_source(path) as source``."""
    path = Path(path)
    return closing(find_format(path, name).open(path, options or {}))


def inside(root: Path, name: str) -> Path:
    """A path below a directory, by a name that may come from anybody.

    Symbolic links are followed: a cache of downloads is made of them, and who made the directory
    made them.

    Raises:
        CodecError: The name leaves the directory.
    """
    path = Path(os.path.normpath(root / name))
    base = Path(os.path.normpath(root))
    if "\0" in name or os.path.isabs(name) or (path != base and base not in path.parents):
        raise CodecError(
            f"path in data set {root}", got=repr(name[:200]), expected="a path below its directory"
        )
    return path


def place_of(path: Path, *more: object) -> str:
    """Where something is and how its file looks, for :attr:`EpisodeRef.place`."""
    try:
        found = path.stat()
        look: tuple[object, ...] = (found.st_size, found.st_mtime_ns)
    except OSError:
        look = ("missing",)
    return "|".join(map(str, (path.absolute(), *look, *more)))


def identity_of(parts: Iterator[tuple[str, bytes | memoryview]]) -> str:
    """Digest of named pieces of content, whatever their order."""
    whole = hashlib.blake2b(digest_size=16)
    for name, content in sorted(parts, key=lambda part: part[0]):
        whole.update(f"{name}:{len(content)}:".encode())
        whole.update(content)
    return whole.hexdigest()


def array_parts(fields: Mapping[str, Array]) -> Iterator[tuple[str, bytes | memoryview]]:
    """Arrays as pieces of content."""
    for name, array in fields.items():
        data = np.ascontiguousarray(array)
        yield f"{name}:{data.dtype.str}:{data.shape}", data.reshape(-1).view(np.uint8).data


def plain_array(array: Any, what: str) -> Array:
    """An array of numbers or truth values, or an error that says what came instead."""
    found = np.asarray(array)
    if found.dtype.kind not in "biuf":
        raise CodecError(
            what, got=f"values of type {found.dtype}",
            expected="numbers (objects would have to be unpickled, which is never done)",
        )  # fmt: skip
    if found.dtype.byteorder == ">":
        found = found.astype(found.dtype.newbyteorder("<"))
    if found.dtype == np.float16 or found.dtype.itemsize > 8:
        found = found.astype(np.float32 if found.dtype.itemsize < 4 else np.float64)
    return found


def is_picture(shape: Sequence[int], dtype: str) -> bool:
    """Whether rows of this shape are pictures: (H, W, 1 to 4), or (H, W) large enough, uint8."""
    if dtype != "uint8":
        return False
    if len(shape) == 3:
        return shape[2] in (1, 3, 4) and shape[0] * shape[1] >= 64
    return len(shape) == 2 and shape[0] * shape[1] >= 1024


def in_one_line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error) if isinstance(error, SuiteError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
