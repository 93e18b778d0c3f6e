"""Resources that are kept for somebody at certain times: "cell-a every night from 20:00 to 06:00"."""

from __future__ import annotations

import datetime
import re
import zoneinfo
from typing import Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_fleet.resources.model import Resource

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class Reservation(Config):
    """At these times these resources are for these experiments only; for nobody, if none is named."""

    name: str = setting(doc="Its name.", min_length=1, max_length=64)
    tags: tuple[str, ...] = setting((), doc="Resources that have all these tags.", max_length=16)
    sites: tuple[str, ...] = setting((), doc="Resources at one of these sites.", max_length=16)
    resources: tuple[str, ...] = setting((), doc="These resources, by id.", max_length=256)
    experiments: tuple[str, ...] = setting((), doc="Who may use them.", max_length=64)
    begin: str = setting("00:00", doc="Beginning, as in 20:00.")
    end: str = setting("00:00", doc="End; of the next day where it is not after the beginning.")
    days: tuple[Day, ...] = setting((), doc="Days on which it begins; none: every day.")
    zone: str = setting("", doc="Time zone, as in Europe/Berlin; empty: that of the scheduler.")

    def validate(self) -> None:
        for name, text in (("begin", self.begin), ("end", self.end)):
            if not _TIME.fullmatch(text):
                raise ConfigError(name, got=repr(text), expected="a time as in 20:00, in quotes")
        if not (self.tags or self.sites or self.resources):
            raise ConfigError("tags, sites, resources", got="none", expected="what is reserved")
        if self.zone:
            try:
                zoneinfo.ZoneInfo(self.zone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ConfigError("zone", got=repr(self.zone), expected="Europe/Berlin") from error

    def covers(self, item: Resource) -> bool:
        """Whether a resource is one of those."""
        if item.id in self.resources:
            return True
        if not (self.tags or self.sites):
            return False
        at_site = not self.sites or item.site in self.sites
        return at_site and set(self.tags) <= set(item.tags)

    def holds_at(self, time_s: float) -> bool:
        """Whether it is in force at a moment, in seconds since the epoch."""
        zone = zoneinfo.ZoneInfo(self.zone) if self.zone else None
        now = datetime.datetime.fromtimestamp(time_s, zone)
        minute = now.hour * 60 + now.minute
        begin, end = _minutes(self.begin), _minutes(self.end)
        if begin < end:
            return begin <= minute < end and self._begins_on(now)
        yesterday = now - datetime.timedelta(days=1)
        return (minute >= begin and self._begins_on(now)) or (
            minute < end and self._begins_on(yesterday)
        )

    def _begins_on(self, day: datetime.datetime) -> bool:
        return not self.days or _DAYS[day.weekday()] in self.days


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
