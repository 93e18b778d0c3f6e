"""Makes an environment and its wrappers, and says why that did not work."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from user_core.config.setting import plain_numbers
from user_core.errors import ConfigError, DeviceError, PluginError, SuiteError, in_words
from user_core.plugins import import_object
from user_hal.robots.gymnasium.config import GymnasiumConfig


def make(config: GymnasiumConfig) -> gymnasium.Env[Any, Any]:
    """The environment with its wrappers.

    Raises:
        ConfigError: There is no such environment, or an argument does not fit it or a wrapper.
        DeviceError: It needs what is not installed.
        PluginError: There is no such wrapper.
    """
    kwargs = dict(config.kwargs)
    if config.render_image:
        kwargs.setdefault("render_mode", "rgb_array")
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    env: gymnasium.Env[Any, Any]
    try:
        env = _called(partial(gymnasium.make, config.env_id), kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise DeviceError(
            f"environment {config.env_id!r} needs what is not installed",
            got=said(error),
            hint=_together("Install the extra it names", conflicts_of(config.env_id)),
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"environment {config.env_id!r} cannot be made",
            got=said(error),
            expected="the module that registers it, and what this needs",
            hint=_together(_to_install(error), conflicts_of(config.env_id)),
        ) from error
    except Exception as error:  # an environment may fail in any way
        known = "`python -m gymnasium.envs.registration` lists those that are registered"
        raise ConfigError(
            f"environment {config.env_id!r} cannot be made",
            got=said(error),
            expected="a registered environment and keyword arguments that it takes",
            hint=_together(_taken(config.env_id) or known, conflicts_of(config.env_id)),
        ) from error
    for index, wrapper in enumerate(config.wrappers):
        where = f"wrappers[{index}] {wrapper.target!r} of environment {config.env_id!r}"
        kind: Any = None
        try:
            kind = _wrapper(wrapper.target)
            env = _called(partial(kind, env), wrapper.kwargs)
        except SuiteError:
            close(env)
            raise
        except Exception as error:
            close(env)
            if kind is None:
                raise PluginError(
                    where, got=said(error), expected="a wrapper that can be had"
                ) from error
            spaces = [getattr(env, name, "?") for name in ("observation_space", "action_space")]
            raise ConfigError(
                where,
                got=f"{wrapper.kwargs}: {said(error)}",
                expected=f"this environment ({spaces[0]}, {spaces[1]}) and the "
                f"arguments that it takes: {_signature(kind)}",
            ) from error
        if not isinstance(env, gymnasium.Env):
            raise ConfigError(where, got=type(env).__name__, expected="a gymnasium.Env")
    return env


def close(env: gymnasium.Env[Any, Any]) -> None:
    """Close an environment that is refused anyway: an error in that does not hide the other."""
    with contextlib.suppress(Exception):
        env.close()


def conflicts_of(env_id: str) -> str:
    """Requirements of the package that brings an environment which what is installed does not
    fulfil; empty if there are none, or nobody can say."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ""
    found = []
    for package in _packages_of(env_id):
        for line in metadata.requires(package) or ():
            try:
                need = Requirement(line)
                if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                    continue
                there = _version(need.name)
            except metadata.PackageNotFoundError:
                found.append(f"{package} {metadata.version(package)} needs {line}: not installed")
                continue
            except ValueError:  # what packaging cannot read
                continue
            if not need.specifier.contains(there, prereleases=True):
                found.append(
                    f"{package} {metadata.version(package)} needs {need.name}{need.specifier}, "
                    f"and {need.name} {there} is installed"
                )
    return f"What is installed does not fit: {'; '.join(found)}" if found else ""


def said(error: Exception) -> str:
    """Kind and text of an error; where it has none (an assertion), the line that raised it."""
    text = in_words(error)
    frames = traceback.extract_tb(error.__traceback__)
    if text == type(error).__name__ and frames:
        last = frames[-1]
        place = "/".join(Path(last.filename).parts[-2:])
        return f"{text}: {last.line} ({place}, line {last.lineno}, in {last.name})"
    return text


def _version(name: str) -> str:
    """Version of a package, or of one that stands in for it (opencv-python-headless, pygame-ce)."""
    twin = name.removesuffix("-ce") if name.endswith("-ce") else f"{name}-ce"
    for other in (name, f"{name}-headless", twin):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(other)
    raise metadata.PackageNotFoundError(name)


def _packages_of(env_id: str) -> list[str]:
    """Distributions that have the module of an environment."""
    module, _, name = env_id.rpartition(":")
    spec = gymnasium.registry.get(name)
    if not module and spec is not None:
        module = module_of(spec)
    top = module.partition(".")[0]
    return (
        sorted(set(metadata.packages_distributions().get(top, ())) - {"gymnasium"}) if top else []
    )


def module_of(spec: Any) -> str:
    """Name of the module that has a registered environment."""
    point = spec.entry_point
    return point.partition(":")[0] if isinstance(point, str) else getattr(point, "__module__", "")


def installed(module: str) -> bool:
    """Whether the module of an environment, and what it needs, can be imported here."""
    needs = {"box2d": "Box2D", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}
    parts = module.split(".")
    if parts[:2] == ["gymnasium", "envs"] and len(parts) > 2 and parts[2] in needs:
        return find_spec(needs[parts[2]]) is not None
    try:
        return bool(parts[0]) and find_spec(parts[0]) is not None
    except (ImportError, ValueError):
        return False


def _together(*texts: str) -> str:
    return ". ".join(text for text in texts if text)


def _to_install(error: ModuleNotFoundError) -> str:
    """How a missing module comes here, for people."""
    named = re.search(r"No module named '([\w.]+)'", str(error))
    name = (error.name or (named[1] if named else "")).partition(".")[0] or "the module"
    return (
        f"Install the package that brings {name} (often of the same name) for this Python: "
        f"{sys.executable} -m pip install {name}. Or put its folder on PYTHONPATH"
    )


def _taken(env_id: str) -> str:
    """The keyword arguments of a registered environment, for people; empty if nobody can say."""
    spec = gymnasium.registry.get(env_id.rpartition(":")[2])
    if spec is None:
        return ""
    try:
        point = spec.entry_point
        maker = import_object(point) if isinstance(point, str) else point
        return f"It takes {_signature(maker)}" if maker is not None else ""
    except Exception:  # what cannot be imported has said so already
        return ""


def _wrapper(target: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    if ":" not in target and "." not in target:
        if not hasattr(gymnasium.wrappers, target):
            raise PluginError(
                f"wrapper {target!r}", got="no such class in gymnasium.wrappers",
                expected="package.module:Class, or one of "
                f"{sorted(n for n in gymnasium.wrappers.__all__ if n[0].isupper())}",
            )  # fmt: skip
        target = f"gymnasium.wrappers:{target}"
    found: Callable[..., gymnasium.Env[Any, Any]] = import_object(target)
    return found


def _signature(function: Any) -> str:
    """The keyword arguments of a class or function, without the environment."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "unknown"
    shown = [str(p).replace("'", "") for p in parameters if p.name not in ("self", "env")]
    return f"({', '.join(shown)})"


def _called(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    """Call with the arguments as YAML gives them; where that fails, with tuples or arrays for lists.

    The error is that of the first attempt but where a later one comes further: the wrapper has
    refused the list itself, and then something else.
    """
    first: Exception | None = None
    for given in _spellings(plain_numbers(kwargs)):
        try:
            return function(**given)
        except Exception as error:
            if first is None or "list" in str(first):
                first = error
    assert first is not None  # noqa: S101 - at least one was tried
    raise first


def _spellings(kwargs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield dict(kwargs)
    if any(isinstance(value, list) or _has_list(value) for value in kwargs.values()):
        yield {key: _tuples(value) for key, value in kwargs.items()}
        yield {key: _arrays(value) for key, value in kwargs.items()}


def _has_list(value: Any) -> bool:
    return isinstance(value, list) or (
        isinstance(value, Mapping) and any(_has_list(v) for v in value.values())
    )


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _arrays(value: Any) -> Any:
    """Lists of numbers as arrays; floats as float32, the type of most spaces."""
    if isinstance(value, Mapping):
        return {key: _arrays(v) for key, v in value.items()}
    if not isinstance(value, list) or not all(
        type(v) in (int, float) and math.isfinite(v) for v in value
    ):
        return _tuples(value)
    return np.array(value, np.float32 if any(type(v) is float for v in value) else np.int64)
