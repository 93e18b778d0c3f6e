"""The base class of all configurations."""

from __future__ import annotations

from dataclasses import dataclass, fields

from user_core.config.convert import check_value, hints_of
from user_core.config.setting import setting_of


@dataclass(frozen=True)
class Config:
    """A frozen dataclass whose fields are checked when it is made, from wherever it is made.

    Subclasses declare fields with :func:`~user_core.config.setting` and may override
    :meth:`validate` for what concerns several fields. A ``ConfigError`` names the path of
    the key, what came and what is allowed.
    """

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for item in fields(self):
            check_value(getattr(self, item.name), hints[item.name], setting_of(item), item.name)
        self.validate()

    def validate(self) -> None:
        """Check what concerns several fields; raise ConfigError. Does nothing by default."""
