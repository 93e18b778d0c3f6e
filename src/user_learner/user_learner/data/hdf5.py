"""HDF5: robomimic's files, and any other with a group for each episode.

robomimic: ``data/demo_0`` with ``actions``, ``rewards``, ``dones``, ``obs/NAME`` and
``next_obs/NAME`` (https://robomimic.github.io/docs/datasets/overview.html). In other files an
episode is each group that holds a data set named like an action; its other data sets are fields,
named by their path below it. Attributes are read as text and numbers, never unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from user_core.errors import CodecError
from user_core.specs import Array
from user_learner.data.extras import library
from user_learner.data.hdf5_writer import RECORD, meaning_of, recorded_of
from user_learner.data.source import (
    Description,
    EpisodeRef,
    Field,
    SourceEpisode,
    array_parts,
    identity_of,
    is_picture,
    place_of,
    plain_array,
)

ACTIONS = ("actions", "action")
_ROLES = {
    "reward": ("rewards", "reward"), "success": ("success", "successes", "is_success"),
    "terminated": ("terminations", "terminated", "terminals"), "done": ("dones", "done"),
    "truncated": ("truncations", "truncated", "timeouts"), "time": ("timestamps", "time", "stamp_ns"),
}  # fmt: skip
_OBSERVED = ("obs", "observations", "observation")
_MAGIC = b"\x89HDF\r\n\x1a\n"
_MOST_GROUPS = 1_000_000


class Hdf5Format:
    """HDF5 files of robomimic, and others with a group for each episode."""

    name = "hdf5"
    title = "an HDF5 file of robomimic, or one with a group for each episode"

    def recognises(self, path: Path) -> bool:
        """Whether a file begins as HDF5 does."""
        try:
            with open(path, "rb") as stream:
                return stream.read(8) == _MAGIC
        except OSError:
            return False

    def open(self, path: Path, options: Mapping[str, Any]) -> Hdf5Source:
        """Open a file."""
        return Hdf5Source(path, float(options.get("period_s") or 0.0))


FORMAT = Hdf5Format()


class Hdf5Source:
    """An HDF5 file that is open for reading.

    Args:
        path: The file; not trusted.
        period_s: Time between steps where the file does not say; 0 for unknown.

    Raises:
        CodecError: It is no HDF5 file, damaged, or without an episode.
    """

    #: Fields of which each row is a coded picture (JPEG, PNG), with the shape that it has.
    coded: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, path: Path, period_s: float = 0.0) -> None:
        self._h5py = library("h5py", "HDF5")
        self.path, self._period_s = path, period_s
        try:
            self._file = self._h5py.File(path, "r")
        except OSError as error:
            raise CodecError(
                f"{path}", got=" ".join(str(error).split()), expected="a whole HDF5 file"
            ) from error
        try:
            self._ours = meaning_of(self._file)
            self._steps = self._find()
            self._kwargs = self._env_kwargs()
            self._is_sparse = self._kwargs.get("reward_shaping") is False
            self._groups = list(self._steps)
        except CodecError:
            self._file.close()
            raise
        if not self._groups:
            self._file.close()
            raise CodecError(
                f"{path}", got="no group with a data set named action or actions",
                expected="one for each episode",
            )  # fmt: skip

    def describe(self) -> Description:
        """What it says of itself, by its first episode that can be read."""
        group = self._file[self._groups[0]]
        fields = {}
        for name, data in self._members(group).items():
            if name in self.coded and is_coded(data):
                fields[name] = Field(self.coded[name], "uint8", is_image=True, is_observation=True)
                continue
            if (
                name.startswith(("next_", "user/"))
                or data.dtype.kind not in "biuf"
                or not data.shape
            ):
                continue
            shape, dtype = tuple(map(int, data.shape[1:])), data.dtype.newbyteorder("=").name
            dtype = {"float16": "float32"}.get(dtype, dtype)
            observed = name.split("/")[0] in _OBSERVED
            picture = is_picture(shape, dtype)
            fields[name] = Field(shape, dtype, is_image=picture, is_observation=observed)
        roles = roles_of(fields)
        fields = observations_of(fields, roles)
        robot, period_s, notes = self._environment()
        if said_nothing := self._says_nothing_of_success(roles):
            notes.append(said_nothing)
        steps = sum(ref.steps for ref in self.episodes())
        schema, spec = self._ours or (None, None)
        return Description(
            "hdf5", fields, self._period_s or period_s, robot, len(self._groups), steps,
            as_it_was=schema, spec=spec, roles=roles, notes=tuple(notes),
        )  # fmt: skip

    def episodes(self) -> Sequence[EpisodeRef]:
        """Its episodes."""
        file = place_of(self.path)
        return [
            EpisodeRef(number, steps, f"{file}|{name}")
            for number, (name, steps) in enumerate(self._steps.items())
        ]

    def read(
        self,
        ref: EpisodeRef,
        wanted: Collection[str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceEpisode:
        """Read an episode; raises CodecError where it is damaged."""
        name = self._groups[ref.number]
        steps = self._steps[name]
        what = f"{name} of {self.path}"
        try:
            group = self._file[name]
            members = self._members(group)
            fields: dict[str, Array] = {}
            for key, data in members.items():
                if key in self.coded and is_coded(data):
                    if wanted is None or key in wanted:
                        fields[key] = decoded_rows(data[()], self.coded[key], f"{key} of {what}")
                    continue
                if data.dtype.kind not in "biuf":
                    if wanted is not None and key in wanted:
                        plain_array(np.empty(0, object), f"{key} of {what}")
                    continue
                if key.startswith("next_") or not data.shape:
                    continue
                after = members.get(f"next_{key}") if key.split("/")[0] in _OBSERVED else None
                if after is None or not len(data) == steps == len(after):
                    fields[key] = plain_array(data[()], f"{key} of {what}")
                    continue
                last = plain_array(after[-1:], f"next_{key} of {what}")
                fields[key] = plain_array(_with_last(data, last), f"{key} of {what}")
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, CodecError):
                raise
            raise CodecError(
                what, got=" ".join(str(error).split()), expected="a whole episode"
            ) from error
        stamps = stamps_of(fields, what)
        episode = SourceEpisode(fields, steps, identity_of(array_parts(fields)), stamps_ns=stamps)
        reward = fields.get(roles_of(fields).get("reward", "")) if self._is_sparse else None
        if reward is not None and not np.isnan(reward).all():
            episode.success = bool(np.nanmax(reward) >= 1.0)  # a part of a task gives less
        if self._ours is not None:
            record = str(group.attrs.get(RECORD, "{}"))
            episode.recorded = recorded_of(self._ours[0], record, fields, steps, what)
        return episode

    def close(self) -> None:
        """Close it. Idempotent."""
        self._file.close()

    def _find(self) -> dict[str, int]:
        """Groups with actions, and how many there are: a file may have ten thousand, and opening one takes long."""
        found: dict[str, int] = {}

        def visit(name: str, item: Any) -> None:
            if not isinstance(item, self._h5py.Group) or len(found) >= _MOST_GROUPS:
                return
            for action in map(item.get, ACTIONS):
                if isinstance(action, self._h5py.Dataset):
                    found[name] = int(action.shape[0]) if action.shape else 0
                    return

        try:
            visit("/", self._file["/"])
            self._file.visititems(visit)
        except (OSError, RuntimeError, KeyError) as error:
            raise CodecError(
                f"{self.path}", got=str(error), expected="a whole HDF5 file"
            ) from error
        return {name: found[name] for name in sorted(found, key=natural)}

    def _members(self, group: Any) -> dict[str, Any]:
        """Data sets below a group by path; links to other files are not followed."""
        found: dict[str, Any] = {}

        def walk(at: Any, prefix: str, depth: int) -> None:
            for name in at:
                if isinstance(at.get(name, getlink=True), self._h5py.ExternalLink):
                    continue
                item = at.get(name)
                if isinstance(item, self._h5py.Dataset):
                    if item.external or item.is_virtual:
                        raise CodecError(
                            f"{prefix}{name} of {self.path}", got="data in another file",
                            expected="data in this one",
                        )  # fmt: skip
                    found[prefix + name] = item
                elif isinstance(item, self._h5py.Group) and depth < 8:
                    walk(item, f"{prefix}{name}/", depth + 1)

        walk(group, "", 0)
        return found

    def _environment(self) -> tuple[str, float | None, list[str]]:
        """Name and period of robomimic's environment; what an attribute holds is never executed."""
        try:
            said = self._env_args()
        except (OSError, TypeError) as error:
            return "", None, [f"attribute env_args cannot be read: {error}"]
        except ValueError:
            return "", None, ["attribute env_args is not JSON: passed over"]
        robots = self._kwargs.get("robots")
        robot = robots[0] if isinstance(robots, list) and robots else robots
        try:
            rate = float(self._kwargs.get("control_freq") or 0.0)
        except (TypeError, ValueError):
            rate = 0.0
        return str(robot or said.get("env_name") or ""), 1 / rate if rate > 0 else None, []

    def _env_args(self) -> dict[str, Any]:
        """What robomimic says of its environment. Raises OSError, TypeError and ValueError where it cannot be read."""
        data = self._file.get("data")
        text = data.attrs.get("env_args") if data is not None else None
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        if not isinstance(text, str):
            return {}
        said = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError("no object")
        return said

    def _env_kwargs(self) -> dict[str, Any]:
        """What robomimic's environment was made with."""
        try:
            found = self._env_args().get("env_kwargs")
        except (OSError, TypeError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _says_nothing_of_success(self, roles: Mapping[str, str]) -> str:
        """What a person should know where robomimic's file does not tell how its episodes ended: ``dones`` may also be
        the end of the recording."""
        if self._ours is not None or not self._kwargs:  # an export of a store says it all
            return ""
        if "success" in roles or (self._is_sparse and "reward" in roles):
            return ""
        lack = "its rewards may be shaped" if "reward" in roles else "it has no rewards"
        return f"whether episodes succeeded is not known ({lack}): success: always in a mapping says that all did"


def _with_last(data: Any, last: Array) -> Array:
    """The rows of a data set, and one more behind them, without a copy of the rows where both are of one kind."""
    if last.shape[1:] != data.shape[1:] or last.dtype != data.dtype:
        return np.concatenate([data[()], last])
    rows = np.empty((len(data) + 1, *data.shape[1:]), data.dtype)
    data.read_direct(rows, dest_sel=np.s_[:-1])
    rows[-1:] = last
    return rows


def is_coded(data: Any) -> bool:
    """Whether rows are bytes of coded pictures: of one length, or each of its own."""
    return len(data.shape) == 1 if data.dtype.kind == "O" else (
        data.dtype == np.uint8 and len(data.shape) == 2
    )  # fmt: skip


def decoded_rows(rows: Array, shape: tuple[int, ...], what: str) -> Array:
    """Coded pictures as pixels, RGB. Raises CodecError for one that is none, or of another size."""
    import cv2

    found = np.empty((len(rows), *shape), np.uint8)
    for at, row in enumerate(rows):
        data = np.asarray(row)
        image = None
        if data.dtype == np.uint8 and data.size:
            image = cv2.imdecode(
                data, cv2.IMREAD_COLOR if shape[-1:] == (3,) else cv2.IMREAD_GRAYSCALE
            )
        if image is not None and image.ndim == 3:
            image = image[..., ::-1]
        if image is None or image.size != found[at].size:
            raise CodecError(
                f"row {at} of {what}", got="no picture" if image is None else image.shape,
                expected=f"a coded picture of {shape}",
            )  # fmt: skip
        found[at] = image.reshape(shape)
    return found


def roles_of(fields: Collection[str]) -> dict[str, str]:
    """Which fields are action, reward and so on, by their usual names."""
    roles = {}
    for role, names in {"action": ACTIONS, **_ROLES}.items():
        found = next((name for name in names if name in fields), None)
        if found is not None:
            roles[role] = found
    return roles


def observations_of(fields: Mapping[str, Field], roles: Mapping[str, str]) -> dict[str, Field]:
    """Fields, of which those are observations that are said to be; where none is, all without a role."""
    from dataclasses import replace

    if any(field.is_observation for field in fields.values()):
        return dict(fields)
    taken = set(roles.values())
    return {n: replace(f, is_observation=n not in taken) for n, f in fields.items()}


def stamps_of(fields: Mapping[str, Array], what: str) -> Array | None:
    """Times of the steps, ns, where there is a field of them. Raises CodecError where they go back."""
    name = next((name for name in _ROLES["time"] if name in fields), None)
    if name is None:
        return None
    times = fields[name].reshape(len(fields[name]), -1)[:, 0]
    if len(times) > 1 and bool((np.diff(times) <= 0).any()):
        at = int(np.argmax(np.diff(times) <= 0)) + 1
        raise CodecError(
            f"{name} of {what}", got=f"time that runs backwards at step {at}",
            expected="each step after the one before",
        )  # fmt: skip
    if times.dtype.kind in "iu":
        return times.astype(np.int64)
    return np.rint(times.astype(np.float64) * 1e9).astype(np.int64)


def natural(name: str) -> list[tuple[int, str]]:
    """Order of names in which demo_10 comes after demo_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
