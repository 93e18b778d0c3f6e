"""Plugins by entry points: found by name, imported only when chosen.

Every kind has an entry-point group, and ours register in it just as a user's would::

    # setup.py of any installed Python package
    entry_points={"user.rewards": ["pose_threshold = my_lab.rewards:PoseThreshold"]}
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from user_core.config import Config, from_mapping, setting
from user_core.errors import ConfigError, PluginError, in_words, is_of_a_person
from user_core.interfaces import Algorithm, Camera, GoalReward, Policy, Reward, Robot, Teleop
from user_core.jobs import Engine
from user_core.metrics import MetricsSink
from user_core.runtime.processes.foreign_code import exits_are_errors, report_if_ended

#: Kind of plugin, to the class that every plugin of this kind extends.
KINDS: Mapping[str, type] = {
    "robots": Robot,
    "cameras": Camera,
    "teleops": Teleop,
    "policies": Policy,
    "rewards": Reward,
    "goal_rewards": GoalReward,
    "algorithms": Algorithm,
    "engines": Engine,
    "metrics_sinks": MetricsSink,
}

#: Name of a field that holds a :class:`PluginChoice`, or several by name, to the kind of plugin.
FIELD_KINDS: Mapping[str, str] = {
    "robot": "robots",
    "teleop": "teleops",
    "policy": "policies",
    "algorithm": "algorithms",
    "reward": "rewards",
    "goal_reward": "goal_rewards",
    "devices": "cameras",
    "sinks": "metrics_sinks",
}


#: Packages whose modules end no process.
_OURS = ("user_core", "user_hal", "user_actor", "user_learner", "user_fleet", "user_comm")
#: Kinds of plugins that run code of devices and simulations, ours too.
_OF_DEVICES = ("robots", "cameras", "teleops")


class PluginChoice(Config):
    """A plugin and its parameters, as a configuration names them."""

    plugin: str = setting(doc="Name it is registered by, or package.module:Class.", min_length=1)
    params: dict[str, Any] = setting(factory=dict, doc="Its own parameters.")

    def validate(self) -> None:
        if "plugin" in self.params:
            raise ConfigError(
                "params", got=f"plugin: {self.params['plugin']!r} among the parameters of {self.plugin!r}",
                expected="plugin beside params", hint="In a file of ROS parameters leave an empty `params: {}` out: "
                "ROS takes what follows it for a part of it",
            )  # fmt: skip

    def build(self, kind: str, *args: Any, path: str = "") -> Any:
        """Make it; see :func:`build`. ``path`` is that of this choice in its document."""
        return build(kind, self.plugin, self.params, *args, path=f"{path}.params" if path else "")


def available(kind: str) -> dict[str, EntryPoint]:
    """Names and entry points of the installed plugins of a kind; imports none of them."""
    if kind not in KINDS:
        raise PluginError("kind of plugin", got=repr(kind), expected=f"one of {list(KINDS)}")
    return dict(_installed(kind, _folders()))


def _folders() -> tuple[tuple[str, int], ...]:
    """Where packages are found, and when something was last installed there."""
    times = []
    for folder in sys.path:
        try:
            times.append((folder, os.stat(folder or ".").st_mtime_ns))
        except OSError:
            times.append((folder, 0))
    return tuple(times)


@lru_cache(maxsize=len(KINDS))
def _installed(kind: str, folders: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """To find them, the metadata of some hundred packages are read."""
    return {point.name: point for point in entry_points(group=f"user.{kind}")}


def load(kind: str, name: str) -> type[Any]:
    """Import one plugin and return its class.

    Args:
        kind: One of :data:`KINDS`.
        name: The name it is registered by, or ``package.module:Class`` for one that is not.

    Raises:
        PluginError: There is none of this name (the message lists those there are), it
            cannot be imported, or it is not of this kind.
    """
    points = available(kind)
    if name in points:
        point = points[name]
    elif ":" in name:
        point = EntryPoint(name, name, f"user.{kind}")
    else:
        close = difflib.get_close_matches(name, points, n=1)
        raise PluginError(
            f"no plugin {name!r} among {kind}",
            expected=f"one of {sorted(points)}"
            + (f"; did you mean {close[0]!r}?" if close else ""),
            hint="Install the package that registers it, or write package.module:Class",
        )
    try:
        with _watched(point, "imported", _is_ours(point)):
            found = point.load()
    except BaseException as error:  # a plugin may fail to import in any way, sys.exit() included
        if is_of_a_person(error):
            raise
        hint, module = "", getattr(error, "name", None) if isinstance(error, ImportError) else None
        if module and isinstance(error, ModuleNotFoundError):
            hint = f"Install the Python module {module!r}"
        elif module and str(error).startswith(
            "cannot import name"
        ):  # not a library that it links to
            hint = f"The module {module!r} is there, in another version than this plugin was written for, or the name is misspelt"
        if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType) and error.name:
            near = difflib.get_close_matches(error.name, vars(error.obj), n=1)
            hint = f"Did you mean {error.obj.__name__}:{near[0]}?" if near else ""
        raise PluginError(
            f"plugin {name!r} ({point.value}) cannot be imported",
            got=in_words(error),
            hint=hint,
        ) from error
    if not (isinstance(found, type) and issubclass(found, KINDS[kind])):
        raise PluginError(
            f"plugin {name!r} ({point.value})",
            got=repr(found),
            expected=f"a subclass of {KINDS[kind].__module__}.{KINDS[kind].__name__}",
        )
    return found


def build(
    kind: str, name: str, params: Mapping[str, Any] | None = None, *args: Any, path: str = ""
) -> Any:
    """Import a plugin, check its parameters, and make one: ``cls(config, *args)``.

    Args:
        kind: One of :data:`KINDS`.
        name: Its name, see :func:`load`.
        params: Plain data for its ``Config``.
        args: What this kind is built from besides: for a policy the robot spec, for an
            algorithm the robot spec and the policy, for the others nothing.
        path: Where the parameters stand in a larger document, for error messages.

    Raises:
        PluginError: As :func:`load`; or it wanted to end this process while it was made.
        ConfigError: The parameters are wrong.
    """
    cls = load(kind, name)
    config = from_mapping(cls.Config, params, path)
    point = available(kind).get(name) or EntryPoint(name, name, f"user.{kind}")
    # What a device's library or a simulation does, our drivers run.
    ours = _is_ours(point) and kind not in _OF_DEVICES
    try:
        with _watched(point, "made", ours):
            return cls(config, *args)
    except SystemExit as error:
        raise PluginError(
            f"plugin {name!r} ({point.value}) cannot be made", got=in_words(error)
        ) from error


@contextlib.contextmanager
def _watched(point: EntryPoint, what: str, ours: bool) -> Iterator[None]:
    """While a plugin's code runs, it can end this process neither by ``os._exit`` nor without a word."""
    if ours:
        yield
        return
    text = f"this process ended while plugin {point.name!r} ({point.value}) was being {what}"
    with report_if_ended(text), exits_are_errors():
        yield


def _is_ours(point: EntryPoint) -> bool:
    return point.value.partition(":")[0].partition(".")[0] in _OURS


def import_object(target: str) -> Any:
    """Import ``package.module:name``, as used in configurations for functions."""
    module, _, attribute = target.partition(":")
    try:
        with exits_are_errors():
            return getattr(importlib.import_module(module), attribute)
    except BaseException as error:  # of whatever the module does
        if is_of_a_person(error):
            raise
        raise PluginError(
            f"cannot import {target!r}", got=in_words(error), expected="package.module:name"
        ) from error
