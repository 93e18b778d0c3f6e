"""Limits that change while a robot is driven: tighter ones only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from user_core.body.action_groups import group_views
from user_core.config import config_fields
from user_core.errors import ConfigError
from user_core.specs import RobotSpec
from user_hal.safety.config import SafetyConfig
from user_hal.safety.groups import config_of_groups

#: Settings of which less is tighter, and of which more is; nothing is no limit. Of others only the
#: same will do.
_LESS = (
    "watchdog_s", "max_observation_age_s", "max_chunk_s", "each", "linear", "angular", "high",
    "stop_n", "resume_n", "stop_n_m", "resume_n_m",
)  # fmt: skip
_MORE = ("low", "margin")


def require_tighter(old: SafetyConfig, new: SafetyConfig, spec: RobotSpec) -> None:
    """Compare two configurations by what they come to for each group of a robot.

    Raises:
        ConfigError: Something is looser, or another setting has changed; names all of it.
    """
    views = group_views(spec)
    wrong = [
        f"{view.name + ': ' if view.name else ''}{text}"
        for view, before, after in zip(
            views, config_of_groups(old, views), config_of_groups(new, views)
        )
        for text in _looser(before, after, "")
    ]
    if wrong:
        raise ConfigError(
            "safety of a robot that is connected",
            got="; ".join(dict.fromkeys(wrong)),
            expected="limits that are as tight as before, or tighter",
            hint="To loosen them: ros2 lifecycle set NODE deactivate, then cleanup, set the "
            "parameter, configure and activate",
        )


def _looser(old: Any, new: Any, path: str) -> Iterator[str]:
    for field in config_fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        where = f"{path}{field.name}"
        if field.name == "groups" or before == after:
            continue
        if hasattr(type(before), "model_fields"):
            yield from _looser(before, after, f"{where}.")
        elif field.name not in (*_LESS, *_MORE):
            yield f"{where} from {before} to {after} (it cannot change)"
        elif not _is_tighter(before, after, 1.0 if field.name in _LESS else -1.0):
            yield f"{where} from {_said(before)} to {_said(after)}"


def _is_tighter(before: Any, after: Any, sign: float) -> bool:
    if before in (None, ()):
        return True
    if after in (None, ()):
        return False
    old, new = np.atleast_1d(before), np.atleast_1d(after)
    if 1 not in (len(old), len(new)) and len(old) != len(new):
        return False
    return bool(np.all(sign * new <= sign * old))


def _said(value: Any) -> str:
    if value in (None, ()):
        return "no limit"
    return str(list(value)) if isinstance(value, Sequence) else f"{value:g}"
