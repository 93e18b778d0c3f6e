"""Numbers out of messages, by a path of names and indices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from user_core.errors import ConfigError, DeviceFault
from user_core.specs import Array
from user_hal.robots.ros2.layouts import Layout

_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[\d+\])*)")


class FieldPath:
    """A way through a message, for instance ``pose.pose`` or ``transforms[0].transform``.

    Raises:
        ConfigError: The text is not such a way.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._steps: list[str | int] = []
        for part in text.split("."):
            match = _STEP.fullmatch(part)
            if match is None:
                raise ConfigError(
                    "path of a field",
                    got=repr(text),
                    expected="names and [indices], joined by dots",
                )
            self._steps.append(match[1])
            self._steps += [int(index) for index in re.findall(r"\d+", match[2])]

    def get(self, message: Any) -> Any:
        """What stands there. Raises AttributeError or IndexError where there is nothing."""
        for step in self._steps:
            message = message[step] if isinstance(step, int) else getattr(message, step)
        return message

    def check(self, message_class: type[Any], type_name: str) -> None:
        """Raise ConfigError, listing what there is, unless messages of this type can have it.

        Sequences are empty in a new message, so what comes after an index is not checked.
        """
        message = message_class()
        way = type_name
        for step in self._steps:
            if isinstance(step, int):
                return
            if not hasattr(message, step):
                raise no_such_field(self.text, step, message, way)
            message = getattr(message, step)
            way = f"{way}.{step}"


def fields_of(message: Any) -> list[str]:
    """Names of the fields of a message."""
    describe = getattr(message, "get_fields_and_field_types", None)
    return sorted(describe()) if describe is not None else sorted(vars(message))


def no_such_field(path: str, step: str, message: Any, where: str) -> ConfigError:
    """The error for a field that is not there."""
    known = (
        fields_of(message)
        if hasattr(message, "__dict__") or hasattr(message, "get_fields_and_field_types")
        else []
    )
    near = difflib.get_close_matches(step, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(
        f"field {path!r}",
        got=f"{where} has no {step!r}",
        expected=f"one of {known}{hint}" if known else f"nothing below {where}",
    )


class Extractor:
    """Takes one array of the observation out of messages of one type.

    Args:
        field: Way to the numbers.
        layout: What stands there.
        size: Number of elements that must come out.
        names: Elements to take, by name, in this order; empty: by position.
        names_field: Way to the names.
        indices: Elements to take, by position; empty: all.
        scale: Factor, (1,) or (size,).
        offset: Added afterwards, (1,) or (size,).
    """

    def __init__(
        self,
        field: FieldPath,
        layout: Layout,
        size: int,
        names: Sequence[str] = (),
        names_field: FieldPath | None = None,
        indices: Sequence[int] = (),
        scale: Sequence[float] = (1.0,),
        offset: Sequence[float] = (0.0,),
    ) -> None:
        self._field, self._layout, self._size = field, layout, size
        self._names, self._names_field = tuple(names), names_field
        self._indices = np.asarray(indices, np.intp) if len(indices) else None
        self._scale, self._offset = np.asarray(scale, float), np.asarray(offset, float)
        self._known_names: tuple[str, ...] | None = None
        self._rows: Array = np.zeros(0, np.intp)

    def __call__(self, message: Any) -> Array | None:
        """The numbers, (size,) float64; None when the message is about other elements.

        Raises:
            DeviceFault: The message has not got what was promised, or numbers that are not finite.
        """
        try:
            values = np.atleast_1d(self._layout.read(self._field.get(message)))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise DeviceFault(f"field {self._field.text!r}", got=f"{error}") from error
        if values.ndim != 1:
            values = values.ravel()
        if self._names:
            rows = self._rows_of_names(message)
            if rows is None:
                return None
            values = self._take(values, rows)
        elif self._indices is not None:
            values = self._take(values, self._indices)
        if values.size != self._size:
            raise DeviceFault(
                f"field {self._field.text!r}", got=f"{values.size} numbers", expected=self._size
            )
        scaled: Array = values * self._scale + self._offset
        if not np.isfinite(scaled).all():
            bad = int(np.flatnonzero(~np.isfinite(scaled))[0])
            label = self._names[bad] if self._names else f"element {bad}"
            raise DeviceFault(
                f"field {self._field.text!r}: {label}", got=scaled[bad], expected="finite numbers"
            )
        return scaled

    def _take(self, values: Array, rows: Array) -> Array:
        if rows.size and rows.max() >= values.size:
            raise DeviceFault(
                f"field {self._field.text!r}",
                got=f"{values.size} numbers",
                expected=f"at least {rows.max() + 1}",
                hint="The publisher leaves it empty" if values.size == 0 else "",
            )
        taken: Array = values[rows]
        return taken

    def _rows_of_names(self, message: Any) -> Array | None:
        assert self._names_field is not None  # noqa: S101 - given together with names
        try:
            names = tuple(self._names_field.get(message))
        except (AttributeError, IndexError, TypeError) as error:
            raise DeviceFault(f"field {self._names_field.text!r}", got=f"{error}") from error
        if names != self._known_names:  # the same list in nearly every message
            row_of = {name: row for row, name in enumerate(names)}
            if any(name not in row_of for name in self._names):
                return None
            self._rows = np.array([row_of[name] for name in self._names], np.intp)
            self._known_names = names
        return self._rows
