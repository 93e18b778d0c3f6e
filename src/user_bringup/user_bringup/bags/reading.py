"""Messages of a bag: rosbag2 with MCAP or SQLite, whole, in parts, or as it was left by a crash.

The package ``rosbags`` makes messages of the definitions in a bag, without ROS. Its files are read by
:mod:`~user_bringup.bags.parts`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml
import zstandard

from user_bringup.bags.decoding import Decoders, NotSupported
from user_bringup.bags.parts import (
    MCAP_MAGIC,
    SQLITE_MAGIC,
    Recorded,
    UnpackedPieces,
    part_of,
    said,
)
from user_core.errors import CodecError, TransportError
from user_core.specs import Array
from user_learner.data.extras import library
from user_learner.data.mcap.bags import METADATA
from user_learner.data.mcap.messages import deserialized

#: The first field of each message of service introspection, and where it ends.
#: It is read whether that package is installed or not.
_EVENT_INFO, _EVENT_BYTES = "/".join(("service_msgs", "msg", "ServiceEventInfo")), 44
_EVENT_TEXT = (
    "uint8 event_type\nbuiltin_interfaces/Time stamp\nchar[16] client_gid\nint64 sequence_number\n"
)
#: Of a message that was compressed by itself and does not say its size, bytes.
_LARGEST_MESSAGE = 2**28
#: Messages of a topic may be written down in another order by this much; what goes back further was set back.
_DISORDER_NS = 200_000_000


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
        unpacked = UnpackedPieces()
        self.parts = [part_of(file, unpacked) for file in files]
        self.types: dict[str, str] = {}
        for part in self.parts:
            for topic, name in part.types.items():
                if self.types.setdefault(topic, name) != name:
                    raise CodecError(
                        f"bag {path}", got=f"{topic} with types {self.types[topic]} and {name}",
                        expected="one type",
                    )  # fmt: skip
            if part.damage:
                self.notes.append(f"{part.path.name}: {part.damage}")
        if not self.types and self.notes:
            raise CodecError(
                f"bag {path}", got=f"no messages; {'; '.join(self.notes)}",
                expected="at least one whole piece of messages before the damage",
            )  # fmt: skip
        self._store = self._typestore(distribution, folders)
        self._readers = Decoders(self._store)
        self._classes: dict[str, type[Any]] = {}
        self._decoders: dict[str, Callable[[bytes | memoryview], Any]] = {}  # by topic
        self._unpack: Any = None
        about = _metadata(path) if path.is_dir() else {}
        if str(about.get("compression_mode") or "").upper() == "MESSAGE":
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

    def written(self, topics: Collection[str]) -> dict[str, list[Array]]:
        """When messages came, by topic and file: (n,) int64, as they were written one after the other; most files tell
        without being read.

        Raises:
            CodecError: A file is damaged.
        """
        found: dict[str, list[Array]] = {}
        for part in self.parts:
            for topic, times in part.times(topics).items():
                found.setdefault(topic, []).append(times)
        return found

    def times(self, topics: Collection[str]) -> dict[str, Array]:
        """When messages came, by topic: (n,) int64, sorted; see :meth:`written`."""
        return in_order(self.written(topics))

    def messages(
        self, topics: Collection[str], start_ns: int = 0, end_ns: int = 2**63 - 1
    ) -> Iterator[Recorded]:
        """Messages of some topics from ``start_ns`` to before ``end_ns``, in the order of their
        times. A file is open only from its first message to its last: a bag may have thousands.

        Raises:
            CodecError: A file is damaged there.
        """
        if len(self.parts) == 1:
            return self.parts[0].messages(topics, start_ns, end_ns)
        return self._merged(topics, start_ns, end_ns)

    def _merged(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        waiting = [  # the earliest last
            (span[0], number)
            for number, part in enumerate(self.parts)
            if (span := part.span()) is not None and span[1] >= start_ns and span[0] < end_ns
        ]
        waiting.sort(reverse=True)
        # of each file that is open its next message; numbers of files keep the order of equal times
        ahead: list[tuple[int, int, Recorded, Iterator[Recorded]]] = []
        while waiting or ahead:
            while waiting and (not ahead or waiting[-1][0] <= ahead[0][0]):
                _, number = waiting.pop()
                flow = self.parts[number].messages(topics, start_ns, end_ns)
                if (message := next(flow, None)) is not None:
                    heapq.heappush(ahead, (message.time_ns, number, message, flow))
            if ahead:
                _, number, message, flow = ahead[0]
                yield message
                if (following := next(flow, None)) is None:
                    heapq.heappop(ahead)
                else:
                    heapq.heapreplace(ahead, (following.time_ns, number, following, flow))

    def decode(self, message: Recorded) -> Any:
        """A message with attributes. Raises CodecError where it is damaged, or its type unknown."""
        topic, _, data = message
        decode = self._decoders.get(topic)
        if decode is None:
            decode = self._decoders[topic] = self._decoder(self.types[topic])
        try:
            return decode(data)
        except Exception as error:  # of generated code: whatever damaged bytes lead to
            raise CodecError(
                f"message on {message.topic!r}", got=said(error),
                expected=f"a {self.types[message.topic]}",
            ) from error  # fmt: skip

    def _decoder(self, name: str) -> Callable[[bytes | memoryview], Any]:
        """Makes messages of a type. Raises TransportError where it is not known."""
        store, unpack = self._store, self._unpack
        decode: Callable[[bytes | memoryview], Any]
        if name.endswith("_Event") and "/srv/" in name:
            # what was asked and answered is not needed, nor is its definition
            def decode(data: bytes | memoryview) -> Any:
                return SimpleNamespace(info=deserialized(store, data[:_EVENT_BYTES], _EVENT_INFO))
        else:
            self.message_class(name)
            try:
                decode = self._readers.of(name)
            except NotSupported:
                decode = partial(_deserialized, store, name)
        if unpack is None:
            return decode
        return lambda data: decode(unpack.decompress(data, max_output_size=_LARGEST_MESSAGE))

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
            self.notes.append(f"definition of {name} cannot be read: {said(error)}")

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


def _deserialized(store: Any, name: str, data: bytes | memoryview) -> Any:
    return deserialized(store, data, name)


def _metadata(path: Path) -> dict[str, Any]:
    """What ``metadata.yaml`` says; empty where there is none, or it is damaged."""
    with suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        found = yaml.safe_load((path / METADATA).read_text(encoding="utf-8"))
        return dict(found["rosbag2_bagfile_information"])
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
    return magic.startswith(MCAP_MAGIC) or (
        magic.startswith(SQLITE_MAGIC) and path.suffix == ".db3"
    )


def in_order(written: Mapping[str, Sequence[Array]]) -> dict[str, Array]:
    """When messages came, by topic: (n,) int64, sorted."""
    return {topic: np.sort(np.concatenate(parts)) for topic, parts in written.items()}


def ran_twice(written: Mapping[str, Sequence[Array]]) -> list[tuple[int, int]]:
    """Spans of time, from and to, through which some topic was recorded twice: the clock was set back (of the computer,
    or of a simulation that began anew), or several recordings lie in one folder. By their times alone, messages of both
    would be taken for those of one motion.

    Args:
        written: See :meth:`Bag.written`.
    """
    found: list[tuple[int, int]] = []
    for parts in written.values():
        latest = -(2**63)
        runs = [
            run for times in parts
            for run in np.split(times, np.flatnonzero(np.diff(times) < -_DISORDER_NS) + 1) if run.size
        ]  # fmt: skip
        for run in sorted(runs, key=np.min):
            first, last = int(run.min()), int(run.max())
            end = min(last, latest)
            # one message that comes late is no clock that was set back
            if end - first > _DISORDER_NS and np.count_nonzero(run <= end) > 1:
                found.append((first, end))
            latest = max(latest, last)
    joined: list[tuple[int, int]] = []
    for first, end in sorted(found):
        if joined and first <= joined[-1][1]:
            begin, before = joined.pop()
            first, end = begin, max(before, end)
        joined.append((first, end))
    return joined


def rates(times_ns: Mapping[str, Array]) -> dict[str, tuple[int, float, float]]:
    """By topic: messages, rate (Hz) and the longest silence (s), of sorted times."""
    found = {}
    for topic, times in times_ns.items():
        span = max(int(times[-1] - times[0]), 1)
        longest = int(np.diff(times).max(initial=0))
        found[topic] = (len(times), (len(times) - 1) * 1e9 / span, longest / 1e9)
    return found
