"""Who may command a robot."""

from __future__ import annotations

import pytest

from user_core.errors import LeaseError
from user_hal.runtime.leases import LeaseBook, LeaseConfig
from user_testing.worlds.robots.hal import FakeTime


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def book(time: FakeTime, changes: list[str]) -> LeaseBook:
    return LeaseBook("arm", LeaseConfig(max_duration_s=10.0), time.clock, changes.append)


def test_one_holder_at_a_time(book: LeaseBook) -> None:
    first = book.acquire("one", 5.0)
    book.check(first.token)
    with pytest.raises(LeaseError, match="leased to 'one' for another 5.0 s"):
        book.acquire("two", 5.0)


def test_tokens_grow_for_ever(book: LeaseBook, time: FakeTime) -> None:
    tokens = [book.acquire("one", 1.0, preempt=True).token for _ in range(5)]
    assert tokens == sorted(set(tokens))
    time.now_ns += 10**9
    restarted = LeaseBook("arm", LeaseConfig(), time.clock)  # another process, later
    assert restarted.acquire("one", 1.0).token > tokens[-1]
    time.epoch_ns -= 10**12  # the clock was set back: the counter still goes up
    newest = restarted.newest_token
    assert restarted.acquire("one", 1.0).token == newest + 1


def test_a_lease_ends_unless_it_is_renewed(book: LeaseBook, time, changes) -> None:
    lease = book.acquire("one", 2.0)
    for _ in range(5):
        time.now_ns += 1_500_000_000
        assert book.renew(lease.token) == lease
    time.now_ns += 2_000_000_000
    with pytest.raises(LeaseError, match="leased to nobody"):
        book.renew(lease.token)
    assert book.current == (None, 0.0) and "ran out after 2 s" in changes[-1]


def test_a_command_renews(book: LeaseBook, time: FakeTime) -> None:
    lease = book.acquire("one", 2.0)
    time.now_ns += 1_900_000_000
    book.check(lease.token)
    assert book.current[1] == pytest.approx(2.0)


def test_an_old_holder_cannot_come_back(book: LeaseBook, changes: list[str]) -> None:
    old = book.acquire("one", 5.0)
    new = book.acquire("two", 5.0, preempt=True)
    for attempt in (book.check, book.renew, book.release):
        with pytest.raises(LeaseError, match="'two' with token"):
            attempt(old.token)
    book.check(new.token)
    assert changes[-1] == "the lease of 'one' was taken over by 'two'"


def test_a_holder_that_was_restarted_gets_a_new_lease_at_once(book: LeaseBook) -> None:
    old = book.acquire("one", 5.0)
    assert book.acquire("one", 5.0).token > old.token
    with pytest.raises(LeaseError):
        book.check(old.token)


def test_release_frees_it(book: LeaseBook) -> None:
    lease = book.acquire("one", 5.0)
    book.release(lease.token)
    assert book.current == (None, 0.0)
    book.acquire("two", 5.0)


def test_without_a_lease_nobody_is_obeyed(book: LeaseBook) -> None:
    with pytest.raises(LeaseError):
        book.check(0)


def test_a_bench_without_leases_obeys_token_zero_until_somebody_takes_one(time) -> None:
    book = LeaseBook("arm", LeaseConfig(required=False), time.clock)
    book.check(0)
    lease = book.acquire("one", 1.0)
    with pytest.raises(LeaseError):
        book.check(0)
    book.release(lease.token)
    book.check(0)
    with pytest.raises(LeaseError):
        book.check(lease.token)


@pytest.mark.parametrize(("holder", "duration_s"), [("", 1.0), ("one", 0.0), ("one", float("nan"))])
def test_requests_without_sense_are_refused(book: LeaseBook, holder, duration_s) -> None:
    with pytest.raises(LeaseError):
        book.acquire(holder, duration_s)


def test_long_wishes_are_cut(book: LeaseBook) -> None:
    assert book.acquire("one", 9999.0).duration_s == 10.0
