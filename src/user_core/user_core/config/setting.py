"""The declaration of one configuration value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field
from typing import Any

_KEY = "user_core.setting"


@dataclass(frozen=True)
class Setting:
    """What is known about one field of a :class:`~user_core.config.Config`.

    Attributes:
        doc: What it does, one sentence.
        unit: SI unit symbol, empty when dimensionless.
        ge: Smallest allowed value; for sequences, of each element.
        gt: Value that must be exceeded.
        le: Largest allowed value.
        lt: Value that must not be reached.
        min_length: Fewest elements or characters.
        max_length: Most elements or characters.
        read_only: True where a running node cannot change it.
    """

    doc: str = ""
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    read_only: bool = True

    @property
    def range_text(self) -> str:
        """The allowed range for people, for instance ``>= 0 and < 1``; empty without one."""
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return " and ".join(f"{sign} {limit:g}" for sign, limit in signs if limit is not None)

    def allows(self, number: float) -> bool:
        """Whether a number is within the range. NaN never is, where there is a range."""
        return (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )


def setting(
    default: Any = MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    doc: str,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    read_only: bool = True,
) -> Any:
    """Declare a field of a configuration: default, purpose, unit and range.

    Example::

        @dataclass(frozen=True)
        class GateConfig(Config):
            max_age_s: float = setting(0.2, doc="Age at which a command is stale.", unit="s", gt=0)
    """
    what = Setting(doc, unit, ge, gt, le, lt, min_length, max_length, read_only)
    if factory is not None:
        return field(default_factory=factory, metadata={_KEY: what})
    if default is MISSING:
        return field(metadata={_KEY: what})
    return field(default=default, metadata={_KEY: what})


def setting_of(item: Field[Any]) -> Setting:
    """The declaration behind a dataclass field; an empty one where it was not declared so."""
    found = item.metadata.get(_KEY)
    return found if isinstance(found, Setting) else Setting()
