"""Messages of a bag: rosbag2 with MCAP or SQLite, whole, in parts, or as it was left by a crash.

The package ``rosbags`` reads bags and makes messages of their definitions, without ROS. An MCAP file
without its end, as a recorder leaves it that was killed, is read with the package ``mcap`` up to where
it breaks off.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml
import zstandard

from user_core.errors import CodecError, TransportError
from user_learner.data.extras import library
from user_learner.data.mcap.bags import METADATA, records

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SQLITE_MAGIC = b"SQLite format 3\0"
#: The first field of each message of service introspection, and where it ends.
#: It is read whether that package is installed or not.
_EVENT_INFO, _EVENT_BYTES = "/".join(("service_msgs", "msg", "ServiceEventInfo")), 44
_EVENT_TEXT = (
    "uint8 event_type\nbuiltin_interfaces/Time stamp\nchar[16] client_gid\nint64 sequence_number\n"
)
#: Of a message that was compressed by itself and does not say its size, bytes.
_LARGEST_MESSAGE = 2**28


class Recorded(NamedTuple):
    """A message as it was recorded.

    Attributes:
        topic: Its topic.
        time_ns: When.
        data: Serialised, CDR.
    """

    topic: str
    time_ns: int
    data: bytes


class _Part:
    """One file of a bag.

    Attributes:
        types: Types by topic.
        definitions: Texts of message definitions by type, with the format of each.
        counts: Messages by topic; empty where only reading tells.
        damage: What is wrong with the file; empty where it is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types: dict[str, str] = {}
        self.definitions: dict[str, tuple[str, str]] = {}
        self.counts: dict[str, int] = {}
        self.damage = ""

    def messages(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        """Messages of some topics from ``start_ns`` to before ``end_ns``, by their times."""
        raise NotImplementedError


class _McapPart(_Part):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._mcap = library("mcap.reader", "MCAP")
        self._first_ns, self._last_ns = 0, 2**63 - 1  # until all of it was read
        try:
            with open(path, "rb") as stream:
                summary = self._mcap.SeekingReader(stream).get_summary()
            if summary is None:
                raise ValueError("no summary")  # noqa: TRY301 - as if it were cut off
            counts = summary.statistics.channel_message_counts if summary.statistics else {}
            for channel in summary.channels.values():
                schema = summary.schemas.get(channel.schema_id)
                self._take(channel, schema)
                count = counts.get(channel.id, 0)
                self.counts[channel.topic] = self.counts.get(channel.topic, 0) + count
            self._is_whole = bool(summary.chunk_indexes) or not summary.channels
        except Exception as error:  # of the library, of many kinds: the file is not trusted
            self._is_whole = False
            self.damage = _said(error)
            self.types.clear()
            self.counts.clear()
            for _ in self._scan():
                pass

    def messages(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        """See :class:`_Part`."""
        if not self._is_whole:
            if start_ns > self._last_ns or end_ns <= self._first_ns:
                return  # it has no index that would say so
            found = [
                message for message in self._scan(topics)
                if start_ns <= message.time_ns < end_ns
            ]  # fmt: skip
            yield from sorted(found, key=lambda message: message.time_ns)
            return
        with open(self.path, "rb") as stream:
            reader = self._mcap.SeekingReader(stream, validate_crcs=True)
            try:
                for _, channel, message in reader.iter_messages(
                    topics=list(topics), start_time=max(start_ns, 0), end_time=end_ns
                ):
                    yield Recorded(channel.topic, message.log_time, message.data)
            except Exception as error:  # of the library
                raise CodecError(
                    f"{self.path}", got=_said(error), expected="a whole MCAP file"
                ) from error

    def _scan(self, topics: Collection[str] | None = None) -> Iterator[Recorded]:
        """All messages up to where the file breaks off, as they lie in it."""
        kinds = library("mcap.records", "MCAP")
        schemas: dict[int, Any] = {}
        channels: dict[int, Any] = {}
        first_ns, last_ns = 2**64, -1
        try:
            for record in records(self.path):
                if isinstance(record, kinds.Schema):
                    schemas[record.id] = record
                elif isinstance(record, kinds.Channel):
                    channels[record.id] = record
                    self._take(record, schemas.get(record.schema_id))
                elif isinstance(record, kinds.Message) and record.channel_id in channels:
                    topic = channels[record.channel_id].topic
                    first_ns = min(first_ns, record.log_time)
                    last_ns = max(last_ns, record.log_time)
                    if topics is None or topic in topics:
                        yield Recorded(topic, record.log_time, record.data)
        except CodecError as error:  # what came before it counts
            self.damage = self.damage or str(error.got)
        self._first_ns, self._last_ns = first_ns, last_ns

    def _take(self, channel: Any, schema: Any) -> None:
        if channel.message_encoding != "cdr" or schema is None:
            return
        self.types[channel.topic] = schema.name
        text = schema.data.decode("utf-8", "replace")
        self.definitions[schema.name] = (schema.encoding, text)


class _SqlitePart(_Part):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._ids: dict[int, str] = {}
        try:
            with closing(self._open()) as db:
                formats = db.execute("SELECT id, name, type, serialization_format FROM topics")
                for number, name, type_name, coding in formats.fetchall():
                    if coding == "cdr":
                        self._ids[number] = name
                        self.types[name] = type_name
                with suppress(sqlite3.Error):  # from Iron on
                    rows = db.execute(
                        "SELECT topic_type, encoding, encoded_message_definition "
                        "FROM message_definitions"
                    )
                    for type_name, encoding, text in rows.fetchall():
                        self.definitions[type_name] = (encoding, text)
        except sqlite3.Error as error:
            raise CodecError(f"{path}", got=str(error), expected="a bag in SQLite") from error

    def _open(self) -> sqlite3.Connection:
        # a log that a killed recorder left beside the file is read as well
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
        db.execute("PRAGMA trusted_schema = OFF")
        return db

    def messages(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        """See :class:`_Part`."""
        wanted = [number for number, name in self._ids.items() if name in topics]
        marks = ",".join("?" * len(wanted))
        try:
            with closing(self._open()) as db:
                rows = db.execute(
                    f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) "  # noqa: S608 - marks only
                    "AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id",
                    (*wanted, max(start_ns, 0), min(end_ns, 2**63 - 1)),
                )
                for number, time_ns, data in rows:
                    yield Recorded(self._ids[number], time_ns, bytes(data))
        except sqlite3.Error as error:
            raise CodecError(f"{self.path}", got=str(error), expected="a whole bag") from error


class Bag:
    """A bag that is open: its files, one after the other in time.

    Args:
        path: Directory, or one of its files.
        distribution: Whose message types are known besides those of the bag: ``jazzy``.
        folders: Of ROS packages with ``msg/*.msg``, for types that neither has.

    Attributes:
        types: Types by topic.
        notes: What a person should know.

    Raises:
        CodecError: It cannot be read; says why.
        MissingLibrary: ``rosbags`` or ``mcap`` is not installed.
    """

    def __init__(
        self, path: Path, distribution: str = "jazzy", folders: Collection[str] = ()
    ) -> None:
        self.path, self.notes = path, []
        files = self._files(path)
        empty = [file for file in files if not file.stat().st_size]  # made just before a crash
        if len(empty) < len(files):
            files = [file for file in files if file not in empty]
            self.notes += [f"{file.name} is empty" for file in empty]
        self.parts = [_part(file) for file in files]
        self.types: dict[str, str] = {}
        for part in self.parts:
            for topic, name in part.types.items():
                if self.types.setdefault(topic, name) != name:
                    raise CodecError(
                        f"bag {path}", got=f"{topic} with types {self.types[topic]} and {name}",
                        expected="one type",
                    )  # fmt: skip
            if part.damage:
                self.notes.append(
                    f"{part.path.name} breaks off ({part.damage}): what came before it is read"
                )
        self._store = self._typestore(distribution, folders)
        self._classes: dict[str, type[Any]] = {}
        self._unpack: Any = None
        said = _metadata(path) if path.is_dir() else {}
        if str(said.get("compression_mode") or "").upper() == "MESSAGE":
            self._unpack = zstandard.ZstdDecompressor()

    @staticmethod
    def _files(path: Path) -> list[Path]:
        if path.is_file():
            return [path]
        named: list[str] = []
        with suppress(AttributeError, TypeError):
            named = [str(name) for name in _metadata(path).get("relative_file_paths", ())]
        files = []
        for name in named:
            file = path / Path(name).name  # never out of the directory
            if file.is_file():
                files.append(file)
        # a recorder that was killed has not written them all down
        rest = [f for f in sorted(path.glob("*")) if f.suffix in (".mcap", ".db3")]
        files += [file for file in rest if file not in files]
        if not files:
            raise CodecError(f"bag {path}", got="no .mcap or .db3 file", expected="one or several")
        return files

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic, as far as the files say."""
        found: dict[str, int] = {}
        for part in self.parts:
            for topic, count in part.counts.items():
                found[topic] = found.get(topic, 0) + count
        return found

    def messages(
        self, topics: Collection[str], start_ns: int = 0, end_ns: int = 2**63 - 1
    ) -> Iterator[Recorded]:
        """Messages of some topics from ``start_ns`` to before ``end_ns``, in the order of their
        times.

        Raises:
            CodecError: A file is damaged there.
        """
        flows = [part.messages(topics, start_ns, end_ns) for part in self.parts]
        return heapq.merge(*flows, key=lambda message: message.time_ns)

    def decode(self, message: Recorded) -> Any:
        """A message with attributes. Raises CodecError where it is damaged, or its type unknown."""
        name, data = self.types[message.topic], message.data
        is_event = name.endswith("_Event") and "/srv/" in name
        if not is_event:
            self.message_class(name)
        try:
            if self._unpack is not None:
                data = self._unpack.decompress(data, max_output_size=_LARGEST_MESSAGE)
            if is_event:  # what was asked and answered is not needed, nor is its definition
                info = self._store.deserialize_cdr(data[:_EVENT_BYTES], _EVENT_INFO)
                return SimpleNamespace(info=info)
            return self._store.deserialize_cdr(data, name)
        except Exception as error:  # of generated code: whatever damaged bytes lead to
            raise CodecError(
                f"message on {message.topic!r}", got=_said(error), expected=f"a {name}"
            ) from error

    def message_class(self, type_name: str) -> type[Any]:
        """The class of a type, made without arguments.

        Raises:
            TransportError: Neither the bag nor the distribution defines it.
        """
        if type_name not in self._classes:
            if type_name not in self._store.fielddefs:
                raise TransportError(
                    f"message type {type_name!r}", got="no definition in the bag",
                    expected="one",
                    hint="options: {definitions: [FOLDER]} takes packages with msg/*.msg; "
                    "ros2 bag record --storage mcap keeps definitions",
                )  # fmt: skip
            self._classes[type_name] = self._make_class(type_name)
        return self._classes[type_name]

    def _typestore(self, distribution: str, folders: Collection[str]) -> Any:
        types = library("rosbags.typesys", "ROS bags")
        try:
            store = types.get_typestore(types.Stores[f"ROS2_{distribution.upper()}"])
        except KeyError:
            known = [s.name[5:].lower() for s in types.Stores if s.name.startswith("ROS2_")]
            raise CodecError(
                "distribution of a bag", got=distribution, expected=f"one of {known}"
            ) from None
        if _EVENT_INFO not in store.fielddefs:  # before Iron
            self._define(types, store, _EVENT_INFO, "ros2msg", _EVENT_TEXT)
        for part in self.parts:
            for name, (encoding, text) in part.definitions.items():
                if "/msg/" in name:
                    self._define(types, store, name, encoding, text)
        for folder in folders:
            for file in sorted(Path(folder).expanduser().glob("**/msg/*.msg")):
                name = f"{file.parent.parent.name}/msg/{file.stem}"
                self._define(types, store, name, "ros2msg", file.read_text(encoding="utf-8"))
        return store

    def _define(self, types: Any, store: Any, name: str, encoding: str, text: str) -> None:
        try:
            parse = types.get_types_from_idl if encoding == "ros2idl" else types.get_types_from_msg
            found = parse(text) if encoding == "ros2idl" else parse(text, name)
            # what the bag says is how its bytes lie, whatever a distribution has by this name
            differing = {n: d for n, d in found.items() if store.fielddefs.get(n) != d}
            for known in differing.keys() & store.fielddefs.keys():
                del store.fielddefs[known]
            store.register(differing)
        except Exception as error:  # of a parser, of texts of others
            self.notes.append(f"definition of {name} cannot be read: {_said(error)}")

    def _make_class(self, type_name: str) -> type[Any]:
        constants, fields = self._store.fielddefs[type_name]

        def make(message: Any) -> None:
            for field, node in fields:
                setattr(message, field, self._default(node))

        described = {field: _as_ros(node) for field, node in fields}
        members = {constant: value for constant, _, value in constants}
        members |= {
            "__init__": make,
            "get_fields_and_field_types": classmethod(lambda cls: dict(described)),
        }
        return type(type_name.rpartition("/")[2], (), members)

    def _default(self, node: tuple[Any, Any]) -> Any:
        kind, detail = node
        if kind.name == "NAME":
            return self.message_class(detail)()
        if kind.name == "BASE":
            name = detail[0]
            if "string" in name:
                return ""
            return 0.0 if "float" in name else False if name == "bool" else 0
        if kind.name == "ARRAY":
            return [self._default(detail[0]) for _ in range(detail[1])]
        return []


def _as_ros(node: tuple[Any, Any]) -> str:
    """The type of a field, as rclpy writes it."""
    kind, detail = node
    if kind.name == "NAME":
        return str(detail).replace("/msg/", "/")
    if kind.name == "BASE":
        name = str(detail[0])
        return {"float64": "double", "float32": "float", "bool": "boolean"}.get(name, name)
    inner = _as_ros(detail[0])
    return f"{inner}[{detail[1]}]" if kind.name == "ARRAY" else f"sequence<{inner}>"


def _part(file: Path) -> _Part:
    with open(file, "rb") as stream:
        magic = stream.read(16)
    if magic.startswith(_MCAP_MAGIC):
        return _McapPart(file)
    if magic.startswith(_SQLITE_MAGIC):
        return _SqlitePart(file)
    raise CodecError(
        f"{file}", got="nothing in it" if not magic else f"a file that begins with {magic[:8]!r}",
        expected="MCAP or SQLite",
        hint="ros2 bag convert takes compressed SQLite bags apart",
    )  # fmt: skip


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _metadata(path: Path) -> dict[str, Any]:
    """What ``metadata.yaml`` says; empty where there is none, or it is damaged."""
    with suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        said = yaml.safe_load((path / METADATA).read_text(encoding="utf-8"))
        return dict(said["rosbag2_bagfile_information"])
    return {}


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag."""
    if path.is_dir():
        if (path / METADATA).is_file():
            with suppress(OSError):
                return "rosbag2_bagfile_information" in (path / METADATA).read_text(
                    "utf-8", "replace"
                )
        return any(file.suffix == ".mcap" for file in path.glob("*"))
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        magic = stream.read(16)
    return magic.startswith(_MCAP_MAGIC) or (
        magic.startswith(_SQLITE_MAGIC) and path.suffix == ".db3"
    )


def rates(bag: Bag, topics: Mapping[str, str]) -> dict[str, tuple[int, float, float]]:
    """By topic: messages, rate (Hz) and the longest silence (s)."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    longest: dict[str, int] = {}
    count: dict[str, int] = {}
    for message in bag.messages(list(topics)):
        topic, now = message.topic, message.time_ns
        if topic in last:
            longest[topic] = max(longest.get(topic, 0), now - last[topic])
        first.setdefault(topic, now)
        last[topic] = now
        count[topic] = count.get(topic, 0) + 1
    return {
        topic: (
            count[topic],
            (count[topic] - 1) * 1e9 / max(last[topic] - first[topic], 1),
            longest.get(topic, 0) / 1e9,
        )
        for topic in count
    }
