"""Message and service classes by name."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from user_core.errors import TransportError


@cache
def interface_class(name: str) -> type[Any]:
    """Import the class of a message or service.

    Args:
        name: ``package/msg/Name`` or ``package/srv/Name``.

    Raises:
        TransportError: The name is no such name, or the package is not installed.
    """
    parts = name.split("/")
    if len(parts) != 3 or parts[1] not in ("msg", "srv") or not all(parts):
        raise TransportError(
            "type of a topic or service",
            came=name,
            expected="package/msg/Name or package/srv/Name",
        )
    package, kind, cls = parts
    try:
        found: type[Any] = getattr(importlib.import_module(f"{package}.{kind}"), cls)
    except (ImportError, AttributeError) as error:
        raise TransportError(
            f"interface {name}",
            came=str(error),
            expected="an installed interface package",
            cure=f"Install {package} and source the workspace",
        ) from error
    return found
