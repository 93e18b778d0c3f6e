"""What killed processes hold in the memory of others is given back, and nothing else is touched."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

from user_core.runtime.dds.abandoned_mutexes import release_abandoned_mutexes

AT = 0x5170
#: Larger than any that Linux gives.
DEAD = 2**22 + 7


@pytest.fixture
def port(tmp_path: Path) -> Path:
    file = tmp_path / "fastdds_port7411"
    file.write_bytes(os.urandom(AT) + bytes(40) + os.urandom(1000))
    return file


def hold(file: Path, holder: int, *, lock: int = 2, count: int = 0, kind: int = 128) -> bytes:
    with file.open("r+b") as opened:
        opened.seek(AT)
        opened.write(struct.pack("=iIiIi", lock, count, holder, 1, kind))
    return file.read_bytes()


@pytest.mark.parametrize("lock", [1, 2], ids=["held", "waited for"])
def test_what_the_dead_hold_is_given_back(port: Path, lock: int) -> None:
    before = hold(port, DEAD, lock=lock)
    assert release_abandoned_mutexes(port.parent, 0.0) == [port.name]
    now = port.read_bytes()
    assert now[AT : AT + 20] == struct.pack("=iIiIi", 0, 0, 0, 0, 128)
    assert now[:AT] == before[:AT] and now[AT + 20 :] == before[AT + 20 :]
    assert release_abandoned_mutexes(port.parent, 0.0) == []


def test_what_the_living_hold_is_theirs(port: Path) -> None:
    for holder in (os.getpid(), threading.get_native_id()):
        before = hold(port, holder)
        assert release_abandoned_mutexes(port.parent, 0.0) == []
        assert port.read_bytes() == before


@pytest.mark.parametrize("other", [{"kind": 0}, {"lock": 0}, {"lock": 7}, {"count": 3}], ids=str)
def test_what_is_no_such_mutex_is_left(port: Path, other: dict[str, int]) -> None:
    before = hold(port, DEAD, **other)
    assert release_abandoned_mutexes(port.parent, 0.0) == []
    assert port.read_bytes() == before


def test_what_is_longer_than_such_a_mutex_is_left(port: Path) -> None:
    hold(port, DEAD)
    with port.open("r+b") as opened:
        opened.seek(AT + 28)
        opened.write(b"\x01")
    before = port.read_bytes()
    assert release_abandoned_mutexes(port.parent, 0.0) == []
    assert port.read_bytes() == before


def test_only_ports_are_looked_at(port: Path) -> None:
    other = port.rename(port.with_name("somebody_elses"))
    before = hold(other, DEAD)
    (port.parent / "fastdds_port1").write_bytes(b"x")
    assert release_abandoned_mutexes(port.parent, 0.0) == []
    assert other.read_bytes() == before


def test_one_that_is_taken_anew_meanwhile_is_not_given_back(
    port: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(port, DEAD)
    monkeypatch.setattr("time.sleep", lambda _: hold(port, DEAD + 1))
    assert release_abandoned_mutexes(port.parent, 1.0) == []


def test_one_that_was_free_at_one_of_the_looks_is_left(
    port: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a thread in another PID namespace, which cannot be seen and takes it again and again."""
    hold(port, DEAD)
    looks = iter(range(100))

    def other(_: float) -> None:
        hold(port, DEAD, lock=0 if next(looks) == 7 else 2)

    monkeypatch.setattr("time.sleep", other)
    assert release_abandoned_mutexes(port.parent, 1.0) == []
    assert next(looks) == 8, "not looked at any more"
