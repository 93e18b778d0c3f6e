"""Classes of messages, services and actions by name."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from user_core.errors import TransportError


@cache
def interface_class(name: str) -> type[Any]:
    """Import the class of a message, service or action.

    Args:
        name: ``package/msg/Name``, ``package/srv/Name`` or ``package/action/Name``.

    Raises:
        TransportError: The name is no such name, or the package is not installed, or has no
            such interface; then those that it has are listed.
    """
    parts = name.split("/")
    if len(parts) != 3 or parts[1] not in ("msg", "srv", "action") or not all(parts):
        raise TransportError(
            "type of a topic or service",
            got=name,
            expected="package/msg/Name, package/srv/Name or package/action/Name",
        )
    package, kind, cls = parts
    try:
        module = importlib.import_module(f"{package}.{kind}")
    except ImportError as error:
        raise TransportError(
            f"interface {name}",
            got=str(error),
            expected=f"an installed package {package!r} with {kind} interfaces",
            hint=f"Install ros-$ROS_DISTRO-{package.replace('_', '-')}, or source the workspace "
            "that has it",
        ) from error
    found = getattr(module, cls, None)
    if not isinstance(found, type):
        known = [known for known in dir(module) if known[:1].isupper() and "_" not in known]
        raise TransportError(
            f"interface {name}", got="not in that package", expected=f"one of {known}"
        )
    return found
