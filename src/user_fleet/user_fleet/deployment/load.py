"""Deployments from YAML: arguments, substitution, inclusion."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from user_core.config import from_mapping, load_yaml
from user_core.errors import ConfigError
from user_fleet.deployment.model import Argument, Deployment

_VARIABLE = re.compile(r"\$\{([a-zA-Z_][a-zA-Z0-9_.]*)\}")
_INCLUDE = "include"


def load_deployment(
    file: str | Path,
    overrides: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Deployment:
    """Read a deployment, with its arguments filled in.

    In every text of the file ``${name}`` stands for an argument or variable; a text that is
    nothing else becomes the value itself, with its type. A mapping with the key ``include``
    is read from that YAML file (relative to the deployment's folder) and then overlaid with
    the keys beside it; ``include: {file: ..., only: [...]}`` takes some of its keys.

    Args:
        file: The YAML file.
        overrides: Values for its arguments, as given on the command line.
        variables: What else may be substituted, for instance ``run_dir``.

    Raises:
        ConfigError: Names the file or key, what came and what is allowed.
    """
    file = Path(file)
    data = load_yaml(file)
    arguments = {
        name: from_mapping(
            Argument,
            value if isinstance(value, Mapping) else {"default": value},
            f"arguments.{name}",
        )
        for name, value in (data.get("arguments") or {}).items()
    }
    values = _choose(arguments, overrides or {}, file)
    known = {**values, **(variables or {}), "config_dir": str(file.parent.parent)}
    body = {key: value for key, value in data.items() if key != "arguments"}
    body = _Resolver(known, file.parent).resolve(body, "")
    return from_mapping(Deployment, {**body, "arguments": arguments}, "")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``["robot:=panda", "rate:=20"]`` to ``{"robot": "panda", "rate": 20}`` (YAML scalars)."""
    values = {}
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator or not name:
            raise ConfigError("argument", got=repr(word), expected="name:=value")
        try:
            values[name] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"argument {name!r}", got=repr(text), expected="YAML") from error
    return values


def _choose(
    arguments: Mapping[str, Argument], overrides: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    unknown = sorted(set(overrides) - set(arguments))
    if unknown:
        raise ConfigError(
            f"unknown argument {unknown[0]!r} of {file.name}",
            expected=f"one of {sorted(arguments)}",
        )
    values: dict[str, Any] = {}
    for name, argument in arguments.items():
        value = overrides.get(name, argument.default)
        if isinstance(argument.default, str) and type(value) in (int, float):
            value = str(value)  # a text that looks like a number
        if argument.choices and str(value) not in argument.choices:
            raise ConfigError(
                f"argument {name!r} of {file.name}",
                got=repr(value),
                expected=f"one of {list(argument.choices)}",
            )
        values[name] = value
    return values


class _Resolver:
    def __init__(self, variables: Mapping[str, Any], folder: Path) -> None:
        self.variables, self.folder = variables, folder

    def resolve(self, value: Any, path: str, depth: int = 0) -> Any:
        if depth > 20:
            raise ConfigError(path, got="files that include each other", expected="an end")
        if isinstance(value, str):
            return self._substitute(value, path)
        if isinstance(value, list):
            return [self.resolve(v, f"{path}[{i}]", depth) for i, v in enumerate(value)]
        if isinstance(value, Mapping):
            below = {
                k: self.resolve(v, f"{path}.{k}" if path else str(k), depth)
                for k, v in value.items()
            }
            if _INCLUDE not in below:
                return below
            what = below.pop(_INCLUDE)
            file, only = (
                (what.get("file"), what.get("only")) if isinstance(what, Mapping) else (what, None)
            )
            content = load_yaml(self.folder / str(file))
            if only is not None:
                content = {key: value for key, value in content.items() if key in only}
            return _overlay(self.resolve(content, path, depth + 1), below)
        return value

    def _substitute(self, text: str, path: str) -> Any:
        whole = _VARIABLE.fullmatch(text)
        if whole:
            return self._lookup(whole[1], path)
        return _VARIABLE.sub(lambda match: str(self._lookup(match[1], path)), text)

    def _lookup(self, name: str, path: str) -> Any:
        if name not in self.variables:
            raise ConfigError(
                f"{path}: unknown variable ${{{name}}}", expected=f"one of {sorted(self.variables)}"
            )
        return self.variables[name]


def _overlay(base: Any, top: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(top, Mapping):
        return {
            key: _overlay(base[key], top[key]) if key in base and key in top
            else top.get(key, base.get(key))
            for key in [*base, *(key for key in top if key not in base)]
        }  # fmt: skip
    return top
