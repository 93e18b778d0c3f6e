"""A robot in lockstep is held back while the learner is behind; one in real time never is."""

import pytest

from user_testing.worlds.actor_loop import MS, build, ends_at


def held(backlog=None, **config):
    """A loop of one episode of ten steps, over a robot in lockstep."""
    it = build({"max_backlog_steps": 50.0, **config}, lockstep=True)
    it.reward.ends = ends_at(10)
    if backlog is not None:
        it.loop.backlog.tell(backlog)
    return it


def test_it_goes_on_while_the_learner_keeps_up():
    it = held(40.0)
    begin_ns = it.world.now_ns
    it.run()
    assert len(it.steps()) == 10
    assert it.world.now_ns - begin_ns < 20 * MS


def test_it_stands_still_while_the_learner_is_behind_and_says_so():
    it, seen = held(-3.0), []
    resumed_ns = []

    def behind():
        it.loop.backlog.tell(51.0)
        it.loop.backlog.step()
        it.world.after(
            1000 * MS, lambda: seen.append((it.loop.stats.steps, it.loop.stats.reason.text))
        )
        it.world.after(1500 * MS, caught_up)

    def caught_up():
        it.loop.backlog.tell(40.0)
        resumed_ns.append(it.world.now_ns)

    it.at_step(4, behind)
    it.run()
    assert seen == [(4, "waits for the learner, 52 steps behind")]
    assert len(it.steps()) == 10
    assert it.arm.sent_ns[4] - resumed_ns[0] <= 5 * MS
    assert it.loop.stats.overhead.percentile_ns(99) < 5 * MS, "waiting is no overhead"


def test_it_waits_for_a_learner_that_is_not_heard_or_not_any_more():
    it, seen = held(), []
    it.world.after(100 * MS, lambda: seen.append(len(it.arm.chunks)))
    it.world.after(100 * MS, lambda: it.loop.backlog.tell(0.0))
    it.at_step(3, lambda: it.world.spend(2100 * MS))
    it.world.after(3000 * MS, lambda: seen.append((it.loop.stats.steps, it.loop.stats.reason.text)))
    it.world.after(3000 * MS, lambda: it.loop.backlog.tell(0.0))
    it.run()
    assert seen == [0, (3, "waits for the learner, which is not heard")]
    assert len(it.steps()) == 10


def test_steps_that_the_learner_cannot_know_of_count():
    it, seen = held(46.0), []
    it.world.after(500 * MS, lambda: seen.append(it.loop.stats.steps))
    it.world.after(500 * MS, lambda: it.loop.backlog.tell(0.0))
    it.run()
    assert seen == [5]
    assert len(it.steps()) == 10


def test_an_actor_that_waits_can_be_stopped():
    it = held(1000.0)
    it.world.after(500 * MS, lambda: it.loop.stop("enough"))
    it.run()
    assert it.loop.stats.steps <= 1


@pytest.mark.parametrize(
    ("config", "robot"),
    [
        ({"max_backlog_steps": 50.0}, {"lockstep": False}),
        ({"max_backlog_steps": 0.0}, {"lockstep": True}),
        ({"max_backlog_steps": 50.0, "mode": "evaluation"}, {"lockstep": True}),
    ],
)
def test_who_never_waits(config, robot):
    it = build(config, **robot)
    it.publish(1)
    it.loop.backlog.tell(1e6)
    it.reward.ends = ends_at(10)
    begin_ns = it.world.now_ns
    it.run()
    assert len(it.steps()) == 10
    assert it.world.now_ns - begin_ns < 300 * MS


def test_a_robot_in_lockstep_can_be_given_a_pace():
    it = build({"period_s": 0.05}, lockstep=True)
    it.reward.ends = ends_at(10)
    it.run()
    pauses = [b - a for a, b in zip(it.arm.sent_ns, it.arm.sent_ns[1:], strict=False)]
    assert len(pauses) == 9
    assert all(abs(pause - 50 * MS) <= MS for pause in pauses)
