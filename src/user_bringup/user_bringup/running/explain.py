"""What a deployment amounts to, and where each value comes from: `user up DEPLOYMENT --explain`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from user_bringup.running.find import config_folder
from user_core.config import Config, from_mapping, to_mapping
from user_core.config.model import Key, path_of
from user_core.errors import ConfigError
from user_fleet.deployment import Composition, ProcessSpec, start_order
from user_fleet.deployment.check import OF_EVERY_NODE, node_config
from user_fleet.deployment.tree import Node, Origin, leaves, plain, read_tree, tree_of
from user_hal.node_configs import HalConfig
from user_hal.robot_file import find_robot_file

_DEFAULT = Origin("default")
_WIDTH = 46
#: What is said in the heading of a process, or follows from it.
_IN_HEADING = ("name", "package", "executable", "namespace", "role", "robot", "host", "parameters")


def explain(composition: Composition) -> str:
    """The processes in the order of their start, each value with its place.

    Parameters are shown by the path by which the command line sets them.
    """
    deployment = composition.deployment
    parts = [f"{deployment.name}: {deployment.description}".rstrip(": ")]
    rows = [
        (f"{name}:={yaml_text(value)}", deployment.arguments[name].doc)
        for name, value in composition.arguments.items()
    ]
    if rows:
        parts.append(_table("arguments", rows))
    for process in start_order(deployment.processes):
        tree = composition.trees[process.name]
        lines = [
            (f"{process.name}.{path_of(key)}: {yaml_text(plain(node))}", _place(node.origin))
            for key, node in leaves(tree.without(*_IN_HEADING))
        ]
        lines += [
            (f"{process.name}.{path_of(key)}:={yaml_text(plain(node))}", _place(node.origin))
            for key, node in _parameters(process, tree)
        ]
        parts.append(_table(_heading(process), lines))
    return "\n\n".join(parts)


def _heading(process: ProcessSpec) -> str:
    whose = f"{process.robot or process.host}.{process.role}" if process.role else ""
    said = [
        f"{process.name}  ({process.package} {process.executable})",
        f"node {process.node_name}" if process.ros else "",
        f"also {whose}" if whose and not whose.startswith(".") else "",
        f"host {process.host}" if process.host else "",
    ]
    return "  ".join(word for word in said if word)


def _parameters(process: ProcessSpec, tree: Node) -> Iterator[tuple[Key, Node]]:
    """Those that are given, in their order, then those of a robot file, then defaults."""
    given = tree.get("parameters") or Node({}, tree.origin)
    seen: list[Key] = []
    sources = [given]
    config = _config(process)
    if isinstance(config, HalConfig) and config.robot_file:
        sources.append(read_tree(find_robot_file(config.robot_file)))
    if config is not None:
        sources.append(tree_of(to_mapping(config), _DEFAULT))
    for source in sources:
        fresh = [(key, node) for key, node in leaves(source) if key and not _covered(key, seen)]
        yield from fresh
        seen += [key for key, _ in fresh]


def _covered(key: Key, seen: list[Key]) -> bool:
    """Whether a value with this key, or with something below or above it, has been shown."""
    return any(key[: len(one)] == one or one[: len(key)] == key for one in seen)


def _config(process: ProcessSpec) -> Config | None:
    try:
        cls = node_config(process.executable) if process.ros else None
        if cls is None:
            return None
        own = {key: value for key, value in process.parameters.items() if key not in OF_EVERY_NODE}
        return from_mapping(cls, own)
    except ConfigError:  # is told by the check
        return None


def yaml_text(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, str) and value:
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")


def _place(origin: Origin) -> str:
    """With files as they are seen from here, or by their folder and name."""
    place, line = origin.place, ""
    if ":" in place:
        place, _, line = place.rpartition(":")
    file = Path(place)
    if file.is_absolute():
        ready, near = config_folder(), os.path.relpath(file)
        if file.is_relative_to(ready):  # installed; `config` of the sources is the same
            place = f"config/{file.relative_to(ready)}"
        elif not near.startswith(".."):
            place = near
    text = f"{place}:{line}" if line else place
    return f"{text}  ({_shortened(origin.through)})" if origin.through else text


def _shortened(text: str) -> str:
    """What is said of an argument, with the place of its default as short as the others."""
    before, at, place = text.partition("default at ")
    return before + at + _place(Origin(place)) if at else text


def _table(heading: str, rows: list[tuple[str, str]]) -> str:
    lines = [heading]
    for left, right in rows:
        if len(left) > _WIDTH:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:<{_WIDTH}}  {right}".rstrip())
    return "\n".join(lines)
