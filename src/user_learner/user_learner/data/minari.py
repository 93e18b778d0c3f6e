"""Minari data sets (https://minari.farama.org): HDF5, or parquet files that its arrow backend writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from user_core.errors import CodecError
from user_learner.data.hdf5 import Hdf5Source

_MAIN = "main_data.hdf5"
_METADATA = "metadata.json"


class MinariFormat:
    """Minari data sets, by ``data/main_data.hdf5``."""

    name = "minari"
    title = "a Minari data set (its directory, or the data in it)"

    def recognises(self, path: Path) -> bool:
        """Whether there is Minari's file of data."""
        return any((path / part / _METADATA).is_file() for part in (".", "data"))

    def open(self, path: Path, options: Mapping[str, Any]) -> Hdf5Source:
        """Open a data set."""
        folder = path if (path / _METADATA).is_file() else path / "data"
        try:
            said = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CodecError(f"{folder / _METADATA}", got=str(error), expected="JSON") from error
        if not (folder / _MAIN).is_file():
            raise CodecError(
                f"Minari data set {path}", got=f"data of its {said.get('data_format')!r} backend",
                expected="hdf5", hint="Convert it: minari.convert, or data_format='hdf5'",
            )  # fmt: skip
        return MinariSource(folder / _MAIN, said, float(options.get("period_s") or 0.0))


FORMAT = MinariFormat()


def _pictures(text: Any, name: str = "observations") -> dict[str, tuple[int, ...]]:
    """Observations that Minari keeps as JPEG, by the description of their space."""
    found: dict[str, tuple[int, ...]] = {}
    try:
        space = json.loads(text) if isinstance(text, str) else dict(text or {})
        for part, inner in (space.get("subspaces") or {}).items():
            found |= _pictures(inner, f"{name}/{part}")
        shape = tuple(int(size) for size in space.get("shape") or ())
        if space.get("type") == "Box" and space.get("dtype") == "uint8" and len(shape) in (2, 3):
            found[name] = shape
    except (AttributeError, TypeError, ValueError):
        pass  # a description of another kind: nothing is decoded
    return found


class MinariSource(Hdf5Source):
    """A Minari data set that is open: its HDF5 file, and what its metadata say."""

    def __init__(self, path: Path, said: Mapping[str, Any], period_s: float) -> None:
        self._said = said
        self.coded = _pictures(said.get("observation_space"))
        super().__init__(path, period_s)

    def describe(self) -> Any:
        """What it says of itself."""
        from dataclasses import replace

        found = super().describe()
        robot = str(self._said.get("env_name") or "")
        try:
            specified = json.loads(self._said.get("env_spec") or "{}")
            robot = str(specified.get("id") or robot)
        except (TypeError, ValueError, AttributeError):
            pass
        return replace(found, format="minari", robot=robot or found.robot)
