"""Checks of numbers and names that came over the wire. They raise CodecError, naming the field."""

from __future__ import annotations

import math
import re
from enum import IntEnum
from typing import Any, TypeVar

from user_core.errors import CodecError

E = TypeVar("E", bound=IntEnum)

#: Longest name of an actor, robot, task, frame or error code that is accepted.
NAME_LENGTH = 256
#: Longest text for people that is accepted.
TEXT_LENGTH = 4096
_HASH = re.compile(r"[0-9a-f]{64}")


def enum(kind: type[E], value: int, where: str) -> E:
    """The member of an enumeration."""
    try:
        return kind(value)
    except ValueError:
        names = {member.value: member.name for member in kind}
        raise CodecError(where, got=value, expected=f"one of {names}") from None


def integer(value: int, where: str, low: int | None = None, high: int | None = None) -> int:
    """An integer within bounds, both included."""
    if (low is not None and value < low) or (high is not None and value > high):
        raise CodecError(where, got=value, expected=_range(low, high))
    return value


def number(
    value: float,
    where: str,
    low: float | None = None,
    high: float | None = None,
    *,
    nan: bool = False,
) -> float:
    """A finite number within bounds, both included; NaN where it has a meaning."""
    if nan and math.isnan(value):
        return value
    if (
        not math.isfinite(value)
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        raise CodecError(where, got=value, expected="a finite number" + _range(low, high, " "))
    return value


def name(value: str, where: str, *, empty: bool = False) -> str:
    """A short printable name."""
    if (not value and not empty) or len(value) > NAME_LENGTH or not value.isprintable():
        raise CodecError(
            where,
            got=repr(value)[:80],
            expected=f"1 to {NAME_LENGTH} printable characters",
        )
    return value


def text(value: str, where: str) -> str:
    """Text for people; may be empty."""
    if len(value) > TEXT_LENGTH:
        raise CodecError(where, got=f"{len(value)} characters", expected=f"at most {TEXT_LENGTH}")
    return value


def sha256(value: str, where: str, *, empty: bool = False) -> str:
    """A SHA-256 in lower-case hexadecimal digits."""
    if not (_HASH.fullmatch(value) or (empty and not value)):
        raise CodecError(where, got=repr(value)[:80], expected="64 hexadecimal digits")
    return value


def at_most(sequence: Any, limit: int, where: str) -> Any:
    """A sequence that is not longer than allowed."""
    if len(sequence) > limit:
        raise CodecError(where, got=f"{len(sequence)} elements", expected=f"at most {limit}")
    return sequence


def _range(low: float | None, high: float | None, before: str = "") -> str:
    if low is None and high is None:
        return ""
    return f"{before}from {'-inf' if low is None else low} to {'inf' if high is None else high}"
