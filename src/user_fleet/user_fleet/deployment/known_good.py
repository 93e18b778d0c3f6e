"""Parameters of plugins that were found right before, so that the plugin need not be imported again.

To check the parameters of a plugin its module must be imported, and an algorithm brings torch: three
seconds of processor time before the first process starts. So what was right is remembered, in the
user's cache folder, for the plugin's source as it is. What is wrong is never remembered, and a folder
that cannot be read or written does no harm: then everything is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from user_core import plugins
from user_core.config.setting import as_number
from user_core.errors import SuiteError
from user_core.runtime.files import write_atomically

_MOST = 256


class KnownGood:
    """Which choices of plugins were found right.

    Args:
        file: Where it is remembered; by default ``user/known_good.json`` in ``$XDG_CACHE_HOME``, or
            in ``~/.cache``.
    """

    def __init__(self, file: Path | None = None) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._file = file or Path(cache) / "user" / "known_good.json"
        self._keys: list[str] = []
        with suppress(OSError, ValueError):
            self._keys = list(map(str, json.loads(self._file.read_text(encoding="utf-8"))))

    def has(self, key: str) -> bool:
        """Whether a choice with this key was right; never so for an empty key."""
        return bool(key) and key in self._keys

    def add(self, key: str) -> None:
        """Remember that it is right."""
        if not key or key in self._keys:
            return
        self._keys = [*self._keys[1 - _MOST :], key]
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(self._keys), durable=False)


def key_of_choice(kind: str, name: str, params: Mapping[str, Any]) -> str:
    """A key for a choice and the source of its plugin; empty where that cannot be told.

    Seeds are left out: which number it is makes nothing right or wrong.
    """
    source = source_of(kind, name)
    return key_of(kind, _without_seeds(params), source) if source else ""


def source_of(kind: str, name: str) -> str:
    """The source of a plugin, as a text that changes with it; empty where that cannot be told."""
    try:
        point = plugins.available(kind).get(name)
        spec = find_spec(point.module) if point is not None else None
        if point is None or spec is None or spec.origin is None:
            return ""
        folders = [Path(spec.origin).parent, Path(str(plugins.__file__)).parent]
        files = [
            (str(file), (stat := file.stat()).st_mtime_ns, stat.st_size)
            for folder in folders
            for file in sorted(folder.rglob("*.py"))
        ]
    except (SuiteError, ImportError, OSError, ValueError):
        return ""
    return json.dumps([point.value, files])


def key_of(*said: object) -> str:
    """A key for whatever was checked; empty where it is nothing that JSON can hold."""
    try:
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    except (TypeError, ValueError):
        return ""


def _without_seeds(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in params.items()
        if not (key == "seed" and type(as_number(value)) is int and 0 <= value < 2**31)
    }
