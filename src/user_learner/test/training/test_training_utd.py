"""The limiter: neither side runs away, whatever their speeds."""

import math
import random

import pytest

from user_learner.training import UtdConfig, UtdLimiter


def simulate(config, steps_per_tick, updates_per_tick, ticks, call=1, updates=0, steps=0):
    """Both sides at their own speeds; yields (steps, updates) after every tick."""
    limiter, done = UtdLimiter(config), float(updates)
    earned = float(steps)
    for _ in range(ticks):
        earned += steps_per_tick
        limiter.observe(int(earned), int(done))
        room = updates_per_tick
        while room >= call and limiter.permits(int(done), call):
            done += call
            room -= call
        yield int(earned), int(done), limiter


@pytest.mark.parametrize("target", [0.1, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("call", [1, 20])
def test_a_fast_learner_stays_within_its_lead(target, call):
    config = UtdConfig(target=target, learning_starts=100, ahead_steps=10)
    lead = max(target * 10, call)
    for steps, updates, _ in simulate(config, 3, 1000, 400, call):
        assert updates <= max(0, target * (steps - 100)) + lead
        if steps >= 100:  # and it does not fall behind for nothing
            assert updates > target * (steps - 100) - call


def test_a_slow_learner_never_holds_back_and_its_debt_is_bounded():
    config = UtdConfig(target=2.0, learning_starts=0, ahead_steps=10, behind_steps=50)
    for _, _, limiter in simulate(config, 10, 4, 500):
        permitted = limiter
    steps, updates = 5000, 2000
    assert permitted.forgiven > 0
    # The robots stop: what it catches up is bounded.
    more = 0
    permitted.observe(steps, updates)
    while permitted.permits(updates + more, 1):
        more += 1
    assert more <= 2 * (50 + 10)


def test_a_learner_that_caught_up_is_at_the_target_again():
    config = UtdConfig(target=1.0, learning_starts=0, ahead_steps=5, behind_steps=1000)
    *_, (steps, updates, _) = simulate(config, 10, 5, 50)  # slow for a while
    *_, (steps, updates, limiter) = simulate(config, 2, 50, 100, updates=updates, steps=steps)
    assert updates == pytest.approx(steps, abs=6)
    assert limiter.forgiven == 0
    assert limiter.ratio(updates) == pytest.approx(1, rel=0.02)


def test_nothing_is_learned_before_enough_was_collected():
    limiter = UtdLimiter(UtdConfig(target=1.0, learning_starts=100, initial_updates=7))
    limiter.observe(99, 0)
    assert limiter.permits(0, 7)  # but for what is due at the start
    assert not limiter.permits(7, 1)
    limiter.observe(100, 7)
    assert limiter.permits(7, 1)


def test_without_a_target_only_the_start_is_waited_for():
    limiter = UtdLimiter(UtdConfig(target=None, learning_starts=10))
    limiter.observe(9, 0)
    assert not limiter.permits(0, 1)
    limiter.observe(10, 0)
    assert limiter.permits(10**9, 100)
    assert limiter.target == math.inf


def test_it_goes_on_after_a_restart():
    config = UtdConfig(target=1.0, learning_starts=0, ahead_steps=0, behind_steps=20)
    one = UtdLimiter(config)
    one.observe(1000, 100)
    other = UtdLimiter(config)
    other.load_state(one.state())
    other.observe(1000, 100)
    assert other.forgiven == one.forgiven == 880
    assert other.permits(120, 1)
    assert not other.permits(121, 1)


def test_a_store_that_was_replaced_does_not_stop_the_learner():
    config = UtdConfig(target=1.0, learning_starts=100, ahead_steps=5)
    limiter = UtdLimiter(config)
    limiter.observe(10_000, 9900)
    limiter.observe(0, 9900)  # another store: its steps count on top
    limiter.observe(50, 9900)
    assert limiter.permits(9940, 1)
    assert not limiter.permits(9960, 1)


def test_random_speeds_keep_both_bounds():
    rng = random.Random(0)
    for _ in range(50):
        target, ahead = rng.choice([0.5, 1, 5]), rng.randint(0, 30)
        behind, call = rng.randint(0, 200), rng.choice([1, 3, 10])
        config = UtdConfig(target=target, learning_starts=0, ahead_steps=ahead, behind_steps=behind)
        run = simulate(config, rng.uniform(0.1, 20), rng.randint(1, 50), 200, call)
        for steps, updates, limiter in run:
            due = target * steps - limiter.forgiven
            assert updates <= due + max(target * ahead, call) + 1
            assert updates >= due - target * behind - 1


def test_it_says_how_far_it_is_behind_in_environment_steps():
    limiter = UtdLimiter(UtdConfig(target=4.0, learning_starts=100, ahead_steps=10))
    for steps, updates, behind in (
        (0, 0, -100), (60, 0, -40), (100, 0, 0), (150, 0, 50), (150, 120, 20), (150, 240, -10),
    ):  # fmt: skip
        limiter.observe(steps, updates)
        assert limiter.behind(updates) == behind
    assert UtdLimiter(UtdConfig(target=None, learning_starts=0)).behind(7) == 0


def test_what_was_forgiven_is_not_behind():
    limiter = UtdLimiter(UtdConfig(target=1.0, learning_starts=0, behind_steps=50))
    limiter.observe(500, 0)
    assert limiter.behind(0) == 50
