"""Functions that make messages of the CDR of a bag, written for each type from its definition.

What the package ``rosbags`` generates is general and costs more than half of reading a bag. Here plain numbers that
lie one behind the other are read at once, messages within messages without a call, arrays as views of the bytes, and
a list of names that is that of the message before is not read again. The rules are those of CDR (OMG DDSI-RTPS 2.3,
10.2), and each length is held against the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

#: Codes of ``struct``, as ``rosbags`` reads them.
_CODES = {
    "bool": "?", "byte": "b", "char": "B", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i",
    "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d",
}  # fmt: skip
_KINDS = {"byte": "int8", "char": "uint8"}
#: Before the content: two bytes that say the order of bytes, two of options.
_HEAD = 4

#: The order of bytes.
_Order = Literal["<", ">"]
#: A message, and where what follows it begins.
_Read = Callable[[Any, int, int], tuple[Any, int]]


class NotSupported(Exception):
    """A definition has something that is not read here."""


class Decoders:
    """Decoders of the types of a store.

    Args:
        store: Of ``rosbags``: what the types are, and the classes of their messages.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._made: dict[tuple[str, str], _Read] = {}

    def of(self, name: str) -> Callable[[Any], Any]:
        """The decoder of a type: takes a serialised message (bytes or a view of them), gives one with attributes.
        Lists of texts may be those of other messages: they are not to be written to. It raises ValueError,
        struct.error or UnicodeDecodeError for bytes that are no such message.

        Raises:
            NotSupported: It has something that is not read here, for instance a type that is not known.
        """
        ways = self.reader(name, ">"), self.reader(name, "<")

        def decode(data: Any) -> Any:
            size = len(data)
            if size < _HEAD or data[0] or data[1] > 1:
                raise ValueError("no CDR, or one with options that are not known")
            # rclpy.serialization writes what is some bytes longer (an empty list of float64 counts as aligned), with
            # anything in them: ROS passes over what is behind a message, and so do we
            message, _ = ways[data[1]](data, _HEAD, size)
            return message

        return decode

    def reader(self, name: str, order: _Order) -> _Read:
        """Reads one message of a type anywhere in some bytes; raises as :meth:`of`."""
        if (name, order) not in self._made:
            self._made[name, order] = _Writer(self, self._store, order).written(name)
        return self._made[name, order]


class _Writer:
    """Writes the function that reads one type."""

    def __init__(self, decoders: Decoders, store: Any, order: _Order) -> None:
        self._decoders, self._store = decoders, store
        self._order: _Order = order
        self._lines: list[str] = []
        self._known: dict[str, Any] = {"new": object.__new__, "frombuffer": np.frombuffer}
        self._run: list[tuple[str, str]] = []  # numbers that are read at once: name, code
        self._count = 0

    def written(self, name: str) -> _Read:
        result = self._message(name)
        self._end_run()
        code = "\n".join(["def read(d, p, end):", *(f"    {line}" for line in self._lines),
                          f"    return {result}, p"])  # fmt: skip
        exec(code, self._known)  # noqa: S102 - of names that are made here, and fields that are identifiers
        read: _Read = self._known["read"]
        return read

    def _name(self, start: str, value: Any = None) -> str:
        self._count += 1
        name = f"{start}{self._count}"
        if value is not None:
            self._known[name] = value
        return name

    def _message(self, name: str) -> str:
        """Lines for a message that lies within; the name of the variable that has it."""
        if (
            name not in self._store.fielddefs
        ):  # to the parser of ``rosbags``, wstring is a message, too
            raise NotSupported(f"a {name!r}, which has no definition")
        names = []
        for field, node in self._store.fielddefs[name][1]:
            normal = normalized(field)
            if not normal.isidentifier():
                raise NotSupported(f"a field {field!r}")
            names.append((normal, self._value(node)))
        self._end_run()
        made = self._name("m")
        self._lines.append(f"{made} = new({self._name('C', self._store.types[name])})")
        self._lines += [f"{made}.{field} = {value}" for field, value in names]
        return made

    def _value(self, node: tuple[Any, Any]) -> str:
        kind, detail = node
        if kind.name == "NAME":
            return self._message(detail)
        if kind.name == "BASE":
            return self._text() if detail[0] == "string" else self._number(detail[0])
        (inner_kind, inner), length = detail
        if kind.name == "ARRAY":
            self._end_run()
            count = str(length)
        else:
            count = self._number("uint32")
            self._end_run()
        found = self._name("v")
        if inner_kind.name == "NAME":
            read = self._name("M", self._decoders.reader(inner, self._order))
            one = self._name("o")
            self._refuse(f"p + {count} > end")
            self._lines += [f"{found} = []", f"for _ in range({count}):",
                            f"    {one}, p = {read}(d, p, end)", f"    {found}.append({one})"]  # fmt: skip
        elif inner[0] == "string":
            read = self._name("T", _texts(self._order))
            if kind.name == "ARRAY":
                self._lines.append("p = (p + 3) & -4")
            self._lines.append(f"{found}, p = {read}(d, p, {count}, end)")
        elif inner[0] in _CODES:
            self._numbers(found, count, inner[0])
        else:
            raise NotSupported(inner[0])
        return found

    def _number(self, kind: str) -> str:
        if kind not in _CODES:
            raise NotSupported(kind)
        name = self._name("n")
        self._run.append((name, _CODES[kind]))
        return name

    def _text(self) -> str:
        size, found = self._number("uint32"), self._name("t")
        self._end_run()
        self._lines.append(f"e = p + {size}")
        self._refuse(f"{size} < 1 or e > end or d[e - 1]")
        self._lines += [f"{found} = str(d[p:e - 1], 'utf-8')", "p = e"]
        return found

    def _numbers(self, found: str, count: str, kind: str) -> None:
        dtype = np.dtype(_KINDS.get(kind, kind)).newbyteorder(self._order)
        wide = dtype.itemsize
        native = dtype.newbyteorder("=")
        empty = self._name("E", np.zeros(0, native))
        # numpy's own type where it is that of this machine, as everybody expects
        turned = "" if dtype == native else f".astype({self._name('D', native)})"
        aligned = f"p = ((p - {_HEAD} + {wide - 1}) & -{wide}) + {_HEAD}"
        self._lines += [
            f"if {count}:",
            *([f"    {aligned}"] if wide > 1 else []),
            f"    {found} = frombuffer(d, {self._name('D', dtype)}, {count}, p){turned}",
            f"    p += {count} * {wide}",
            "else:",
            f"    {found} = {empty}",
        ]

    def _refuse(self, condition: str) -> None:
        self._lines += [f"if {condition}:", "    raise ValueError('a length that cannot be')"]

    def _end_run(self) -> None:
        """Read the numbers that wait. How they are padded depends on where they begin."""
        if not self._run:
            return
        run, self._run = self._run, []
        layouts = tuple(
            _layout([code for _, code in run], (at - _HEAD) % 8, self._order) for at in range(8)
        )
        names = ", ".join(name for name, _ in run) + ("," if len(run) == 1 else "")
        self._lines += [f"s = {self._name('S', layouts)}[p & 7]", f"{names} = s.unpack_from(d, p)", "p += s.size"]  # fmt: skip


def _layout(codes: list[str], start: int, order: str) -> struct.Struct:
    """Numbers one behind the other, with padding, from a place within eight bytes on."""
    text, at = order, start
    for code in codes:
        size = struct.calcsize("=" + code)
        padding = -at % size
        text += "x" * padding + code
        at += padding + size
    return struct.Struct(text)


def _texts(order: str) -> Callable[[Any, int, int, int], tuple[list[str], int]]:
    """Reads lists of texts. The names of joints are the same in each message of a topic: of the bytes that were read
    last the texts are known."""
    length = struct.Struct(order + "I").unpack_from
    known: tuple[int, bytes, list[str]] = (0, b"", [])

    def read(data: Any, start: int, count: int, end: int) -> tuple[list[str], int]:
        nonlocal known
        if not count:
            return [], start
        if start + 5 * count > end:
            raise ValueError(f"{count} texts, which have no room")
        last, content, texts = known
        if count == last and data[start : start + len(content)] == content:
            return texts, start + len(content)
        texts, at = [], start
        for _ in range(count):
            at = (at + 3) & -4
            (size,) = length(data, at)
            behind = at + 4 + size
            if size < 1 or behind > end or data[behind - 1]:
                raise ValueError("a text that is cut off")
            texts.append(str(data[at + 4 : behind - 1], "utf-8"))
            at = behind
        known = (count, bytes(data[start:at]), texts)
        return texts, at

    return read


def normalized(field: str) -> str:
    """The attribute of a field: with an underscore behind it where it is a word of Python."""
    from rosbags.typesys.base import normalize_fieldname

    return normalize_fieldname(field)
