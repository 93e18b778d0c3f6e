"""A robot obeys the newest grant of the fleet's scheduler, and writes down whom it has obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from user_core.errors import ConfigError, LeaseError, OldGrant, StoreCorrupt, StoreError
from user_core.runtime.processes.grants import GRANT_VARIABLE, grant_of_environment
from user_core.types import Lease
from user_hal.runtime.grants import GrantOrder
from user_hal.runtime.leases import LeaseBook, LeaseConfig
from user_hal.runtime.obeyed import Obeyed, ObeyedLog, out_of_order, overlaps, read_obeyed
from user_testing.worlds.robots.hal import FakeTime


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def book(time: FakeTime, folder: Path | None = None, own: int = 0, changes=None) -> LeaseBook:
    say = (lambda reason: None) if changes is None else changes.append
    return LeaseBook("arm", LeaseConfig(), time.clock, say, GrantOrder(folder, own, "arm"))


def test_a_newer_grant_takes_the_robot_over_and_the_older_one_is_refused_for_ever(time) -> None:
    changes: list[str] = []
    leases = book(time, changes=changes)
    old = leases.acquire("one", 5.0, grant=7)
    new = leases.acquire("two", 5.0, grant=9)  # without preempt
    assert "grant 9 of 'two' has ended the lease of 'one'" in changes[-1]
    for attempt in (leases.check, leases.renew, leases.release):
        with pytest.raises(OldGrant, match="'one' under grant 7, expected grant 9"):
            attempt(old.token)
    leases.release(new.token)  # nobody holds it now, and that makes no difference
    for again in ({}, {"preempt": True}):
        with pytest.raises(OldGrant, match="granted to somebody else since"):
            leases.acquire("one", 5.0, grant=7, **again)
    assert leases.acquire("two", 5.0, grant=9).token > new.token


def test_under_one_grant_it_is_as_without(time) -> None:
    leases = book(time)
    first = leases.acquire("one", 5.0, grant=7)
    with pytest.raises(LeaseError, match="leased to 'one'") as refused:
        leases.acquire("two", 5.0, grant=7)
    assert refused.value.code == "lease"
    assert leases.acquire("two", 5.0, preempt=True, grant=7).token > first.token


@pytest.mark.parametrize("own", [0, 9])
def test_the_newest_grant_outlives_the_process(time, tmp_path: Path, own: int) -> None:
    book(time, tmp_path, own).acquire("two", 5.0, grant=9)
    following = book(time, tmp_path, own)
    with pytest.raises(OldGrant, match="expected grant 9"):
        following.acquire("one", 5.0, grant=8)
    following.acquire("two", 5.0, grant=9)
    with pytest.raises(OldGrant):  # of two processes at once, too
        book(time, tmp_path, own).acquire("one", 5.0, grant=8)


def test_a_hal_that_was_started_under_an_older_grant_is_to_end(time, tmp_path: Path) -> None:
    changes: list[str] = []
    old = book(time, tmp_path, 7, changes)
    lease = old.acquire("one", 5.0, grant=7)
    assert not old.look()
    new = book(time, tmp_path, 9)
    new.acquire("two", 5.0, grant=9)
    why = old.look()
    assert why.code == "old_grant" and "under grant 7, and another under 9" in why.text
    assert old.current[0] is None and changes[-1] == why.text
    with pytest.raises(OldGrant):
        old.check(lease.token)
    with pytest.raises(OldGrant, match="under grant 7, and another under 9"):
        old.acquire("two", 5.0, grant=9)
    with pytest.raises(OldGrant):  # also when it is started again
        GrantOrder(tmp_path, 7, "arm")
    assert not new.look()


def test_a_grant_that_another_process_has_seen_ends_the_lease(time, tmp_path: Path) -> None:
    standing = book(time, tmp_path)
    standing.acquire("one", 50.0, grant=7)
    book(time, tmp_path).acquire("two", 5.0, grant=9)
    assert not standing.look()
    assert standing.current[0] is None


def test_robots_without_a_scheduler_are_as_before_also_after_one(time, tmp_path: Path) -> None:
    leases = book(time, tmp_path)
    leases.acquire("person", 5.0)
    with pytest.raises(LeaseError):
        leases.acquire("another", 5.0)
    leases.acquire("actor", 5.0, grant=3)
    with pytest.raises(OldGrant, match="'person', without a grant, expected grant 3"):
        leases.acquire("person", 5.0, preempt=True)
    later = book(time, tmp_path)  # a person starts the robot, on another day
    later.acquire("person", 5.0)
    with pytest.raises(OldGrant):
        later.acquire("actor", 5.0, grant=2)


def test_under_a_grant_nobody_drives_without_one(time) -> None:
    with pytest.raises(OldGrant, match="without a grant"):
        book(time, own=7).acquire("person", 5.0)


def test_what_cannot_be_remembered_is_not_granted(time, tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="newest grant of 'arm'"):
        book(time, blocked).acquire("one", 5.0, grant=7)
    (tmp_path / "grant.json").write_text("{")
    with pytest.raises(StoreCorrupt, match="Remove it when"):
        book(time, tmp_path, 7)


def test_the_grant_comes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GRANT_VARIABLE, raising=False)
    assert grant_of_environment() == 0
    monkeypatch.setenv(GRANT_VARIABLE, "17")
    assert grant_of_environment() == 17
    for wrong in ("-1", "0", "seven", "9" * 30):
        monkeypatch.setenv(GRANT_VARIABLE, wrong)
        with pytest.raises(ConfigError, match="the number of a grant"):
            grant_of_environment()


# --- whom it obeyed ---


def test_who_was_obeyed_when_is_in_a_file(time, tmp_path: Path) -> None:
    log = ObeyedLog(tmp_path, time.clock)
    begin_ns = time.clock.wall_ns()
    for token, holder in ((5, "one"), (6, "two")):
        log.granted(Lease("arm", holder, token, 5.0), token + 10)
        for _ in range(100):
            log.obeyed(token)
            log.write()
            time.now_ns += 50_000_000
    assert len((tmp_path / "obeyed.jsonl").read_text().splitlines()) < 15  # one a second
    log.write(everything=True)
    first, second = read_obeyed(tmp_path)
    assert first == Obeyed(5, "one", 15, begin_ns, begin_ns + 99 * 50_000_000, 100)
    assert (second.holder, second.grant, second.commands) == ("two", 16, 100)
    assert not overlaps([first, second]) and not out_of_order([first, second])


def test_two_that_were_obeyed_at_once_or_in_the_wrong_order_are_found() -> None:
    one, two = Obeyed(1, "a", 8, 0, 100, 5), Obeyed(2, "b", 7, 50, 60, 5)
    three = Obeyed(3, "c", 9, 70, 80, 1)
    assert overlaps([one, two, three]) == [(one, two), (one, three)]
    assert out_of_order([one, two, three]) == [(one, two)]
    assert overlaps([two, three]) == []


def test_the_log_stays_small_and_a_cut_line_costs_only_itself(time, tmp_path: Path) -> None:
    log = ObeyedLog(tmp_path, time.clock)
    file = tmp_path / "obeyed.jsonl"
    for token in range(1, 4000):
        log.granted(Lease("arm", "somebody with a name", token, 5.0), token)
        log.obeyed(token)
        log.write()
    assert file.stat().st_size < 300 * 1024
    assert len(log.records()) == 500
    with file.open("a") as stream:
        stream.write('{"token": 9999, "hol')
    found = read_obeyed(tmp_path)
    assert found[-1].token == 3999 and len(found) >= 500
