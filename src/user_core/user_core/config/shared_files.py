"""Files by name: in the ``config`` folders of all installed packages, by ``package://``, by ``~``.

A package of one's own in a workspace that is sourced (an overlay) holds robots, deployments,
fragments and algorithms as ours does, in ``share/PACKAGE/config/robots`` and so on, and they are found by
name. Where two packages have a file of the same name, ``PACKAGE/NAME`` says which is meant.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from user_core.errors import ConfigError

_SCHEME = "package://"
_ENDINGS = (".yaml", ".yml")


def path_of_file(text: str | Path) -> Path:
    """The path that a text means: ``~`` is somebody's home, ``package://PACKAGE/FILE`` is in the share folder
    of an installed package.

    Raises:
        ConfigError: The package is not installed, or nobody has this home.
    """
    words = str(text)
    if not words.startswith(_SCHEME):
        try:
            return Path(words).expanduser()
        except RuntimeError as error:
            raise ConfigError("file", got=repr(words), expected="a home that there is") from error
    package, _, file = words.removeprefix(_SCHEME).partition("/")
    for prefix in _prefixes():
        share = prefix / "share" / package
        if package and (share / "package.xml").is_file():
            return share / file
    raise ConfigError(
        f"package {package!r}", got=f"{words!r}, and no such package is installed",
        expected="package://PACKAGE/FILE of an installed package",
        hint="Build it with colcon, and source install/setup.bash",
    )  # fmt: skip


def shared_folders(kind: str) -> dict[str, Path]:
    """``config/KIND`` of each installed package that has it, by package.

    Of a package that is in several workspaces the topmost counts, as everywhere in ROS.
    """
    return dict(_folders(kind, os.environ.get("AMENT_PREFIX_PATH", "")))


def shared_names(kind: str) -> list[str]:
    """The names that are to be had, for instance of all robots."""
    return sorted({file.stem for folder in shared_folders(kind).values() for file in _in(folder)})


def find_shared(kind: str, name: str, first: Iterable[Path] = ()) -> Path | None:
    """The file that a name means; None where there is none.

    Args:
        kind: ``robots``, ``deployments``, ``fragments``, ``algorithms``.
        name: ``NAME``, with or without its ending, or ``PACKAGE/NAME``.
        first: Folders that win over those of packages.

    Raises:
        ConfigError: Several packages have it.
    """
    package, _, stem = name.rpartition("/")
    stem = stem.removesuffix(".yaml")
    for folder in first:
        if not package and (file := folder / f"{stem}.yaml").is_file():
            return file
    found = {
        owner: folder / f"{stem}.yaml"
        for owner, folder in shared_folders(kind).items()
        if (not package or owner == package) and (folder / f"{stem}.yaml").is_file()
    }
    if len(found) > 1:
        choices = ", ".join(f"{owner}/{stem}" for owner in sorted(found))
        raise ConfigError(
            f"{kind} {name!r}", got=f"one in each of {len(found)} packages", expected=choices
        )
    return next(iter(found.values()), None)


def file_meant(kind: str, name: str | Path, first: Iterable[Path] = ()) -> Path:
    """The file that somebody means: a path, ``package://PACKAGE/FILE``, or a name as in :func:`find_shared`.

    Args:
        kind: ``robots``, ``deployments``, ``algorithms``, ``experiments``.
        name: What was given.
        first: Folders that win over those of packages.

    Raises:
        ConfigError: There is none, or several packages have it; names the nearest, and all.
    """
    path, folders = path_of_file(name), list(first)
    if path.is_file():
        return path
    if (found := find_shared(kind, str(name), folders)) is not None:
        return found
    known = sorted({*shared_names(kind), *(f.stem for folder in folders for f in _in(folder))})
    close = difflib.get_close_matches(path.stem, known, n=1)
    what = "robot configuration" if kind == "robots" else kind.removesuffix("s")
    raise ConfigError(
        f"no {what} {str(name)!r}",
        expected=f"a path, or one of {', '.join(known)}"
        + (f"; did you mean {close[0]!r}?" if close else ""),
    )


@lru_cache(maxsize=32)
def _folders(kind: str, prefixes: str) -> tuple[tuple[str, Path], ...]:
    found: dict[str, Path] = {}
    for prefix in _prefixes(prefixes):
        for folder in sorted(prefix.glob(f"share/*/config/{kind}")):
            found.setdefault(folder.parent.parent.name, folder)
    return tuple(found.items())


def _prefixes(path: str | None = None) -> Iterator[Path]:
    text = os.environ.get("AMENT_PREFIX_PATH", "") if path is None else path
    return (Path(prefix) for prefix in text.split(os.pathsep) if prefix)


def _in(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.suffix in _ENDINGS)
