"""A bag that a store was exported to, as a data set: the episodes come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import CodecError
from user_core.specs import Array, RobotSpec
from user_core.types import OBSERVATION, EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.data.extras import library
from user_learner.data.mcap.bags import SUFFIX
from user_learner.data.mcap.messages import Messages, decoder, type_of
from user_learner.data.mcap.writer import EPISODE, MEANING, VERSION, topic_of
from user_learner.data.source import (
    Description,
    EpisodeRef,
    Field,
    SourceEpisode,
    array_parts,
    identity_of,
    in_one_line,
    place_of,
)
from user_learner.replay.layout import result_from_dict

_MAGIC = b"\x89MCAP0\r\n"
_HEAD_BYTES = 4096


class McapFormat:
    """Exports of a store as MCAP; bags of other robots are of the format ``rosbag``."""

    name = "mcap"
    title = "an MCAP export of `user data export`"

    def recognises(self, path: Path) -> bool:
        """Whether an export of ours begins there."""
        return any(_is_ours(file) for file in _files(path))

    def open(self, path: Path, options: Mapping[str, Any]) -> McapSource:
        """Open an export."""
        return McapSource(path)


FORMAT = McapFormat()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.suffix == SUFFIX and path.is_file() else []
    found = [file for file in path.glob(f"*{SUFFIX}") if file.is_file()]
    return sorted(
        found, key=lambda f: (int("".join(c for c in f.stem if c.isdigit()) or 0), f.name)
    )


def _is_ours(file: Path) -> bool:
    with suppress(OSError), open(file, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
        return head.startswith(_MAGIC) and MEANING.encode() in head
    return False


class McapSource:
    """An export that is open.

    Raises:
        CodecError: It is damaged, or of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading = library("mcap.reader", "MCAP")
        self._messages = Messages()
        self._records: list[dict[str, Any]] = []
        self._meaning: dict[str, Any] | None = None
        self._files = [file for file in _files(path) if _is_ours(file)]
        for file in self._files:
            with self._opened(file) as reader:
                for metadata in reader.iter_metadata():
                    self._take(metadata.name, metadata.metadata)
        if self._meaning is None:
            raise CodecError(f"{path}", got=f"no {MEANING}", expected="an export of a store")
        self._schema: TrajectorySchema = TrajectorySchema.from_dict(self._meaning["schema"])
        spec = self._meaning["spec"]
        self._spec: RobotSpec | None = RobotSpec.from_dict(spec) if spec else None
        self._topics: dict[str, tuple[str, Callable[[bytes], Array]]] = {
            topic_of(name, type_of(name, one)): (name, decoder(self._messages, name, one))
            for name, one in self._schema.columns.items()
        }

    def describe(self) -> Description:
        """What it says of itself."""
        fields = {
            name.removeprefix(OBSERVATION): Field(
                one.shape, one.dtype, one.unit, one.names,
                is_image=len(one.shape) == 3, is_observation=name.startswith(OBSERVATION),
            )
            for name, one in self._schema.columns.items()
        }  # fmt: skip
        return Description(
            "mcap", fields, self._spec.period_s if self._spec else None,
            self._spec.robot if self._spec else "", len(self._records),
            sum(max(int(record["rows"]) - 1, 0) for record in self._records),
            tuple(sorted({str(r["task"]) for r in self._records if r["task"]})),
            as_it_was=self._schema, spec=self._spec,
            roles={"action": "action", "reward": "reward"},
        )  # fmt: skip

    def episodes(self) -> list[EpisodeRef]:
        """Its episodes."""
        return [
            EpisodeRef(number, int(record["rows"]) - 1, place_of(self._files[0], number))
            for number, record in enumerate(self._records)
        ]

    def read(
        self,
        ref: EpisodeRef,
        wanted: Collection[str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceEpisode:
        """Read one episode."""
        record = self._records[ref.number]
        rows: dict[str, list[Array]] = {name: [] for name in self._schema.columns}
        start, end = int(record["start_ns"]), int(record["end_ns"])
        for file in self._files:
            with self._opened(file) as reader:
                for _, channel, message in reader.iter_messages(
                    topics=list(self._topics), start_time=start, end_time=end + 1
                ):
                    name, decode = self._topics[channel.topic]
                    rows[name].append(decode(message.data))
        count = int(record["rows"])
        short = {name: len(found) for name, found in rows.items() if len(found) != count}
        if short or not count:
            raise CodecError(
                f"episode {ref.number} of {self.path}",
                got=f"rows {short}",
                expected=f"{count} of each",
            )
        columns = {name: np.stack(found) for name, found in rows.items()}
        try:
            recorded = RecordedEpisode(
                EpisodeKey(*record["episode"]), EpisodeSource(record["source"]), columns,
                result_from_dict(record["result"]), str(record["robot"]), str(record["task"]),
                int(record["first_row"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(f"episode {ref.number} of {self.path}", got=repr(error)) from error
        steps = int((~columns["final"]).sum())
        fields = {
            name.removeprefix(OBSERVATION): found
            if name.startswith(OBSERVATION) else found[:steps]
            for name, found in columns.items()
        }  # fmt: skip
        return SourceEpisode(
            fields, steps, identity_of(array_parts(columns)), recorded.task,
            columns["stamp_ns"], recorded=recorded,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing stays open."""

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Any]:
        """A reader of a file; what fails with it raises CodecError."""
        try:
            with open(file, "rb") as stream:
                yield self._reading.SeekingReader(stream, validate_crcs=True)
        except CodecError:
            raise
        except Exception as error:  # of the library and of messages: neither is trusted
            raise CodecError(
                f"{file}", got=in_one_line(error), expected="a whole export"
            ) from error

    def _take(self, name: str, data: Mapping[str, str]) -> None:
        try:
            if name == MEANING:
                if data["version"] != str(VERSION):
                    raise ValueError(f"version {data['version']}")
                self._meaning = self._meaning or json.loads(data["about"])
            elif name == EPISODE:
                self._records.append(dict(json.loads(data["record"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(f"{name} of {self.path}", got=repr(error)) from error
