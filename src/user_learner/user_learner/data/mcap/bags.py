"""A bag as rosbag2 has it: a directory of MCAP files, split by size, with ``metadata.yaml``.

Each file is indexed when it is complete. One that a crash cut off can be read up to there, and
:func:`repair` writes its index. The list of files is written anew at each split, so that a bag is
whole except for its last file at any moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from user_core.errors import CodecError
from user_core.runtime.files import replace_durably, write_atomically
from user_learner.data.extras import library

METADATA = "metadata.yaml"
SUFFIX = ".mcap"
CHUNK_BYTES = 1024 * 1024
#: Of rosbag2 in Jazzy; later ones read it too.
_VERSION = 9


@dataclass(frozen=True)
class Channel:
    """A topic of a bag.

    Attributes:
        topic: Its name.
        type: Its type, ``package/msg/Name``.
        definition: Text of the type and of those in it, as ``ros2msg``.
        latched: Whether its last message is kept for those who come late.
    """

    topic: str
    type: str
    definition: str
    latched: bool = False

    @property
    def qos(self) -> str:
        """Quality of service that ``ros2 bag play`` offers, in YAML."""
        durability = "transient_local" if self.latched else "volatile"
        depth = 1 if self.latched else 10
        return yaml.safe_dump([{
            "history": "keep_last", "depth": depth, "reliability": "reliable",
            "durability": durability, "liveliness": "automatic",
            **{
                key: {"sec": 9223372036, "nsec": 854775807}
                for key in ("deadline", "lifespan", "liveliness_lease_duration")
            },
            "avoid_ros_namespace_conventions": False,
        }], sort_keys=False)  # fmt: skip


@dataclass
class _File:
    """What ``metadata.yaml`` says of a file."""

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    first_ns: int = 0
    last_ns: int = 0
    nbytes: int = 0

    def count(self, topic: str, time_ns: int, nbytes: int) -> None:
        self.first_ns = time_ns if not self.counts else min(self.first_ns, time_ns)
        self.last_ns = max(self.last_ns, time_ns)
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self.nbytes += nbytes


class BagWriter:
    """Writes a bag. Not to be shared by threads.

    Args:
        path: Directory; made when it is not there. Files of an earlier writer stay.
        name: Of the files: ``NAME_0.mcap``.
        part_bytes: Size at which the next file begins; 0: never.
        chunk_bytes: Size of the pieces that are compressed and indexed.

    Raises:
        MissingLibrary: ``mcap`` is not installed.
        OSError: The disk is full.
    """

    def __init__(
        self, path: Path, name: str, part_bytes: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._mcap = library("mcap.writer", "MCAP")
        self.path, self._name = path, name
        self._part_bytes, self._chunk_bytes = part_bytes, chunk_bytes
        path.mkdir(parents=True, exist_ok=True)
        self._channels: dict[str, Channel] = {}
        self._ids: dict[str, int] = {}  # in the file that is open
        self._notes: dict[str, dict[str, str]] = {}
        self._stream: Any = None
        self._writer: Any = None
        self.files: list[_File] = self._earlier()
        self._number = 1 + max(
            (int(f.stem.rpartition("_")[2]) for f in path.glob(f"{name}_*{SUFFIX}")
             if f.stem.rpartition("_")[2].isdigit()), default=-1,
        )  # fmt: skip

    def note(self, name: str, data: Mapping[str, str]) -> None:
        """Metadata that each file begins with."""
        self._notes[name] = dict(data)

    def add_metadata(self, name: str, data: Mapping[str, str]) -> None:
        """Metadata at this place."""
        self._open()
        self._writer.add_metadata(name, dict(data))

    def write(self, channel: Channel, time_ns: int, data: bytes) -> None:
        """Write a message. Raises OSError when the disk is full."""
        self._open()
        number = self._ids.get(channel.topic)
        if number is None:
            number = self._register(channel)
        self._writer.add_message(number, time_ns, data, time_ns)
        file = self.files[-1]
        file.count(channel.topic, time_ns, len(data))
        if self._part_bytes and file.nbytes >= self._part_bytes:
            self.end_part()

    def flush(self) -> None:
        """What was written is in the file, and readable from there, also if this process dies."""
        if self._writer is not None:
            self._writer.flush()

    def end_part(self) -> None:
        """Write the index of the file that is open; the next message begins another."""
        if self._writer is None:
            return
        writer, stream = self._writer, self._stream
        self._writer = self._stream = None
        try:
            writer.finish()
            stream.flush()
            os.fsync(stream.fileno())
        finally:
            with suppress(OSError):  # of a full disk
                stream.close()
        self._write_list()

    def close(self) -> None:
        """Write the index of the last file. Idempotent; raises OSError when the disk is full."""
        self.end_part()

    def abandon(self) -> None:
        """Leave the last file as it is: there is no room for its index."""
        stream, self._writer, self._stream = self._stream, None, None
        if stream is not None:
            with suppress(OSError):
                stream.close()

    def _earlier(self) -> list[_File]:
        """Files of earlier writers that have their index."""
        reading = library("mcap.reader", "MCAP")
        found = []
        for path in sorted(self.path.glob(f"*{SUFFIX}"), key=_number_of):
            file = _File(path, nbytes=path.stat().st_size)
            with suppress(Exception), open(path, "rb") as stream:  # of the library
                summary = reading.SeekingReader(stream).get_summary()
                said = summary.statistics
                file.first_ns, file.last_ns = said.message_start_time, said.message_end_time
                for number, channel in summary.channels.items():
                    schema = summary.schemas[channel.schema_id]
                    qos = channel.metadata.get("offered_qos_profiles", "")
                    self._channels[channel.topic] = Channel(
                        channel.topic, schema.name, schema.data.decode(), "transient_local" in qos
                    )
                    file.counts[channel.topic] = said.channel_message_counts.get(number, 0)
            found.append(file)
        return found

    def _open(self) -> None:
        if self._writer is not None:
            return
        path = self.path / f"{self._name}_{self._number}{SUFFIX}"
        self._number += 1
        self._stream = open(path, "xb")  # noqa: SIM115 - closed by end_part
        self._writer = self._mcap.Writer(self._stream, chunk_size=self._chunk_bytes)
        self._writer.start(profile="ros2", library="user")
        self._ids = {}
        self.files.append(_File(path))
        for name, data in self._notes.items():
            self._writer.add_metadata(name, data)
        self._writer.flush()  # from now on it is an MCAP file, whatever happens
        self._write_list()

    def _register(self, channel: Channel) -> int:
        self._channels[channel.topic] = channel
        schema = self._writer.register_schema(channel.type, "ros2msg", channel.definition.encode())
        number: int = self._writer.register_channel(
            channel.topic, "cdr", schema, {"offered_qos_profiles": channel.qos}
        )
        self._ids[channel.topic] = number
        return number

    def _write_list(self) -> None:
        write_list(self.path, self.files, self._channels)


def _number_of(path: Path) -> tuple[int, str]:
    number = path.stem.rpartition("_")[2]
    return (int(number) if number.isdigit() else 0, path.name)


def write_list(path: Path, files: list[_File], channels: Mapping[str, Channel]) -> None:
    """Write ``metadata.yaml``."""
    files = [file for file in files if file.path.exists()]  # the oldest may have gone
    used = [file for file in files if file.counts]
    first = min((file.first_ns for file in used), default=0)
    last = max((file.last_ns for file in used), default=0)
    counts = {topic: sum(file.counts.get(topic, 0) for file in files) for topic in sorted(channels)}
    about = {
        "version": _VERSION,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": last - first},
        "starting_time": {"nanoseconds_since_epoch": first},
        "message_count": sum(counts.values()),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic, "type": channels[topic].type, "serialization_format": "cdr",
                    "offered_qos_profiles": yaml.safe_load(channels[topic].qos),
                    "type_description_hash": "",
                },
                "message_count": count,
            }
            for topic, count in counts.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.path.name for file in files],
        "files": [
            {
                "path": file.path.name,
                "starting_time": {"nanoseconds_since_epoch": file.first_ns},
                "duration": {"nanoseconds": file.last_ns - file.first_ns},
                "message_count": sum(file.counts.values()),
            }
            for file in files
        ],
        "custom_data": None,
        "ros_distro": "",
    }  # fmt: skip
    text = yaml.safe_dump({"rosbag2_bagfile_information": about}, sort_keys=False)
    write_atomically(path / METADATA, text.encode())


def records(path: Path) -> Iterator[Any]:
    """All records of an MCAP file up to where it breaks off, as they lie in it.

    Raises:
        CodecError: Where it breaks off, after what came before; says why.
    """
    reader = library("mcap.stream_reader", "MCAP")
    with open(path, "rb") as stream:
        try:
            yield from reader.StreamReader(stream, validate_crcs=True).records
        except Exception as error:  # of the library, of many kinds: the file is not trusted
            raise CodecError(
                f"{path}",
                got=f"{type(error).__name__}: {error}"[:300],
                expected="a whole MCAP file",
            ) from error


def is_indexed(path: Path) -> bool:
    """Whether a file has its end."""
    reader = library("mcap.reader", "MCAP")
    try:
        with open(path, "rb") as stream:
            return reader.SeekingReader(stream).get_summary() is not None
    except Exception:  # noqa: BLE001 - of the library, of many kinds
        return False


@contextmanager
def _until_it_breaks_off() -> Iterator[None]:
    try:
        yield
    except CodecError as error:
        if isinstance(error.__cause__, OSError | ImportError | MemoryError):
            raise  # not of what is in the file, which must not be cut for it


def repair(path: Path) -> int:
    """Write the index of a file that a crash cut off; what came after its last whole piece is gone.

    Returns:
        How many messages it has.

    Raises:
        OSError: The disk is full; the file is as it was.
        CodecError: It could not be read for a reason that is not its own; it is as it was.
    """
    kinds = library("mcap.records", "MCAP")
    writing = library("mcap.writer", "MCAP")
    part = path.with_name(path.name + ".part")
    schemas: dict[int, int] = {}
    channels: dict[int, int] = {}
    count = 0
    try:
        with open(part, "wb") as stream:
            writer = writing.Writer(stream, chunk_size=CHUNK_BYTES)
            writer.start(profile="ros2", library="user")
            with _until_it_breaks_off():
                for record in records(path):
                    if isinstance(record, kinds.Schema) and record.id not in schemas:
                        schemas[record.id] = writer.register_schema(
                            record.name, record.encoding, record.data
                        )
                    elif isinstance(record, kinds.Channel) and record.id not in channels:
                        channels[record.id] = writer.register_channel(
                            record.topic, record.message_encoding, schemas.get(record.schema_id, 0),
                            record.metadata,
                        )  # fmt: skip
                    elif isinstance(record, kinds.Metadata):
                        writer.add_metadata(record.name, record.metadata)
                    elif isinstance(record, kinds.Message) and record.channel_id in channels:
                        writer.add_message(
                            channels[record.channel_id], record.log_time, record.data,
                            record.publish_time, record.sequence,
                        )  # fmt: skip
                        count += 1
            writer.finish()
            stream.flush()
            os.fsync(stream.fileno())
        replace_durably(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count
