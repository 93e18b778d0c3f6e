"""Configurations from YAML and mappings, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from user_core.config.base import Config
from user_core.config.convert import convert_mapping
from user_core.errors import ConfigError

C = TypeVar("C", bound=Config)


def from_mapping(cls: type[C], data: Mapping[str, Any] | None, path: str = "") -> C:
    """Make a configuration from plain data.

    Args:
        cls: The configuration class.
        data: Keys and values, for instance from YAML; None and {} give the defaults.
        path: Where the data stands in a larger document, for error messages.

    Raises:
        ConfigError: An unknown or missing key, a wrong type or a value out of range; names
            the path of the key, what came and what is allowed.
    """
    config: C = convert_mapping(cls, {} if data is None else data, path)
    return config


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top is a mapping. Keys that occur twice are refused.

    Raises:
        ConfigError: The file is not there, is not valid YAML, or is something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            data = yaml.load(stream, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"cannot read {path}", got=error.strerror, expected="a file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML", got=str(error)) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"top of {path}", got=type(data).__name__, expected="a mapping")
    return data


def to_mapping(config: Config) -> dict[str, Any]:
    """Plain data that :func:`from_mapping` turns into an equal configuration."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_mapping(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value


class _UniqueKeyLoader(yaml.SafeLoader):
    """A key that occurs twice is a mistake: plain YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} occurs twice", key_node.start_mark
                )
            if key != "<<":
                seen.add(key)
        return super().construct_mapping(node, deep)
