"""The grant of a fleet's scheduler under which a process runs: a number in its environment.

The agent of a host sets it for what it starts for a robot, and all processes of the deployment inherit it. Each grant
has a larger number than all before, so that a robot's HAL can tell the newest from those that are over.
"""

from __future__ import annotations

import os

from user_core.errors import ConfigError

#: Name of the environment variable.
GRANT_VARIABLE = "USER_FLEET_GRANT"


def grant_of_environment() -> int:
    """Number of the grant under which this process runs; 0 without one.

    Raises:
        ConfigError: The variable is set, and is no such number.
    """
    text = os.environ.get(GRANT_VARIABLE, "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
        raise ConfigError(
            GRANT_VARIABLE, got=repr(text[:40]), expected="the number of a grant, or nothing",
            hint="It is set by the agent of a host; unset it where a person starts something",
        )  # fmt: skip
    return int(text)
