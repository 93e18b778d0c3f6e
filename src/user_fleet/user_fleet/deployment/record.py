"""The record of a run: ``deployment.yaml`` of its folder, with everything filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from user_core.config import from_mapping, load_yaml, to_mapping, yaml_value
from user_core.errors import ConfigError
from user_fleet.deployment.model import Deployment

#: Executables that chose a plugin by `driver` and `params` once, and the key that does so now.
_CHOICES = {"hal_node": "robot", "teleop_node": "teleop"}


def write_record(deployment: Deployment, file: Path) -> None:
    """Write what runs, so that everybody who needs it later need not know how it was composed."""
    text = yaml.safe_dump(to_mapping(deployment), sort_keys=False)
    file.write_text(text, encoding="utf-8")


def load_record(file: str | Path) -> Deployment:
    """Read the record of a run, also one that an earlier release has written.

    Those had the parameters of plugins as text in places (``params: '{}'``), and chose a driver by
    ``driver`` and ``params``.

    Raises:
        ConfigError: It cannot be read, or is not a deployment.
    """
    data = load_yaml(file)
    try:
        for process in data.get("processes", ()):
            parameters = _as_mappings(process.get("parameters") or {})
            choice = _CHOICES.get(process.get("executable"))
            if choice is not None and choice not in parameters:
                plugin = {
                    "plugin": parameters.pop("driver", ""),
                    "params": parameters.pop("params", {}),
                }
                if any(plugin.values()):
                    parameters[choice] = plugin
            for camera in parameters.get("cameras", {}).get("devices", {}).values():
                if "driver" in camera:
                    camera["plugin"] = camera.pop("driver")
            process["parameters"] = parameters
        return from_mapping(Deployment, data)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"{file}", got=str(error), expected="the record of a run") from error


def _as_mappings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """With what stands as text under a key ``params`` as the mapping that it is."""
    found = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            value = _as_mappings(value)
        elif key == "params" and isinstance(value, str):
            value = yaml_value(value) or {}
        found[key] = value
    return found
