"""Libraries of other formats: imported when they are asked for, and named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from user_core.errors import PluginError

#: Where the versions that are tested stand.
REQUIREMENTS = "requirements/extra_data.txt"


class MissingLibrary(PluginError):
    """A format needs a library that is not installed."""


def library(module: str, purpose: str, listed: bool = True) -> Any:
    """Import a library that USER does without.

    Args:
        module: What is imported, for instance ``pyarrow.parquet``.
        purpose: What it is needed for, for the message.
        listed: Whether it is one of :data:`REQUIREMENTS`.

    Raises:
        MissingLibrary: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingLibrary(
            f"{purpose} needs {package}", got=str(error), expected=f"{package} to be installed",
            hint=f"Install it with `pip install {package}`" + f", or all of {REQUIREMENTS}" * listed,
        ) from error  # fmt: skip
