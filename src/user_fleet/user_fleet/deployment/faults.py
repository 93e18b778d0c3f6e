"""What is wrong with a deployment: collected with its places, told all at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from user_core.config import ConfigErrors
from user_core.errors import ConfigError
from user_fleet.deployment.tree import Node, Origin, place_of


class Faults:
    """What is wrong with a deployment, each with its place; told all at once."""

    def __init__(self) -> None:
        self.found: list[ConfigError] = []
        self._reported: set[tuple[str, str, str]] = set()

    def add(
        self,
        origin: Origin | None,
        what: str,
        got: object = None,
        expected: object = None,
        hint: str = "",
    ) -> None:
        """One more."""
        text = f"{origin}: {what}" if origin is not None else what
        # One argument may stand in many places.
        cause = (origin.through or origin.place) if origin is not None else ""
        if (cause, what, str(got)) not in self._reported:
            self._reported.add((cause, what, str(got)))
            self.found.append(ConfigError(text, got=got, expected=expected, hint=hint))

    def unknown(
        self, origin: Origin | None, what: str, got: str, options: Iterable[str], hint: str = ""
    ) -> None:
        """Something is not one of what there is; names the nearest."""
        known = sorted(options)
        close = difflib.get_close_matches(got, known, n=1)
        near = f"; did you mean {close[0]!r}?" if close else ""
        self.add(origin, what, repr(got), f"one of {known}{near}" if known else "none", hint)

    def take(self, error: ConfigError, tree: Node | None = None, above: str = "") -> None:
        """What a configuration class has found, with the places of a tree."""
        for one in error.errors if isinstance(error, ConfigErrors) else (error,):
            origin = None if tree is None else place_of(tree, one.key)
            self.add(origin, above + one.what, one.got, one.expected, one.hint)

    def check(self) -> None:
        """Raise them, if there are any."""
        if self.found:
            raise ConfigErrors.of(self.found)
