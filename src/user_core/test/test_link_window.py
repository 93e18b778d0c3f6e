"""The window by itself; on simulated links it is tested with the outbox that uses it."""

from user_core.link_window import LinkWindow, Phase

KB = 1000


def window():
    return LinkWindow(64 * KB, 8000 * KB, 0.5, 10.0)


def steady(link, rate_bytes_s=2500 * KB, base_s=0.08, since_s=0.0, rounds=60):
    """One window after the other, answered at the link's rate."""
    now_s = since_s
    for _ in range(rounds):
        nbytes = link.nbytes
        sent = link.sent(nbytes, now_s, 0)
        now_s += max(base_s, nbytes / rate_bytes_s)
        link.answered(sent, nbytes, now_s)
    return now_s


def test_it_starts_small_and_finds_what_the_link_holds():
    link = window()
    assert link.nbytes == 64 * KB
    steady(link)
    assert link.phase is not Phase.START
    assert 200 * KB < link.nbytes < 800 * KB  # the link holds 200 KB
    assert 0.08 <= link.base_s < 0.2


def test_a_loss_halves_and_a_cut_forgets():
    link = window()
    steady(link)
    rate = link.rate_bytes_s
    link.timed_out()
    assert link.rate_bytes_s == 0.5 * rate
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
    now_s = steady(link)
    rate, phase = link.rate_bytes_s, link.phase
    for _ in range(40):
        sent = link.sent(100, now_s, 0, idle=True)
        now_s += 0.5
        link.answered(sent, 100, now_s)
    assert link.rate_bytes_s == rate
    assert link.phase in (phase, Phase.STEADY, Phase.PROBE_BASE)


def test_it_is_paced():
    link = window()
    now_s = steady(link)
    link.sent(100 * KB, now_s, 0)
    assert 0.8 * 100 * KB / link.rate_bytes_s < link.wait_s(now_s)
    assert link.wait_s(now_s + 1.0) == 0.0
