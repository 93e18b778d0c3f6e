"""JSON Schemas of what people write in YAML: parameters, robot files, deployments, algorithms.

Made from the configuration classes, so that an editor completes keys, shows what they do, with unit
and range, and marks what is wrong, before anything is started. Those of USER are shipped in
``share/user_bringup/schemas``; ``user schemas FOLDER`` makes them anew, with the plugins and nodes
that are installed.

A YAML file says in its first line which one it follows::

    # yaml-language-server: $schema=../../schemas/deployment.schema.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from user_core import plugins
from user_core.config import Config, json_schema
from user_core.plugins import FIELD_KINDS, PluginChoice
from user_fleet.deployment.check import GROUP, node_config
from user_fleet.deployment.model import Argument, Deployment, ProcessSpec
from user_fleet.scheduling.experiment import Experiment
from user_hal.robot_file import RobotFile
from user_learner.node_configs import LearnerNodeConfig

Schema = dict[str, Any]

DEPLOYMENT = "deployment.schema.json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Parameters that every managed node has, besides those of its configuration.
_OF_EVERY_NODE: Schema = {
    "autostart": {"type": "boolean", "description": "Configure and activate by itself."},
    "use_sim_time": {"type": "boolean", "description": "Take the time from /clock."},
}
#: What our own roles run, so that their parameters are known where a deployment only changes them.
_ROLES = {
    "actor": "actor_node",
    "bridge": "bridge_node",
    "hal": "hal_node",
    "inference": "inference_node",
    "learner": "learner_node",
    "manager": "lifecycle_manager",
    "relay": "policy_relay",
    "replay": "replay_node",
    "teleop": "teleop_node",
}
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{.+\}"}
_TEXT: Schema = {"type": "string"}
_INCLUDE: Schema = {
    "description": "Values from another file: its folder, to its name; `only` some of its keys.",
    "type": "object",
}


def make_schemas(ours_only: bool = False) -> dict[str, Schema]:
    """All schemas, by the name of their file.

    Args:
        ours_only: Without plugins and nodes of other people's packages.
    """
    made = {
        "robot.schema.json": _whole(RobotFile, "A robot: driver, cameras, safety", ours_only),
        "algorithm.schema.json": _algorithm(ours_only),
        DEPLOYMENT: _deployment(ours_only),
        "fragment.schema.json": _fragment(),
        "experiment.schema.json": _experiment(ours_only),
    }
    for name in _nodes(ours_only):
        config = node_config(name)
        if config is not None:
            schema = _whole(config, f"Parameters of {name}", ours_only)
            schema["properties"] |= _OF_EVERY_NODE
            made[f"{name}.schema.json"] = schema
    return made


def write_schemas(folder: Path, ours_only: bool = False) -> list[Path]:
    """Write all schemas to a folder; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, schema in make_schemas(ours_only).items():
        file = folder / name
        file.write_text(text_of(schema), encoding="utf-8")
        files.append(file)
    return files


def text_of(schema: Schema) -> str:
    """A schema as it is written to a file."""
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _whole(config: type[Config], title: str, ours_only: bool) -> Schema:
    """The schema of a document that is one configuration."""
    schema = _plain_schema(config)
    schema |= {"$schema": _DIALECT, "title": title}
    _add_plugins(schema, ours_only)
    return schema


def _experiment(ours_only: bool) -> Schema:
    """Of an experiment, in which a role may be a requirement alone, and an engine has its own options."""
    schema = _whole(Experiment, "An experiment: roles by what they require", ours_only)
    schema["required"] = ["roles"]  # its name is that of the file
    definitions = schema["$defs"]
    role, requirement = definitions["Role"], definitions["Requirement"]
    beside = {name: role["properties"][name] for name in ("run", "share")}
    alone = {**requirement, "properties": {**requirement["properties"], **beside}}
    definitions["Role"] = {"anyOf": [role, alone], "description": role.get("description", "")}
    run = definitions["Run"]
    rules = []
    for name in sorted(plugins.available("engines")):
        if ours_only and not _is_ours(plugins.available("engines")[name]):
            continue
        options = _plain_schema(plugins.load("engines", name).Config)
        if name == "local":
            options = {"type": "object", "maxProperties": 0}
        inner = options.pop("$defs", {})
        definitions |= {f"engines.{name}.{key}": value for key, value in inner.items()}
        definitions[f"engines.{name}"] = _renamed(options, f"engines.{name}", inner)
        rules.append(
            {
                "if": {"properties": {"engine": {"const": name}}, "required": ["engine"]},
                "then": {"properties": {"options": {"$ref": f"#/$defs/engines.{name}"}}},
            }
        )
    definitions["Run"] = {**run, "allOf": rules}
    return schema


def _algorithm(ours_only: bool) -> Schema:
    schema = _whole(LearnerNodeConfig, "How a learner learns", ours_only)
    return _as_layer(schema)


def _deployment(ours_only: bool) -> Schema:
    definitions: Schema = {}
    definitions["processes"] = _processes(definitions, ours_only)
    roles = _variable_or({"type": "array", "items": _TEXT}, _TEXT)
    member: Schema = {
        "type": "object",
        "properties": {
            "roles": {**roles, "description": "Fragments that say what runs; one, or a list."},
            "host": {**_TEXT, "description": "Of a robot: the host that it is on."},
            "count": {
                "description": "Of a robot: this many of them, NAME0, NAME1 and so on, each with its ${number}."
            },
            "domain": {"description": "Of a host: its ROS domain, where it has one of its own."},
        },
        "description": "Other keys are values for the fragments.",
    }
    members = {"type": "object", "additionalProperties": {"anyOf": [roles, member, _NULL]}}
    listed = {"type": "array", "items": {"$ref": "#/$defs/process"}}
    return {
        "$schema": _DIALECT,
        "title": "A deployment: what runs where",
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            **_common(),
            "name": {**_TEXT, "description": "Name of the deployment."},
            "environment": {
                "type": "object",
                "description": "Environment variables of all processes.",
            },
            "standby": {
                **_plain_schema(Deployment)["properties"]["standby"],
            },
            "record": {
                "description": "Record the standard topics beside the store: true, or parameters "
                "of record_node.",
                "anyOf": [{"type": "boolean"}, {"type": "object", "$ref": "#/$defs/record_node"}],
            },
            "roles": {**roles, "description": "Roles of the only host; or `hosts`."},
            "hosts": {**members, "description": "Hosts by name, each with its roles."},
            "robots": {**members, "description": "Robots by name, each with its roles."},
            "processes": {
                "description": "What differs from the fragments, by role or name; or a list.",
                "anyOf": [{"$ref": "#/$defs/processes"}, listed],
            },
        },
        "$defs": definitions,
    }


def _fragment() -> Schema:
    return {
        "$schema": _DIALECT,
        "title": "A fragment of deployments: the processes of a role",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **_common(),
            "extends": {
                "description": "Fragments that this one is laid over.",
                **_variable_or({"type": "array", "items": _TEXT}, _TEXT),
            },
            "processes": {"$ref": f"{DEPLOYMENT}#/$defs/processes"},
        },
    }


_NULL: Schema = {"type": "null"}


def _common() -> Schema:
    argument = _as_layer(_plain_schema(Argument))
    argument["properties"]["choices"] = {"type": "array"}
    plain = {"type": ["string", "number", "boolean", "null", "array"]}
    return {
        "description": {**_TEXT, "description": "What it is for, one line."},
        "arguments": {
            "type": "object",
            "description": "What is chosen at the start, name:=value; described, or a default.",
            "additionalProperties": {"anyOf": [argument, plain]},
        },
        "values": {"type": "object", "description": "Values for ${names} in fragments."},
    }


def _processes(definitions: Schema, ours_only: bool) -> Schema:
    """Processes by role. Any value may be a variable, and nothing is required."""
    process = _as_layer(_plain_schema(ProcessSpec))
    definitions |= process.pop("$defs", {})
    known = {}
    for name in _nodes(ours_only):
        config = node_config(name)
        if config is None:
            continue
        parameters = _plain_schema(config)
        _add_plugins(parameters, ours_only)
        parameters = _as_layer(parameters)
        of_every_node = {name: _variable_or(schema) for name, schema in _OF_EVERY_NODE.items()}
        parameters["properties"] |= {**of_every_node, "include": _INCLUDE}
        inner = parameters.pop("$defs", {})
        definitions |= {f"{name}.{key}": value for key, value in inner.items()}
        definitions[name] = _renamed(parameters, name, inner)
        for key in inner:
            definitions[f"{name}.{key}"] = _renamed(definitions[f"{name}.{key}"], name, inner)
        known[name] = {"properties": {"parameters": {"$ref": f"#/$defs/{name}"}}}
    process["allOf"] = [
        {"if": {"properties": {"executable": {"const": name}}, "required": ["executable"]},
         "then": then}
        for name, then in known.items()
    ]  # fmt: skip
    definitions["process"] = process
    roles = {
        role: {"allOf": [{"$ref": "#/$defs/process"}, known[executable]]}
        for role, executable in _ROLES.items()
    }
    return {
        "type": "object",
        "description": "What is said of processes, by role or name.",
        "properties": roles,
        "additionalProperties": {"$ref": "#/$defs/process"},
    }


def _plain_schema(config: type[Config]) -> Schema:
    """Without the titles that pydantic makes of names."""
    schema: Schema = _without_titles(json_schema(config))
    return schema


def _without_titles(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without_titles(inner)
            for key, inner in value.items()
            if not (key == "title" and isinstance(inner, str))
        }
    return [_without_titles(inner) for inner in value] if isinstance(value, list) else value


def _add_plugins(schema: Schema, ours_only: bool) -> None:
    """Where a plugin is chosen: the names there are, and the parameters of the one chosen."""
    definitions = schema.get("$defs", {})
    choices = {
        f"#/$defs/{name}"
        for name, inner in definitions.items()
        if inner.get("properties", {}).keys() >= PluginChoice.model_fields.keys()
    }
    kinds: set[str] = set()
    for part in (schema, *definitions.values()):
        for name, field in part.get("properties", {}).items():
            kind = FIELD_KINDS.get(name)
            if kind is None:
                continue
            for place in (field, field.get("additionalProperties")):
                if isinstance(place, dict) and place.get("$ref") in choices:
                    place["allOf"] = [{"$ref": place.pop("$ref")}, {"$ref": f"#/$defs/{kind}"}]
                    kinds.add(kind)
    for kind in sorted(kinds):
        definitions |= _choices(kind, ours_only)


def _choices(kind: str, ours_only: bool) -> Schema:
    """Definitions for the plugins of a kind; names of others are allowed."""
    names = [name for name, point in sorted(plugins.available(kind).items())
             if not ours_only or _is_ours(point)]  # fmt: skip
    made: Schema = {}
    rules = []
    for name in names:
        parameters = _plain_schema(plugins.load(kind, name).Config)
        inner, prefix = parameters.pop("$defs", {}), f"{kind}.{name}"
        made[prefix] = _renamed(parameters, prefix, inner)
        for key, value in inner.items():
            made[f"{prefix}.{key}"] = _renamed(value, prefix, inner)
        rules.append(
            {
                "if": {"properties": {"plugin": {"const": name}}, "required": ["plugin"]},
                "then": {"properties": {"params": {"$ref": f"#/$defs/{prefix}"}}},
            }
        )
    plugin = {"anyOf": [{"enum": names}, {"type": "string"}]}
    made[kind] = {"properties": {"plugin": plugin}, "allOf": rules}
    return made


def _renamed(value: Any, prefix: str, names: Iterable[str]) -> Any:
    """References to these definitions lead to those of the same name below a prefix."""
    if isinstance(value, Mapping):
        return {key: _renamed(inner, prefix, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, prefix, names) for inner in value]
    if isinstance(value, str) and value.startswith("#/$defs/") and value[8:] in names:
        return f"#/$defs/{prefix}.{value[8:]}"
    return value


def _as_layer(schema: Schema) -> Schema:
    """Of what is laid over something else: nothing is required, all may be ``${variable}``."""
    made = {key: value for key, value in schema.items() if key != "required"}
    made["$defs"] = {
        name: _as_layer(inner) if "properties" in inner or "allOf" in inner else inner
        for name, inner in schema.get("$defs", {}).items()
    }
    if not made["$defs"]:
        del made["$defs"]
    if "properties" in schema:
        made["properties"] = {
            name: _variable_or(_as_layer(inner) if "properties" in inner else inner)
            for name, inner in schema["properties"].items()
        }
    return made


def _variable_or(*schemas: Schema) -> Schema:
    """One of these, or a variable; the description stays on top, where editors look for it."""
    described: Schema = {}
    options = []
    for schema in schemas:
        option = dict(schema)
        for key in ("description", "default", "unit"):
            if key in option:
                described[key] = option.pop(key)
        options.append(option)
    return {**described, "anyOf": [*options, _VARIABLE]}


def _nodes(ours_only: bool) -> list[str]:
    points = entry_points(group=GROUP)
    return sorted(point.name for point in points if not ours_only or _is_ours(point))


def _is_ours(point: EntryPoint) -> bool:
    return point.value.startswith("user_")
