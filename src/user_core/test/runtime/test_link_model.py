"""The window by itself; on simulated links it is tested with the outbox that uses it."""

from collections import deque

import pytest

from user_core.runtime.link_model import LinkWindow, Phase

KB = 1000
MESSAGE = 32 * KB
OTHER_CLOCK_S = 7000.0


def window():
    return LinkWindow(64 * KB, 8000 * KB, 0.5, 10.0)


class Path:
    """A link in virtual time: messages of one size, each answered."""

    def __init__(self, link, rate_bytes_s=2500 * KB, there_s=0.04, back_s=0.04, tells=True):
        self.link, self.tells = link, tells
        self.rate_bytes_s, self.there_s, self.back_s, self.held_s = rate_bytes_s, there_s, back_s, 0
        self.now_s = self.free_s = 0.0
        self.answered = 0
        self.under_way = deque()  # sent, when it arrives, when the answer comes

    def run(self, seconds):
        """Send as fast as the window lets."""
        phases, until_s = set(), self.now_s + seconds
        while self.now_s < until_s:
            while not self.under_way or (  # one may always go
                len(self.under_way) * MESSAGE + MESSAGE <= self.link.nbytes
                and self.link.wait_s(self.now_s) <= 0
            ):
                self._send()
            ready_s = self.now_s + max(1e-4, self.link.wait_s(self.now_s))
            if self.under_way and self.under_way[0][2] <= ready_s:
                self._answer()
            else:
                self.now_s = min(ready_s, self.under_way[0][2])
            phases.add(self.link.phase)
        return phases

    def _send(self):
        sent = self.link.sent(MESSAGE, self.now_s, len(self.under_way) * MESSAGE)
        self.free_s = max(self.free_s, self.now_s) + MESSAGE / self.rate_bytes_s
        arrives_s = self.free_s + self.there_s
        answered_s = arrives_s + self.held_s + self.back_s
        if self.under_way:
            answered_s = max(answered_s, self.under_way[-1][2])
        self.under_way.append((sent, arrives_s, answered_s, self.held_s))

    def _answer(self):
        sent, arrived_s, self.now_s, held_s = self.under_way.popleft()
        self.answered += 1
        told = {}
        if self.tells:
            lag_s = arrived_s - sent.at_s + OTHER_CLOCK_S
            told = {"held_s": held_s, "arrived_s": arrived_s + OTHER_CLOCK_S, "lag_s": lag_s}
        self.link.answered(sent, MESSAGE, self.now_s, **told)


@pytest.mark.parametrize("tells", [True, False])
def test_it_starts_small_and_finds_what_the_link_holds(tells):
    link = window()
    assert link.nbytes == 64 * KB
    Path(link, tells=tells).run(5.0)
    assert link.phase is not Phase.START
    assert 200 * KB < link.nbytes < 500 * KB  # the link holds 200 KB
    assert 0.08 <= link.base_s < 0.11
    assert 2300 * KB < link.rate_bytes_s < 2700 * KB


def test_a_full_way_back_is_not_a_full_link():
    link = window()
    path = Path(link)
    path.run(5.0)
    delivered = path.answered
    for _ in range(5):
        path.back_s = 0.08  # a policy comes down
        path.run(0.5)
        path.back_s = 0.04
        path.run(1.5)
    assert (path.answered - delivered) * MESSAGE > 0.93 * 10.0 * path.rate_bytes_s


def test_what_a_store_holds_back_is_not_the_link():
    link = window()
    path = Path(link)
    path.run(5.0)
    path.held_s = 0.15  # a slow disk
    path.run(5.0)
    assert link.base_s < 0.11
    assert link.rate_bytes_s > 2300 * KB
    assert link.nbytes > 0.23 * link.rate_bytes_s  # enough for the link, in spite of it


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.35])
def test_a_moment_in_which_nothing_passes_does_not_make_the_link_slower(seconds):
    link = window()
    path = Path(link)
    path.run(5.0)
    for _ in range(5):
        path.free_s = max(path.free_s, path.now_s) + seconds
        path.run(2.0)
        assert link.rate_bytes_s > 2300 * KB


def test_a_slower_link_is_noticed():
    link = window()
    path = Path(link)
    path.run(5.0)
    path.rate_bytes_s = 600 * KB
    path.run(4.0)
    assert 400 * KB < link.rate_bytes_s < 700 * KB


def test_a_longer_way_is_not_a_queue_for_ever():
    link = window()
    path = Path(link)
    path.run(5.0)
    path.there_s += 0.06
    path.run(3.0)
    assert link.base_s > 0.13
    path.run(5.0)
    assert link.rate_bytes_s > 2000 * KB


def test_another_clock_at_the_far_end_and_lies_do_no_harm():
    link = window()
    path = Path(link)
    path.run(5.0)
    now_s = path.now_s
    for held_s, lag_s in ((1e9, -1e9), (-5.0, 1e9), (0.01, float(10**12))):
        sent = link.sent(MESSAGE, now_s, MESSAGE)
        now_s += 0.1
        link.answered(sent, MESSAGE, now_s, held_s=held_s, arrived_s=-lag_s, lag_s=lag_s)
    assert link.nbytes < 8000 * KB
    path.now_s = now_s
    path.run(12.0)
    assert link.rate_bytes_s > 2000 * KB


def test_a_loss_does_not_stop_it_and_a_cut_forgets():
    link = window()
    Path(link).run(5.0)
    rate = link.rate_bytes_s
    link.timed_out()
    assert link.rate_bytes_s == rate
    assert link.phase is Phase.DRAIN
    for _ in range(20):
        link.timed_out()
    assert link.nbytes == 64 * KB
    assert link.phase is Phase.START
    assert link.timeout_s == 10.0
    assert link.is_backing_off


def test_what_was_sent_twice_measures_nothing():
    link = window()
    for _ in range(20):
        link.timed_out()
    link.answered(None, 64 * KB, 50.0)
    assert link.timeout_s == 10.0
    assert link.rate_bytes_s == 0.0
    link.answered(link.sent(64 * KB, 50.0, 0), 64 * KB, 50.05)
    assert link.timeout_s < 1.0
    assert not link.is_backing_off


def test_little_to_send_says_nothing_about_the_link():
    link = window()
    path = Path(link)
    path.run(5.0)
    now_s, rate = path.now_s, link.rate_bytes_s
    for _ in range(40):
        sent = link.sent(100, now_s, 0, idle=True)
        now_s += 0.5
        link.answered(sent, 100, now_s)
    assert link.rate_bytes_s == rate


def test_it_is_paced():
    link = window()
    path = Path(link)
    path.run(5.0)
    link.sent(100 * KB, path.now_s, 0)
    assert 0.8 * 100 * KB / link.rate_bytes_s < link.wait_s(path.now_s)
    assert link.wait_s(path.now_s + 1.0) == 0.0
