"""LeRobot, imported when it is asked for: what its version has is found, and named where it is missing."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

from user_core.errors import PluginError

_log = logging.getLogger(__name__)
_PREFIXES = tuple(f"lerobot_{kind}_" for kind in ("robot", "camera", "teleoperator", "policy"))
#: How it is installed, with everything else, in an environment of its own.
INSTALL = "USER_EXTRA=lerobot make setup (Python 3.12), then USER_EXTRA=lerobot tools/run user ..."
#: Releases that were tried.
TRIED = "0.6"


def lerobot(module: str = "", purpose: str = "a plugin of LeRobot") -> Any:
    """Import LeRobot, or one of its modules.

    Args:
        module: Below ``lerobot``, for instance ``policies.factory``.
        purpose: What it is needed for, for the message.

    Raises:
        PluginError: It is not installed, is too old, or lacks a package that this part of it needs.
    """
    try:
        root = importlib.import_module("lerobot")
    except ImportError as error:
        raise PluginError(
            f"{purpose} needs LeRobot", got=str(error), expected=f"lerobot {TRIED} to be installed",
            hint=INSTALL,
        ) from error  # fmt: skip
    try:
        return importlib.import_module(f"lerobot.{module}") if module else root
    except ImportError as error:
        version = getattr(root, "__version__", "unknown")
        raise PluginError(
            f"{purpose} needs lerobot.{module}", got=f"{error} (lerobot {version})",
            expected=f"lerobot {TRIED} with all that this part of it needs",
            hint=f"{INSTALL}; LeRobot's own extras are installed there with pip install 'lerobot[NAME]=={version}'",
        ) from error  # fmt: skip


def register_others(modules: Sequence[str] = ()) -> None:
    """Let other people's packages register with LeRobot: those installed as ``lerobot_robot_*`` and its
    kin, and modules by name.

    Raises:
        PluginError: A module that was named cannot be imported.
    """
    _register_installed()
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # it is other people's code
            raise PluginError(
                f"module {module} for LeRobot", got=f"{type(error).__name__}: {error}",
                expected="one that can be imported",
            ) from error  # fmt: skip


@lru_cache(maxsize=1)
def _register_installed() -> None:
    """As LeRobot's ``register_third_party_plugins``, once, and with one line for a package that is broken."""
    for name, module in installed_others():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - other people's code; who asks for its types is told what there is
            _log.warning(
                "package %s for LeRobot cannot be imported: %s: %s",
                name,
                type(error).__name__,
                error,
            )


def installed_others() -> list[tuple[str, str]]:
    """Names of installed packages that register with LeRobot, and of their modules; nothing is imported."""
    names = [distribution.metadata["Name"] or "" for distribution in metadata.distributions()]
    modules = [(name, name.replace("-", "_")) for name in names]
    return [(name, module) for name, module in modules if module.startswith(_PREFIXES)]
