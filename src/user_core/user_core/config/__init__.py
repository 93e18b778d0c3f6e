"""Typed configuration: pydantic models with purpose, unit and range in every field.

What is written by hand, here and in YAML, is checked whole before anything starts: unknown keys
are refused and the nearest right one is named, and all faults of a document are told at once, each
with its path, what was got and what is allowed. From the same declarations come ROS parameters
(:mod:`user_comm`) and JSON Schemas for editors (:func:`json_schema`).
"""

from __future__ import annotations

from user_core.config.documents import (
    Document,
    load_document,
    load_yaml,
    parse_parameters,
    yaml_value,
)
from user_core.config.model import (
    MISSING,
    Config,
    ConfigErrors,
    ConfigField,
    config_fields,
    from_mapping,
    identity,
    json_schema,
    to_mapping,
)
from user_core.config.setting import Setting, as_written, setting, setting_of
from user_core.config.shared_files import (
    file_meant,
    find_shared,
    path_of_file,
    shared_folders,
    shared_names,
)

__all__ = [
    "MISSING",
    "Config",
    "ConfigErrors",
    "ConfigField",
    "Document",
    "Setting",
    "as_written",
    "config_fields",
    "file_meant",
    "find_shared",
    "from_mapping",
    "identity",
    "json_schema",
    "load_document",
    "load_yaml",
    "parse_parameters",
    "path_of_file",
    "setting",
    "setting_of",
    "shared_folders",
    "shared_names",
    "to_mapping",
    "yaml_value",
]
