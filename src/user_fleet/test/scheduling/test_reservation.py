"""Reservations by time."""

import datetime

import pytest

from user_core.errors import ConfigError
from user_fleet.resources.model import Resource
from user_fleet.scheduling.reservation import Reservation

NIGHT = {"name": "night", "tags": ["cell-a"], "begin": "20:00", "end": "06:00", "zone": "UTC"}


def _at(day: int, hour: int, minute: int = 0) -> float:
    """A time in June 2026; the 1st is a Monday."""
    return datetime.datetime(2026, 6, day, hour, minute, tzinfo=datetime.timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("changes", "time_s", "holds"),
    [
        ({}, _at(1, 19, 59), False),
        ({}, _at(1, 20), True),
        ({}, _at(2, 5, 59), True),
        ({}, _at(2, 6), False),
        ({"days": ["mon"]}, _at(2, 3), True),  # Monday's night goes on into Tuesday
        ({"days": ["mon"]}, _at(1, 3), False),
        ({"days": ["mon"]}, _at(2, 21), False),
        ({"begin": "08:00", "end": "12:00"}, _at(1, 11), True),
        ({"begin": "08:00", "end": "12:00"}, _at(1, 12), False),
        ({"begin": "00:00", "end": "00:00"}, _at(1, 15), True),
        ({"zone": "Europe/Berlin"}, _at(1, 18), True),  # 20:00 there
        ({"zone": "Europe/Berlin"}, _at(2, 4, 30), False),
    ],
)
def test_it_holds_when_it_says(changes, time_s, holds):
    assert Reservation(**{**NIGHT, **changes}).holds_at(time_s) == holds


def test_it_covers_what_has_all_its_tags_at_its_sites():
    one = Resource(id="h/robot/a", kind="robot", site="hall", tags=("cell-a", "lab"))
    assert Reservation(**NIGHT).covers(one)
    assert not Reservation(**{**NIGHT, "tags": ["cell-a", "b"]}).covers(one)
    assert not Reservation(**NIGHT, sites=["lab"]).covers(one)
    named = Reservation(name="x", resources=["h/robot/a"])
    assert named.covers(one)
    assert not named.covers(one.replace(id="h/robot/b"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"begin": "8"}, "begin"), ({"tags": []}, "tags"), ({"zone": "Mars"}, "zone"), ({"days": ["x"]}, "days")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        Reservation(**{**NIGHT, **changes})
